"""The ops as citizens of torch: schemas, fake kernels, gradients, autocast, compile, export."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.cases import (
    PLAIN_OPS,
    RUNS,
    arguments,
    call,
    in_double,
    network,
    op,
    op_name,
    reference,
)
from weebill import _python_ops, ops


@pytest.mark.parametrize("name", [*PLAIN_OPS, *RUNS])
def test_opcheck(name: str) -> None:
    # Schema, autograd registration, fake against real, and AOT dispatch with dynamic shapes.
    torch.library.opcheck(op(name), arguments(name))


@pytest.mark.parametrize("name", PLAIN_OPS)
def test_opcheck_with_gradients(name: str) -> None:
    torch.library.opcheck(op(name), arguments(name, requires_grad=True))


@pytest.mark.parametrize("name", [*PLAIN_OPS, *RUNS])
def test_opcheck_static_shapes(name: str) -> None:
    torch.library.opcheck(op(name), arguments(name), test_utils="test_aot_dispatch_static")


@pytest.mark.parametrize("name", [*PLAIN_OPS, *RUNS])
@pytest.mark.parametrize("batch", [0, 1])
def test_fake_has_the_shape_and_strides(name: str, batch: int) -> None:
    x, *rest = arguments(name)
    real = op(name)(x[:batch], *rest)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = op(name)(mode.from_tensor(x[:batch].clone()), *rest)
    assert fake.shape == real.shape
    assert fake.stride() == real.stride()
    assert fake.dtype == real.dtype


def gradients(function: Any, values: tuple[Any, ...], weight: Tensor) -> list[Tensor]:
    y = function(*values)
    inputs = [v for v in values if isinstance(v, Tensor)]
    return list(torch.autograd.grad((y * weight).sum(), inputs))


@pytest.mark.parametrize("way", [op, call])
@pytest.mark.parametrize("name", PLAIN_OPS)
def test_gradients(name: str, way: Any) -> None:
    values = arguments(name, requires_grad=True)
    weight = torch.randn_like(op(name)(*values))
    exact = gradients(reference(name), in_double(values), weight.double())
    for got, want in zip(gradients(way(name), values, weight), exact, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PLAIN_OPS)
def test_reference_gradients_are_derivatives(name: str) -> None:
    values = in_double(arguments(name, requires_grad=True))
    assert torch.autograd.gradcheck(reference(name), values, fast_mode=True)


@pytest.mark.parametrize("way", [op, call])
@pytest.mark.parametrize("name", PLAIN_OPS)
def test_second_derivative(name: str, way: Any) -> None:
    def penalty(function: Any, values: tuple[Any, ...]) -> list[Tensor]:
        inputs = [v for v in values if isinstance(v, Tensor)]
        first = torch.autograd.grad(function(*values).square().sum(), inputs, create_graph=True)
        return list(
            torch.autograd.grad(torch.cat([g.flatten() for g in first]).square().sum(), inputs)
        )

    values = arguments(name, requires_grad=True)
    exact = penalty(reference(name), in_double(values))
    for got, want in zip(penalty(way(name), values), exact, strict=True):
        scale = float(want.abs().max())
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-4 * scale)


def test_gradient_of_only_what_asks() -> None:
    x, weight = torch.randn(1, 3, 4, 4), torch.randn(5, 3, 1, 1, requires_grad=True)
    ops.pointwise_conv2d(x, weight).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[0, :, 0, 0], x.sum((0, 2, 3)))


def test_gradient_of_a_tensor_given_twice() -> None:
    bias = torch.randn(4, requires_grad=True)
    x, dw, pw = torch.randn(1, 4, 3, 3), torch.randn(4, 1, 1, 1), torch.randn(4, 4, 1, 1)
    ops.depthwise_pointwise(x, dw, bias, pw, bias).sum().backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad, 9 + 9 * pw.sum((0, 2, 3)))


def test_run_refuses_to_lose_a_gradient() -> None:
    x, records, geometry = arguments("run")
    x.requires_grad_()
    with pytest.raises(NotImplementedError, match="run: x must not require a gradient, got"):
        ops.run(x, records, geometry)
    with torch.no_grad():
        assert not ops.run(x, records, geometry).requires_grad
    assert not ops.run(x.detach(), records, geometry).requires_grad
    with torch.inference_mode():
        assert ops.run(x, records, geometry).is_inference()


COMPUTING = [name for name in PLAIN_OPS if name != "channel_shuffle"]


@pytest.mark.parametrize("name", [*COMPUTING, *RUNS])
def test_autocast_computes_in_float32(name: str) -> None:
    x, *rest = arguments(name)
    half = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = op(name)(half, *rest)
    assert y.dtype == torch.float32
    assert torch.equal(y, op(name)(half.float(), *rest))


class Network(torch.nn.Module):
    """Plain ops around packed ones, as a converted model has them."""

    def __init__(self) -> None:
        super().__init__()
        records, self.geometry = network()
        self.register_buffer("records", records)
        self.weight = torch.nn.Parameter(torch.randn(6, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.records, Tensor)
        y = ops.conv2d(x, self.weight, None, 2, "same", activation="hardswish")
        return ops.run(torch.relu(y), self.records, self.geometry)


def test_compile_whole_graph() -> None:
    module = Network().eval()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for shape in ((2, 3, 21, 17), (1, 3, 32, 32), (3, 3, 13, 40)):
            x = torch.randn(shape)
            assert torch.equal(compiled(x), module(x))


def test_compile_trains() -> None:
    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return ops.conv2d(x, weight, padding=1, activation="silu").square().sum()

    x, weight = torch.randn(1, 3, 6, 6), torch.randn(4, 3, 3, 3, requires_grad=True)
    (want,) = torch.autograd.grad(loss(x, weight), weight)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (got,) = torch.autograd.grad(compiled(x, weight), weight)
    torch.testing.assert_close(got, want)


def test_export_with_dynamic_shapes() -> None:
    module = Network().eval()
    sizes = {
        0: torch.export.Dim("n"),
        2: torch.export.Dim("h", min=8),
        3: torch.export.Dim("w", min=8),
    }
    with torch.no_grad():
        program = torch.export.export(module, (torch.randn(2, 3, 21, 17),), dynamic_shapes=(sizes,))
        for shape in ((2, 3, 21, 17), (5, 3, 32, 9)):
            x = torch.randn(shape)
            assert torch.equal(program.module()(x), module(x))


def test_copies_of_modules_run() -> None:
    import copy

    module = Network().eval()
    x = torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(module)(x), module(x))


@pytest.mark.parametrize("name", [*PLAIN_OPS, *RUNS])
def test_the_schema_is_the_same_from_python(name: str) -> None:
    stem = op_name(name)
    assert str(op(name)._schema) == f"weebill::{stem}{_python_ops.SCHEMAS[stem]}"


@pytest.mark.parametrize("name", [*PLAIN_OPS, *RUNS])
def test_ops_from_python_give_the_same(name: str, isa: str) -> None:
    values = arguments(name)
    expected = op(name)(*values)
    found = getattr(_python_ops, op_name(name))(*values)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()


def test_all_tests_of_the_ops_pass_with_ops_from_python() -> None:
    """As under torch 2.5 to 2.9: in a process where the library is not loaded."""
    files = ["test_run.py", "test_pool_linear.py", "test_squeeze_excite.py"]
    code = (
        "import sys, pytest, torch, weebill.ops\n"
        "assert type(weebill._ops._kept[0]) is torch.library.Library\n"
        "sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    folder = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", code, *(str(folder / name) for name in files)],
        cwd=folder.parent.parent,
        env={**os.environ, "WEEBILL_TORCH_OPS": "python"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


def test_a_way_that_there_is_not() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import weebill.ops"],
        env={**os.environ, "WEEBILL_TORCH_OPS": "fast"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "WEEBILL_TORCH_OPS must be 'python' or not set, got 'fast'" in result.stderr
