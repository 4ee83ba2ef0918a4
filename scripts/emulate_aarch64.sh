#!/usr/bin/env bash
# emulate_aarch64.sh [--quick] [--torch VERSION]... [WHEEL]: runs the aarch64 build under qemu-user on
# the CPUs of the boards and compares it with this PC, bit for bit:
#
#   the C++ tests                                   on Cortex-A53, A72, A76 and all that qemu knows
#   the wheel with numpy alone, its command line    on Cortex-A53 (Raspberry Pi 3) and A72 (4), and
#                                                   on all that qemu knows but SVE
#   networks in float16                             on Cortex-A76 (Raspberry Pi 5)
#   the torch ops, for each --torch VERSION         on Cortex-A72 or A76, from 2.11 on on both
#
# --quick leaves out the C++ tests, Cortex-A72 but for torch before 2.10, the wheel without its command
# line, networks with random weights, and most of the torch ops' tests. WHEEL is built if it is not
# given. Needs qemu-user-static and g++-aarch64-linux-gnu, and weebill with torch and Pillow in
# $PYTHON. What is downloaded stays in build/aarch64; torch is downloaded only where --torch asks for
# it (scripts/emulate_torch.sh).
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

emulated() {  # emulated CPU NAME ARGUMENT...: the environment's python on that CPU
  timed "$1: python ${*:3}" env -u PYTHONPATH QEMU_CPU="$1" OMP_NUM_THREADS=1 "$target/$2/bin/python" "${@:3}"
}

if [ -z "$wheel" ]; then
  scripts/build_wheel.sh aarch64 build/dist
  wheel=$(realpath build/dist/weebill-*aarch64.whl)
fi

cpus=(cortex-a53 max,sve=off)  # emulated SVE takes fifteen times as long
if [ -z "$quick" ]; then
  cpus+=(cortex-a72)
  cmake --preset arm64
  cmake --build --preset arm64
  for cpu in cortex-a53 cortex-a72 cortex-a76 max; do
    timed "$cpu: C++ tests" env QEMU_CPU="$cpu" ctest --preset arm64
  done
fi

"$python" -m tests.emulated.make_models "$target/networks" ${quick:+--trained}
scripts/aarch64_environment.sh board "$wheel[cli]"
[ -n "$quick" ] || scripts/aarch64_environment.sh bare "$wheel"
for cpu in "${cpus[@]}"; do
  [ -n "$quick" ] || emulated "$cpu" bare tests/minimal.py
  emulated "$cpu" board -m tests.emulated.board "$target/networks"
done
emulated cortex-a76 board -m tests.emulated.board "$target/networks" --float16

for version in "${torches[@]}"; do
  scripts/emulate_torch.sh ${quick:+--quick} "$version" "$wheel" "$target/networks"
done
