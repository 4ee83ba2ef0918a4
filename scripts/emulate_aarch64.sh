#!/usr/bin/env bash
# emulate_aarch64.sh [--quick] [--torch VERSION]... [WHEEL]: runs the aarch64 build under qemu-user on
# the CPUs of the boards and compares it with this PC, bit for bit:
#
#   the C++ tests                                   on Cortex-A53, A72, A76 and all that qemu knows
#   the wheel with numpy alone, its command line    on Cortex-A53 (Raspberry Pi 3) and A72 (4)
#   the torch ops, for each --torch VERSION         on Cortex-A72, or with torch 2.10 on A76: that
#                                                   torch needs armv8.1
#
# --quick leaves out the C++ tests and Cortex-A72. WHEEL is built if it is not given. Needs
# qemu-user-static and g++-aarch64-linux-gnu, and weebill with torch and Pillow in $PYTHON. What is
# downloaded stays in build/aarch64; torch is only downloaded (100 to 430 MB) where --torch asks for it.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
target=$PWD/build/aarch64
quick=
torches=()
wheel=
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --torch) torches+=("${2:?--torch needs a version}"); shift ;;
    -*) echo "emulate_aarch64.sh: no option $1" >&2; exit 2 ;;
    *) wheel=$(realpath "$1") ;;
  esac
  shift
done

timed() {  # timed WHAT COMMAND...
  local start=$SECONDS
  "${@:2}"
  echo "--- $1: ok, $((SECONDS - start)) s"
}

install() {  # install FOLDER ARGUMENT...: packages for the board; markers are this machine's
  "$python" -m pip install --quiet --no-compile --target "$1" --platform manylinux_2_28_aarch64 \
    --platform manylinux2014_aarch64 --only-binary=:all: --python-version 311 "${@:2}"
}

environment() {  # environment NAME: a virtual environment whose python is the emulated one
  local folder=$target/$1
  rm -rf "$folder"
  mkdir -p "$folder"/{bin,lib/python3.11/site-packages}
  printf 'home = %s\nversion = 3.11\n' "$target/root/usr/bin" > "$folder/pyvenv.cfg"
  # qemu takes the CPU from QEMU_CPU. Programs that Python starts, it starts through this file too.
  cat > "$folder/bin/python" <<END
#!/bin/sh
exec qemu-aarch64-static -L '$target/root' -0 '$folder/bin/python' '$target/root/usr/bin/python3.11' "\$@"
END
  chmod +x "$folder/bin/python"
}

add() {  # add NAME ARGUMENT...: install into an environment, commands too
  local folder=$target/$1
  local site=$folder/lib/python3.11/site-packages
  install "$site" "${@:2}"
  for script in "$site"/bin/*; do
    sed "1s|.*|#!$folder/bin/python|" "$script" > "$folder/bin/${script##*/}"
    chmod +x "$folder/bin/${script##*/}"
  done
}

cached() {  # cached NAME ARGUMENT...: a folder of packages that is not downloaded again
  local folder=$target/$1
  if [ "$(cat "$folder/.complete" 2>/dev/null)" != "${*:2}" ]; then
    rm -rf "$folder"
    install "$folder" "${@:2}"
    echo "${*:2}" > "$folder/.complete"
  fi
}

emulated() {  # emulated CPU NAME ARGUMENT...: the environment's python on that CPU
  timed "$1: python ${*:3}" env -u PYTHONPATH QEMU_CPU="$1" OMP_NUM_THREADS=1 "$target/$2/bin/python" "${@:3}"
}

scripts/aarch64_root.sh
if [ -z "$wheel" ]; then
  scripts/build_wheel.sh aarch64 build/dist
  wheel=$(realpath build/dist/weebill-*aarch64.whl)
fi

cpus=(cortex-a53)
if [ -z "$quick" ]; then
  cpus+=(cortex-a72)
  cmake --preset arm64
  cmake --build --preset arm64
  for cpu in cortex-a53 cortex-a72 cortex-a76 max; do
    timed "$cpu: C++ tests" env QEMU_CPU="$cpu" ctest --preset arm64
  done
fi

"$python" -m tests.emulated.make_models "$target/networks"
environment bare
add bare "$wheel"
environment board
add board "$wheel[cli]"
for cpu in "${cpus[@]}"; do
  emulated "$cpu" bare tests/minimal.py
  emulated "$cpu" board -m tests.emulated.board "$target/networks"
done

for version in "${torches[@]}"; do
  case $version in
    2.10.*) cpu=cortex-a76 ;;
    *) cpu=cortex-a72 ;;
  esac
  # Without --no-deps pip would take the CUDA libraries of this machine's markers for the board's.
  cached "torch-$version" --no-deps "torch==$version" typing-extensions sympy mpmath filelock jinja2 \
    markupsafe networkx fsspec
  environment "board-$version"
  add "board-$version" "$wheel[cli,models]" pytest pytest-timeout hypothesis
  echo "$target/torch-$version" > "$target/board-$version/lib/python3.11/site-packages/torch.pth"
  emulated "$cpu" "board-$version" -m tests.emulated.with_torch "$target/networks"
  emulated "$cpu" "board-$version" -m pytest -q --timeout 0 -p no:cacheprovider tests/ops/test_registration.py
done
