#!/usr/bin/env bash
# Makes build/aarch64/root: an aarch64 Debian 12 with Python 3.11 and its headers, to cross-compile
# against and to run under qemu-user. Only unpacks packages: the host's own packages, architectures
# and apt state stay as they are, and root is not needed. What is there already is not made again.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$PWD/build/aarch64
root=$target/root
stamp=$root/.complete
mkdir -p "$target"
exec 9> "$root.lock"
flock 9  # another one may be at it
packages=(libpython3.11-stdlib python3.11-minimal libpython3.11-dev libstdc++6 libgomp1 libssl3 zlib1g)
if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "${packages[*]}" ]; then exit 0; fi

rm -rf "$root"
state=$target/apt
mkdir -p "$state"/{lists/partial,archives/partial} "$root"
touch "$state/status"
export APT_CONFIG=$state/apt.conf
cat > "$APT_CONFIG" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "$(id -un)";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "4";
Dir::State "$state";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state";
Dir::Cache::archives "$state/archives";
Dir::Log "$state";
Debug::NoLocking "true";
END
apt-get -qq update
apt-get -qq --download-only -y install "${packages[@]}" > /dev/null
for package in "$state"/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --no-same-owner
done
rm -rf "$state"

# Python's headers in one folder: Debian's pyconfig.h chooses the architecture's own by a path that
# a compiler finds only with the whole of usr/include, which would shadow its C library's headers.
mkdir -p "$root/python-include"
cp -r "$root"/usr/include/python3.11/. "$root/python-include"
cp "$root"/usr/include/aarch64-linux-gnu/python3.11/pyconfig.h "$root/python-include"
# Under qemu-user programs see the host's /proc/cpuinfo unless the root has its own; what an
# emulated core says here is not read by weebill's detection, but other libraries crash without it.
mkdir -p "$root/proc"
printf 'processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n' \
  > "$root/proc/cpuinfo"
# Emulated, Python takes five times as long to compile a module.
"${PYTHON:-python3.11}" -m compileall -q "$root/usr/lib/python3.11"
echo "${packages[*]}" > "$stamp"
