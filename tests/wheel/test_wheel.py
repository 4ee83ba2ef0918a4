"""A wheel must load and run on every Linux of its architecture that its tag promises: old CPUs, old
libraries, large pages. Checked on the finished file, for the architecture of this machine or
another; `scripts/build_wheel.sh` makes one."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.wheel import instructions

ALLOWED_EXPORTS = {
    "_C": re.compile(r"PyInit__C"),
    "_torch_ops": re.compile(r"(?!)"),
    "libweebill": re.compile(r"_Z(TI|TS|TV|NK?)?N?7weebill\d"),
}
# The most that the tag manylinux_2_28 allows; torch's library is the user's.
POLICY = "manylinux_2_28"
USERS = frozenset({"libtorch_cpu.so"})


def architecture(wheel: Path) -> str:
    return wheel.stem.rsplit("manylinux_2_28_", 1)[1]


@pytest.fixture(scope="session")
def libraries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    found = sorted(folder.rglob("*.so*"))
    assert {path.name.split(".")[0] for path in found} == set(ALLOWED_EXPORTS)
    assert len(found) == len(ALLOWED_EXPORTS), "nothing else that happened to lie about"
    return found


def readelf(library: Path, *options: str) -> str:
    command = ["readelf", "--wide", *options, str(library)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_size(wheel: Path) -> None:
    assert wheel.stat().st_size < 3_000_000


def test_module_is_named_after_the_architecture(wheel: Path, libraries: list[Path]) -> None:
    names = [path.name for path in libraries if path.name.startswith("_C.")]
    assert len(names) == 1
    assert architecture(wheel) in names[0]


def test_instructions(wheel: Path, libraries: list[Path]) -> None:
    arch = architecture(wheel)
    assert {path.name: instructions.beyond(path, arch) for path in libraries} == {
        path.name: [] for path in libraries
    }


def test_kernels_are_told_apart(wheel: Path, libraries: list[Path]) -> None:
    core = next(path for path in libraries if path.name == "libweebill.so")
    arch = architecture(wheel)
    assert set(instructions.disassembly(core, arch)) == set(instructions.MARCH[arch])


def test_segments(libraries: list[Path]) -> None:
    for library in libraries:
        lines = readelf(library, "--segments").splitlines()
        loads = [line.split() for line in lines if line.strip().startswith("LOAD")]
        assert loads, library
        # pages of 4, 16 and 64 KB
        assert all(int(fields[-1], 16) % 65536 == 0 for fields in loads), library
        stack = next(line for line in lines if "GNU_STACK" in line)
        assert "RWE" not in stack, f"{library.name} asks for an executable stack"
        assert any("GNU_RELRO" in line for line in lines), library


def test_exports(libraries: list[Path]) -> None:
    for library in libraries:
        allowed = ALLOWED_EXPORTS[library.name.split(".")[0]]
        symbols = [line.split() for line in readelf(library, "--dyn-syms").splitlines()]
        exported = [
            fields[7]
            for fields in symbols
            if len(fields) >= 8 and fields[4] in {"GLOBAL", "WEAK", "UNIQUE"} and fields[6] != "UND"
        ]
        assert [name for name in exported if not allowed.match(name)] == [], library
        assert exported or library.name == "_torch_ops.so"


def test_needs_the_systems_libraries_only(libraries: list[Path]) -> None:
    base = {"libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "libpthread.so.0"}
    loaders = {"ld-linux-aarch64.so.1", "ld-linux-x86-64.so.2"}
    for library in libraries:
        dynamic = readelf(library, "--dynamic")
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
        extra = USERS if library.name == "_torch_ops.so" else frozenset()
        assert needed - base - loaders - extra <= {"libweebill.so"}, library
        assert "TEXTREL" not in dynamic
        runpath = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", dynamic)
        assert runpath in ([], ["$ORIGIN"]), library


def test_no_path_of_the_building_machine(libraries: list[Path]) -> None:
    root = str(Path(__file__).resolve().parents[2]).encode()
    for library in libraries:
        content = library.read_bytes()
        assert root not in content, library
        assert b"site-packages" not in content, library


def test_platform_tag(wheel: Path) -> None:
    from auditwheel import wheel_abi

    found = wheel_abi.analyze_wheel_abi(
        None, None, wheel, USERS, disable_isa_ext_check=False, allow_graft=False
    )
    promised = next(p for p in found.policies if p.name.startswith(POLICY))
    assert found.overall_policy.priority >= promised.priority, found.overall_policy.name


@pytest.mark.skipif(shutil.which("as") is None, reason="needs binutils")
def test_the_assembler_refuses_what_is_beyond() -> None:
    known = ["addps  %xmm1,%xmm0", "mov    %rax,(%rdi)", "endbr64"]
    new = ["vaddps %ymm0,%ymm1,%ymm2", "sha1msg1 %xmm0,%xmm1", "vaddps %zmm0,%zmm1,%zmm2"]
    march = instructions.MARCH["x86_64"]
    errors = instructions.refused(known + new, "x86_64", march[instructions.BASELINE])
    assert sorted(error.split(": ")[0] for error in errors) == sorted(new)
    errors = instructions.refused(known + new, "x86_64", march["avx2"])
    assert sorted(error.split(": ")[0] for error in errors) == sorted(new[1:])


def test_symbol_policy_matches_names() -> None:
    core = ALLOWED_EXPORTS["libweebill"]
    assert core.match("_ZN7weebill4packERKNS_10Conv2dSpecE")
    assert core.match("_ZTIN7weebill10ValueErrorE")
    assert not core.match("_ZNSt6vectorIfSaIfEE17_M_realloc_insertE")
