"""examples/aoti: a package of AOTInductor with fused calls runs in a program without Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

import weebill
from tests.fusion.networks import Net

EXAMPLE = Path(__file__).parents[2] / "examples" / "aoti"


def build(folder: Path) -> Path:
    cmake = shutil.which("cmake", path=Path(sys.executable).parent) or shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    if not (Path(torch.__file__).parent / "include" / "ATen" / "core" / "Tensor.h").exists():
        pytest.skip("this torch comes without its C++ headers")
    options = [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}", "-DCMAKE_BUILD_TYPE=Debug"]
    for command in (
        [cmake, "-S", str(EXAMPLE), "-B", str(folder), *options],
        [cmake, "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run_package"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return weebill.convert(Net())


@pytest.fixture(scope="module")
def package(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = {0: Dim("n"), 2: Dim("h", min=8, max=512), 3: Dim("w", min=8, max=512)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what it will drop
        x = torch.randn(2, 3, 21, 17)
        exported = torch.export.export(model, (x,), dynamic_shapes=(sizes,))
        path = tmp_path_factory.mktemp("aoti") / "net.pt2"
        made: str = torch._inductor.aoti_compile_and_package(exported, package_path=str(path))
    return made


SHAPES = ((2, 3, 21, 17), (1, 3, 8, 40))


def test_runs_in_python(model: nn.Module, package: str) -> None:
    load = torch._inductor.aoti_load_package(package)
    with torch.no_grad():
        for shape in SHAPES:
            x = torch.randn(shape)
            torch.testing.assert_close(load(x), model(x), rtol=1e-5, atol=1e-6)


def test_runs_without_python(model: nn.Module, package: str, tmp_path: Path) -> None:
    program = build(tmp_path)
    library = find_spec("weebill._torch_ops")
    assert library is not None
    for shape in SHAPES:
        x = torch.randn(shape)
        done = subprocess.run(
            [program, package, str(library.origin), *map(str, shape)],
            input=x.numpy().tobytes(),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        found = torch.from_numpy(np.frombuffer(done.stdout, np.float32).copy())
        with torch.no_grad():
            expected = model(x)
        torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)
