#!/usr/bin/env bash
# build_wheel.sh x86_64|aarch64 [FOLDER]: builds a manylinux_2_28 wheel into FOLDER (default dist/)
# with the compilers of this machine, for the Python that runs; aarch64 with Debian's cross compiler
# for Python 3.11. One commit, compiler and torch always give the same bytes. Needs the `build`
# dependency group and, for the torch ops, torch >= 2.10 of this machine's own architecture: only its
# headers are read. Releases come from cibuildwheel (pyproject.toml), for every Python.
set -euo pipefail
cd "$(dirname "$0")/.."

arch=${1:?usage: build_wheel.sh x86_64|aarch64 [FOLDER]}
out=${2:-dist}
python=${PYTHON:-python3.11}
umask 022
# The files in the wheel carry the commit's time.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

source=$PWD/build/wheel-$arch/source
version=cp$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
settings=(
  -C "wheel.tags=$version-$version-manylinux_2_28_$arch"
  -C "build-dir=$source/build/cmake"  # as deep as any other build
  -C cmake.define.WEEBILL_OLD_LIBRARIES=ON
  -C "cmake.define.WEEBILL_TORCH=${WEEBILL_TORCH:-ON}"
)
case $arch in
  x86_64) ;;
  aarch64)
    scripts/aarch64_root.sh
    settings+=(
      -C "cmake.define.CMAKE_TOOLCHAIN_FILE=$PWD/cmake/toolchain-aarch64.cmake"
      -C "cmake.define.Python_INCLUDE_DIR=$PWD/build/aarch64/root/python-include"
      -C cmake.define.PYBIND11_USE_CROSSCOMPILING=ON
    )
    # Without it the module would be named after this machine.
    export SETUPTOOLS_EXT_SUFFIX=.cpython-311-aarch64-linux-gnu.so
    ;;
  *)
    echo "build_wheel.sh: no way to build for $arch" >&2
    exit 2
    ;;
esac

# To a compiler cache the copy's sources are those of any other build.
[ -z "${CCACHE_BASEDIR:-}" ] || export CCACHE_BASEDIR=$source/csrc

# From a copy of what git tracks, changes included: nothing that lies about gets into a wheel.
changed=$(git stash create)
mkdir -p "$source" "$out"
find "$source" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
git archive "${changed:-HEAD}" | tar -x -C "$source"
"$python" -m pip wheel --quiet --no-build-isolation --no-deps -w "$out" "${settings[@]}" "$source"
ls -l "$out"/weebill-*"$version-manylinux_2_28_$arch".whl
