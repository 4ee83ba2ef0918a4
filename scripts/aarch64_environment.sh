#!/usr/bin/env bash
# aarch64_environment.sh NAME PIP_ARGUMENT...: makes build/aarch64/NAME, a virtual environment of aarch64
# packages whose bin/python and commands run under qemu-user, with the CPU of QEMU_CPU. pip decides
# by this machine's markers what a package needs.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/aarch64_root.sh
root=$PWD/build/aarch64/root
folder=$PWD/build/aarch64/$1
site=$folder/lib/python3.11/site-packages
rm -rf "$folder"
mkdir -p "$folder/bin" "$site"
printf 'home = %s\nversion = 3.11\n' "$root/usr/bin" > "$folder/pyvenv.cfg"
# Programs that Python starts, it starts through this file too.
cat > "$folder/bin/python" <<END
#!/bin/sh
exec \${QEMU_AARCH64:-qemu-aarch64-static} -L '$root' -0 '$folder/bin/python' '$root/usr/bin/python3.11' "\$@"
END
chmod +x "$folder/bin/python"
# pip takes these tags as they are: older ones are not implied.
platforms=(--platform manylinux2014_aarch64)
for minor in {17..28}; do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
"${PYTHON:-python3.11}" -m pip install --quiet --no-compile --target "$site" "${platforms[@]}" \
  --only-binary=:all: --python-version 311 "${@:2}"
# An emulated Python takes five times as long to compile a module. What torch does not import by
# itself, most of its code, is left out.
"${PYTHON:-python3.11}" -m compileall -q -x \
  'torch/(_inductor|_vendor|testing/_internal|distributed/[a-z]\w*|ao/(nn|pruning))/|/(networkx|tests)/' "$site"
for script in "$site"/bin/*; do
  if [ -f "$script" ]; then
    sed "1s|.*|#!$folder/bin/python|" "$script" > "$folder/bin/${script##*/}"
    chmod +x "$folder/bin/${script##*/}"
  fi
done
