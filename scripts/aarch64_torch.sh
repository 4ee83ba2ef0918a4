#!/usr/bin/env bash
# aarch64_torch.sh VERSION: makes build/aarch64/torch-VERSION, an environment of torch's aarch64 wheel
# (100 to 430 MB are downloaded) and what it imports, to emulate. Of a CUDA build, as torch is from
# 2.11 on, the CUDA part is left out (without_cuda.py). What is there already is not made again.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:?usage: aarch64_torch.sh VERSION}
environment=$PWD/build/aarch64/torch-$version
site=$environment/lib/python3.11/site-packages
mkdir -p build/aarch64
exec 8> "$environment.lock"
flock 8  # another one may be at it
[ ! -e "$environment/.complete" ] || exit 0
# Without --no-deps pip would add this machine's CUDA libraries.
scripts/aarch64_environment.sh "torch-$version" --no-deps "torch==$version" typing-extensions sympy \
  mpmath filelock jinja2 markupsafe networkx fsspec
if [ -e "$site/torch/lib/libtorch_cuda.so" ]; then
  "${PYTHON:-python3.11}" scripts/without_cuda.py "$site/torch" "$PWD/build/aarch64/root"
fi
touch "$environment/.complete"
