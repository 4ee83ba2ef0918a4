#!/usr/bin/env bash
# emulate_aarch64.sh WHEEL: runs an aarch64 wheel under qemu-user on the CPUs of the boards: networks
# without torch on Cortex-A53 and A72, the torch ops with an aarch64 torch on Cortex-A76 (torch 2.10.0
# needs armv8.1). What it downloads stays in build/aarch64.
set -euo pipefail
cd "$(dirname "$0")/.."

wheel=$(realpath "${1:?usage: emulate_aarch64.sh WHEEL}")
python=${PYTHON:-python3.11}
target=$PWD/build/aarch64
scripts/aarch64_root.sh

install() {  # install FOLDER PACKAGE...: aarch64 packages; --no-deps, or pip asks for the host's
  "$python" -m pip install --quiet --target "$target/$1" --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
    --only-binary=:all: --python-version 311 --no-deps "${@:2}"
}

cached() {  # cached FOLDER PACKAGE...: unless they are there
  local stamp=$target/$1/.complete
  if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "${*:2}" ]; then
    rm -rf "${target:?}/$1"
    install "$@"
    echo "${*:2}" > "$stamp"
  fi
}

emulated() {  # emulated CPU FOLDERS ARGUMENT...: aarch64 Python with these folders on its path
  local start=$SECONDS
  qemu-aarch64-static -L "$target/root" -cpu "$1" -E PYTHONPATH="$2" -E OMP_NUM_THREADS=1 \
    "$target/root/usr/bin/python3.11" "${@:3}"
  echo "$1: ${*:3}: ok, $((SECONDS - start)) s"
}

cached site-numpy numpy==2.4.6
rm -rf "$target/site-weebill"
install site-weebill "$wheel"
board=$target/site-weebill:$target/site-numpy
"$python" tests/emulated/make_models.py "$target/networks"
for cpu in cortex-a53 cortex-a72; do
  emulated "$cpu" "$board" tests/emulated/board.py "$target/networks"
done

cached site-torch torch==2.10.0 typing-extensions sympy mpmath filelock jinja2 markupsafe networkx \
  fsspec
emulated cortex-a76 "$board:$target/site-torch" tests/emulated/with_torch.py
