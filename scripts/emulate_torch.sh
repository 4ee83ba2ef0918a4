#!/usr/bin/env bash
# emulate_torch.sh [--quick] VERSION WHEEL NETWORKS: runs the torch ops of an aarch64 wheel of weebill
# with that version of torch under qemu-user, and compares them with this PC. NETWORKS is the folder
# that tests/emulated/make_models.py made. Which CPU:
#
#   torch before 2.10    Cortex-A72, the ops registered through Python
#   torch 2.10           Cortex-A76, as torch itself needs armv8.1; the ops through the stable ABI
#   later ones           both, the ops as with 2.10; with --quick A76 alone
#
# --quick runs a few checks of each kind in one process, because emulated torch takes ten seconds to
# be imported; otherwise the tests of the ops run, and the installed command.
set -euo pipefail
cd "$(dirname "$0")/.."

quick=
if [ "${1:-}" = --quick ]; then
  quick=--quick
  shift
fi
version=${1:?usage: emulate_torch.sh [--quick] VERSION WHEEL NETWORKS}
wheel=$(realpath "${2:?emulate_torch.sh: no WHEEL}")
networks=${3:?emulate_torch.sh: no NETWORKS}
case $version in
  2.[5-9].*) cpus=(cortex-a72) ;;
  2.10.*) cpus=(cortex-a76) ;;
  *) if [ -n "$quick" ]; then cpus=(cortex-a76); else cpus=(cortex-a72 cortex-a76); fi ;;
esac

environment=$PWD/build/aarch64/board-$version
packages=lib/python3.11/site-packages
scripts/aarch64_torch.sh "$version"
if [ -n "$quick" ]; then
  scripts/aarch64_environment.sh "board-$version" "$wheel[cli,models]"
else
  scripts/aarch64_environment.sh "board-$version" "$wheel[cli,models]" pytest pytest-timeout hypothesis
fi
echo "$PWD/build/aarch64/torch-$version/$packages" > "$environment/$packages/torch.pth"

emulated() {  # emulated CPU ARGUMENT...: the environment's python on that CPU
  local start=$SECONDS
  env -u PYTHONPATH QEMU_CPU="$1" OMP_NUM_THREADS=1 "$environment/bin/python" "${@:2}"
  echo "--- torch $version on $1: python ${*:2}: ok, $((SECONDS - start)) s"
}

for cpu in "${cpus[@]}"; do
  emulated "$cpu" -m tests.emulated.with_torch "$networks" $quick
  [ -n "$quick" ] || emulated "$cpu" -m pytest -q --timeout 0 -p no:cacheprovider -k 'not scalar' \
    tests/ops/test_{depthwise_pointwise,inverted_residual,shuffle_unit,run}.py
done
