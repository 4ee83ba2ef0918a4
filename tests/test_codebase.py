"""Rules on the sources themselves: who may include whom, what the objects of an instruction set may
export, stubs in step with the module, size of files, runnable documentation, and what an import
costs. The rules are explained in csrc/README.md and CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"

# A file includes its own folder's files and those of the folders named here, nothing else of ours.
MAY_INCLUDE = {
    "bindings": {"core"},
    "compat": set[str](),
    "core": {"kernels/args.h", "simd/half.h"},
    "isa": {"kernels", "simd", "core/kernels.def"},
    "kernels": {"simd"},
    "simd": set[str](),
}
# What the objects built with -m flags may see of the system: nothing with templates or classes.
PLAIN_HEADERS = {
    "stdint.h",
    "cstdint",
    "stddef.h",
    "cstddef",
    "math.h",
    "immintrin.h",
    "arm_neon.h",
}
TEXT_SUFFIXES = {".py", ".pyi", ".h", ".inl", ".cpp", ".def", ".md", ".cmake", ".toml", ".txt"}


def cxx_sources() -> list[Path]:
    return sorted(p for p in CSRC.rglob("*") if p.suffix in {".h", ".inl", ".cpp", ".def"})


def includes(path: Path) -> list[tuple[str, str]]:
    """The (kind, name) of every #include: kind is '"' or '<'."""
    return re.findall(r'^\s*#\s*include\s*(["<])([^">]+)[">]', path.read_text(), re.MULTILINE)


def plain(path: Path, header: str) -> bool:
    emulated = "emulated" in path.name and header.startswith("simde/x86/")
    return header in PLAIN_HEADERS or emulated


def allowed(folder: str, name: str) -> bool:
    target = name.split("/")[0]
    return target == folder or target in MAY_INCLUDE[folder] or name in MAY_INCLUDE[folder]


def include_errors(folder: str, path: Path) -> list[str]:
    errors = []
    for kind, name in includes(path):
        if kind == '"' and not allowed(folder, name):
            errors.append(f"{path.name} in csrc/{folder} includes {name}")
        if kind == '"' and not (CSRC / name).is_file():
            errors.append(f"{path.name} includes {name}, which is not a path from csrc/")
        if kind == "<" and folder in {"isa", "kernels", "simd"} and not plain(path, name):
            errors.append(f"{path.name} in csrc/{folder} includes <{name}>")
        if folder != "bindings" and name.startswith(("torch/", "ATen/", "c10/", "pybind11/")):
            errors.append(f"{path.name} in csrc/{folder} includes <{name}>")
    return errors


def test_includes_go_one_way() -> None:
    errors = []
    for path in cxx_sources():
        folder = path.relative_to(CSRC).parts[0]
        assert folder in MAY_INCLUDE, f"csrc/{folder} has no place in the include rule"
        errors += include_errors(folder, path)
    assert errors == []


def test_include_rule_finds_a_wrong_include(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.h"
    wrong.write_text('#include "core/dispatch.h"\n#include <vector>\n#include "kernels/args.h"\n')
    assert include_errors("kernels", wrong) == [
        "wrong.h in csrc/kernels includes core/dispatch.h",
        "wrong.h in csrc/kernels includes <vector>",
    ]


def isa_objects() -> list[Path]:
    """Objects of csrc/isa in every build under build/: other compilers, other architectures too.
    Emulated ones are for tests only and full of another project's inline functions."""
    objects = (ROOT / "build").glob("*/csrc/isa/CMakeFiles/weebill_isa_*.dir/*.o")
    # SIMDe's functions and the sanitizers' bookkeeping are symbols too, and are never shipped
    return sorted(p for p in objects if "emulated" not in p.name and "asan" not in p.parts)


def symbol_errors(listing: str) -> list[str]:
    """Reads the output of nm. Defined external symbols are tables; no weak one, which the linker
    could take for the whole library; nothing from the C++ library."""
    errors = []
    external = []
    for line in listing.splitlines():
        kind, name = line.split()[-2:]
        if kind in "VWvwu":
            errors.append(f"weak symbol {name}")
        elif kind.isupper() and kind != "U":
            external.append(name)
        if re.match(r"_ZN?K?(St|Sa|Ss|9__gnu_cxx)", name):
            errors.append(f"{name} is of the C++ library")
    if not external or not all("kTable" in line for line in external):
        errors.append(f"external symbols must be tables, got {external}")
    return errors


def test_isa_objects_export_their_table_only() -> None:
    nm = shutil.which("nm")
    objects = isa_objects()
    if nm is None or not objects:
        pytest.skip("needs nm and a build under build/ (cmake --preset dev)")
    errors = {}
    for path in objects:
        listing = subprocess.run([nm, path], check=True, capture_output=True, text=True).stdout
        if found := symbol_errors(listing):
            errors[str(path.relative_to(ROOT))] = found
    assert errors == {}


def test_symbol_rule_finds_wrong_symbols() -> None:
    table = "0000000000000000 R _ZN7weebill4avx26kTableE\n"
    assert symbol_errors(table + "                 U memcpy\n00 t _ZL4localv\n") == []
    assert symbol_errors(table + "00 W _ZSt3maxIfERKT_S2_S2_\n") == [
        "weak symbol _ZSt3maxIfERKT_S2_S2_",
        "_ZSt3maxIfERKT_S2_S2_ is of the C++ library",
    ]
    assert len(symbol_errors(table + "00 T _ZN7weebill5helpEv\n")) == 1
    assert len(symbol_errors("")) == 1


def test_stub_names_what_the_module_has() -> None:
    from weebill import _C

    tree = ast.parse((ROOT / "python/weebill/_C.pyi").read_text())
    stub = set[str]()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            stub.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            stub.add(node.target.id)
    hidden = {"__doc__", "__file__", "__loader__", "__name__", "__package__", "__spec__"}
    assert stub == set(dir(_C)) - hidden


def test_every_kernel_is_documented() -> None:
    from weebill import _C

    kernels = (CSRC / "core/kernels.def").read_text()
    lines = re.findall(r"^WEEBILL_(BLOCK_)?KERNEL\((\w+),", kernels, re.MULTILINE)
    floats = [f"{name}_f32" if block else name for block, name in lines]
    halves = [f"{name}_f16" for block, name in lines if block]
    halves += re.findall(r"^WEEBILL_HALF_KERNEL\((\w+),", kernels, re.MULTILINE)
    listed = floats + halves
    assert [name for name, _ in _C.kernel_list()] == listed
    readme = (CSRC / "README.md").read_text()
    assert [name for name in listed if f"`{name}`" not in readme] == []


def committed_files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone")
    names = subprocess.run(
        [git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_is_too_long() -> None:
    long = {}
    for path in committed_files():
        if path.suffix in TEXT_SUFFIXES:
            lines = len(path.read_text().splitlines())
            if lines > 500:
                long[str(path.relative_to(ROOT))] = lines
    assert long == {}


def code_blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)


PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]


# torch compiles formulas of its own for forward mode
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", PAGES)
def test_documented_code_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in code_blocks(name):
        exec(compile(block, name, "exec"), namespace)


IMPORTS = [
    "weebill",
    "weebill.config",
    "weebill.data",
    "weebill.doctor",
    "weebill.runtime",
    "weebill.cli",
    "weebill._C",
]


def test_converting_leaves_the_compiler_of_torch_alone() -> None:
    code = (
        "import weebill, sys; weebill.convert, weebill.nn; sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", IMPORTS)
def test_import_leaves_torch_alone(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
