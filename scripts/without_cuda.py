"""without_cuda.py TORCH ROOT: makes a CUDA build of torch for aarch64 load without CUDA, for tests.

torch's aarch64 wheels from 2.11 on cannot even be imported without CUDA's libraries, gigabytes of
which an emulated board has no use. In TORCH, such a wheel's folder `torch`, the libraries that are
CUDA code and nothing else give way to stubs, and so does every library that is missing then:

    C functions (cuda..., cupti...)  return 100, cudaErrorNoDevice
    C++ functions                    say their name and abort, but for those of _BODIES
    type infos                       a class without bases, by its name
    tables, variables                zeros, as many as in torch's own library

torch.distributed is left out: its module makes objects of NCCL's as soon as it is imported. ROOT
has the system's libraries and Python. Needs g++-aarch64-linux-gnu.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

_CUDA = ("libc10_cuda.so", "libcaffe2_nvrtc.so", "libtorch_cuda*.so", "libtorch_nvshmem.so")
#: The one for symbols without a version, as C++ functions are: they may be in any library.
_ANY = "libtorch_cuda.so"

#: C++ functions that are called without a device.
_BODIES = {
    # a reference to a pointer, which torch's Python library sets when it is loaded
    "_ZN4c10d15get_gil_checkerEv": "static void *checker; return &checker;",
    "_ZN3c104cuda12device_countEv": "return 0;",
}

_HEAD = """\
#include <stdio.h>
#include <stdlib.h>
extern const void *_ZTVN10__cxxabiv117__class_type_infoE[];
"""


class Library(NamedTuple):
    needed: set[str]
    #: Symbols that must come from elsewhere, with their versions; CUDA's are the library's name.
    wanted: dict[str, str]
    #: Its own symbols, with the sizes of those that are not functions.
    defined: dict[str, int]


def read(path: Path) -> Library:
    command = ["aarch64-linux-gnu-readelf", "--wide", "--dynamic", "--dyn-syms", path]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    wanted, defined = {}, {}
    symbol = r"^ *\d+: \w+ +(\w+) (\w+) +(\w+) +\w+ .*?(\w+) ([^@\s]+)(?:@+(\S+))?"
    for size, kind, binding, section, name, version in re.findall(symbol, text, re.MULTILINE):
        if section != "UND":
            defined[name] = int(size, 0) if kind == "OBJECT" else 0
        elif binding == "GLOBAL":
            wanted[name] = version
    return Library(set(re.findall(r"\(NEEDED\).*\[(.*)\]", text)), wanted, defined)


def definition(name: str, size: int) -> str:
    """A symbol of a stub in C, where a name of C++ is one as any other."""
    if name.startswith("_ZTI"):
        class_name = name.removeprefix("_ZTI")
        table = "_ZTVN10__cxxabiv117__class_type_infoE + 2"
        return f'const void *{name}[] = {{{table}, "{class_name}"}};'
    if size:
        return f"long long {name}[{-(-size // 8)}];"
    if name in _BODIES:
        return f"void *{name}(void) {{ {_BODIES[name]} }}"
    if name.startswith("_Z"):
        return f'void {name}(void) {{ fputs("no CUDA: {name}\\n", stderr); abort(); }}'
    return f"int {name}(void) {{ return 100; }}"


def build(path: Path, definitions: list[str]) -> None:
    """A library whose symbols have its name as their version, as CUDA's have."""
    with tempfile.TemporaryDirectory() as folder:
        source, versions = Path(folder, "stub.c"), Path(folder, "stub.map")
        source.write_text(_HEAD + "\n".join(definitions) + "\n")
        versions.write_text(f"{path.name} {{ *; }};\n")
        linker = f"-Wl,-soname,{path.name},--version-script,{versions}"
        command = ["aarch64-linux-gnu-gcc", "-shared", "-fPIC", linker, "-o", path, source]
        subprocess.run(command, check=True)


def replace_cuda(folder: Path, root: Path) -> None:
    cuda = [path for pattern in _CUDA for path in folder.glob(pattern)]
    sizes = {name: size for path in cuda for name, size in read(path).defined.items()}
    for path in cuda:
        path.unlink()
    kept = {path.name: read(path) for path in folder.glob("*.so*")}
    needed = set().union(*(library.needed for library in kept.values()))
    system = {path.name: path for path in root.glob("**/*.so.*") if path.name in needed}
    python = next(root.glob("usr/bin/python3.*"))
    known = set().union(*(library.defined for library in kept.values()))
    known.update(*(read(path).defined for path in (python, *system.values())))
    stubs: dict[str, list[str]] = {name: [] for name in needed - {*kept, *system}}
    wanted = dict(pair for library in kept.values() for pair in library.wanted.items())
    for name in sorted(wanted.keys() - known):
        stubs[wanted[name] or _ANY].append(definition(name, sizes.get(name, 0)))
    for name, definitions in stubs.items():
        build(folder / name, definitions)
    print(f"{sum(map(len, stubs.values()))} symbols of CUDA in {len(stubs)} stubs")


def leave_out_distributed(torch: Path) -> None:
    """As in a build without it, where torch's C module has none of the functions asked for."""
    for path in (torch / "__init__.py", *torch.glob("distributed/**/__init__.py")):
        text = path.read_text()
        path.write_text(re.sub(r'hasattr\(torch\._C, "_\w+_init"\)', "False", text))


if __name__ == "__main__":
    replace_cuda(Path(sys.argv[1], "lib"), Path(sys.argv[2]))
    leave_out_distributed(Path(sys.argv[1]))
