#!/usr/bin/env bash
# emulate_aarch64.sh [--quick] [--torch VERSION]... [WHEEL]: runs the aarch64 build under qemu-user on
# the CPUs of the boards and compares it with this PC, bit for bit:
#
#   the C++ tests                                   on Cortex-A53, A72, A76 and all that qemu knows
#   the wheel with numpy alone, its command line    on Cortex-A53 (Raspberry Pi 3) and A72 (4)
#   networks in float16                             on Cortex-A76 (Raspberry Pi 5)
#   the torch ops, for each --torch VERSION         on Cortex-A72 and, from torch 2.10 on, on A76;
#                                                   2.10 itself only there: it needs armv8.1
#
# --quick leaves out the C++ tests, Cortex-A72 but for torch, the wheel without its command line, and
# networks with random weights. WHEEL is built if it is not given. Needs qemu-user-static and
# g++-aarch64-linux-gnu, and weebill with torch and Pillow in $PYTHON. What is downloaded stays in
# build/aarch64; torch is downloaded (100 to 430 MB) only where --torch asks for it. Of torch from
# 2.11 on, which is a CUDA build, the CUDA part is left out (scripts/without_cuda.py).
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

cpus=(cortex-a53)
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
  case $version in
    2.?.*) cpus=(cortex-a72) ;;
    2.10.*) cpus=(cortex-a76) ;;
    *) cpus=(cortex-a72 cortex-a76) ;;
  esac
  site=lib/python3.11/site-packages
  torch=$target/torch-$version/$site/torch
  # Apart, so that it stays, and without --no-deps pip would add this machine's CUDA libraries.
  if [ ! -e "$torch.complete" ]; then
    scripts/aarch64_environment.sh "torch-$version" --no-deps "torch==$version" typing-extensions \
      sympy mpmath filelock jinja2 markupsafe networkx fsspec
    [ ! -e "$torch/lib/libtorch_cuda.so" ] || "$python" scripts/without_cuda.py "$torch" "$target/root"
    touch "$torch.complete"
  fi
  scripts/aarch64_environment.sh "board-$version" "$wheel[cli,models]" pytest pytest-timeout hypothesis
  echo "$target/torch-$version/$site" > "$target/board-$version/$site/torch.pth"
  for cpu in "${cpus[@]}"; do
    emulated "$cpu" "board-$version" -m tests.emulated.with_torch "$target/networks"
    emulated "$cpu" "board-$version" -m pytest -q --timeout 0 -p no:cacheprovider -k 'not scalar' \
      tests/ops/test_{depthwise_pointwise,inverted_residual,shuffle_unit,run}.py
  done
done
