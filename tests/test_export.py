"""weebill.export: programs of standard ops, and what converters make of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import weebill
from tests.fusion.networks import Net
from weebill import ops
from weebill.export import decompositions, standard_program

SIZES = ({0: Dim("n"), 2: Dim("h", min=8, max=512), 3: Dim("w", min=8, max=512)},)


class Direct(nn.Module):
    """Calls the ops themselves, beside a fused block."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))
        self.depthwise = nn.Parameter(torch.randn(3, 1, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = ops.conv2d(x, self.weight, padding="same", activation="hardswish")
        y = ops.depthwise_conv2d(y, self.depthwise, padding=2, activation="relu6")
        return self.net(y)  # type: ignore[no-any-return]


def names(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [lambda: weebill.convert(Net()), lambda: Direct().eval()])
def test_standard_ops_alone(make: Any) -> None:
    model = make()
    program = standard_program(model, (torch.randn(2, 3, 21, 17),), dynamic_shapes=SIZES)
    assert not [name for name in names(program) if "weebill" in name]
    with torch.no_grad():
        for shape in ((2, 3, 21, 17), (1, 3, 32, 8)):
            x = torch.randn(shape)
            torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


class Same(nn.Module):
    """SAME padding, whose zeros depend on the size, by the ops."""

    def __init__(self, stride: int, kernel: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.randn(4, 3, kernel, kernel))
        self.depthwise = nn.Parameter(torch.randn(4, 1, kernel, kernel))

    def forward(self, x: Tensor) -> Tensor:
        y = ops.conv2d(x, self.weight, None, self.stride, "same")
        return ops.depthwise_conv2d(y, self.depthwise, None, 1, "same")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("size", [(24, 32), (25, 33)])  # of the traced example
@pytest.mark.parametrize(
    "make",
    [
        lambda: Same(2, 3),
        lambda: Same(1, 3),
        lambda: Same(1, 1),
        lambda: Same(2, 1),
        lambda: Same(3, 2),
        lambda: weebill.nn.Conv2dSame(3, 8, 3, 2),
        lambda: weebill.nn.Conv2dSame(3, 8, 2, 3),
        lambda: weebill.nn.Conv2dSame(3, 8, 3, dilation=2),
    ],
)
def test_same_padding_of_every_size(make: Any, size: tuple[int, int]) -> None:
    model = make().eval()
    program = standard_program(model, (torch.randn(2, 3, *size),), dynamic_shapes=SIZES)
    # converters leave the guards out: they must not be needed
    run = program.module(check_guards=False)
    with torch.no_grad():
        for shape in ((2, 3, 24, 32), (1, 3, 25, 32), (1, 3, 32, 25), (3, 3, 35, 37)):
            x = torch.randn(shape)
            torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)


TRAINING = [
    *("normalized_convolution", "normalized_convolution_backward", "normalize", "normalize_sums"),
    *("normalize_shuffle", "unshuffle", "channel_means", "channel_dots", "scale_channels"),
]


def test_every_op_but_run_is_decomposed() -> None:
    known = {op._schema.name for op in decompositions()}
    every = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("weebill::")}
    # of `run` a program has its own way; the other two are in compiled code alone
    others = {"weebill::run", "weebill::run_module", "weebill::run_differentiable"}
    # nodes of training are made of these, and torch sees plain layers where it exports
    others |= {f"weebill::{name}" for name in TRAINING}
    assert {name.partition(".")[0] for name in every} - known == others


def test_bad_models() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got int"):
        standard_program(3, ())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be in evaluation mode, got training"):
        standard_program(Net(), (torch.randn(1, 3, 8, 8),))


@pytest.mark.filterwarnings("ignore")
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = weebill.convert(Net())
    program = standard_program(model, (torch.randn(2, 3, 21, 17),), dynamic_shapes=SIZES)
    torch.onnx.export(program, dynamo=True).save(tmp_path / "net.onnx")
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with torch.no_grad():
        for shape in ((2, 3, 21, 17), (1, 3, 32, 8)):
            x = torch.randn(shape)
            found = torch.from_numpy(session.run(None, {name: x.numpy()})[0])
            torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_executorch(tmp_path: Path) -> None:
    exir = pytest.importorskip("executorch.exir")
    partitioner = pytest.importorskip("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    portable = pytest.importorskip("executorch.extension.pybindings.portable_lib")
    model = weebill.convert(Net())
    x = torch.randn(2, 3, 21, 17)
    lowered = exir.to_edge_transform_and_lower(
        standard_program(model, (x,)), partitioner=[partitioner.XnnpackPartitioner()]
    )
    (tmp_path / "net.pte").write_bytes(lowered.to_executorch().buffer)
    module = portable._load_for_executorch(str(tmp_path / "net.pte"))
    with torch.no_grad():
        expected = model(x)
    found = module.run_method("forward", [x])[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


_LITERT = """
import sys, numpy, torch, litert_torch
program = torch.export.load(sys.argv[1])
x = program.example_inputs[0][0]
numpy.save(sys.argv[2], numpy.asarray(litert_torch.convert(program.module(), (x,))(x)))
"""


@pytest.mark.filterwarnings("ignore")
def test_litert(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    model = weebill.convert(Net())
    x = torch.randn(2, 3, 21, 17)
    torch.export.save(standard_program(model, (x,)), tmp_path / "net.pt2")
    # in a process without weebill: the program needs none of it
    command = [sys.executable, "-c", _LITERT, "net.pt2", "y.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        expected = model(x)
    found = torch.from_numpy(np.load(tmp_path / "y.npy"))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
