"""Ops of which nodes of training are made, as citizens of torch: schemas, fake kernels, graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.test_normalized_convolution import LAYERS, Case
from weebill import _ops, _training_fake

pytestmark = pytest.mark.skipif(not _ops.native, reason="without the library's ops")

ops = torch.ops.weebill


def image(*shape: int) -> Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


def layer(name: str, lazy: bool) -> tuple[Any, ...]:
    case = Case(name, lazy)
    return case.x, *case.before, *case.rest


def backward(name: str, lazy: bool, mask: tuple[bool, ...] = (True,) * 4) -> tuple[Any, ...]:
    case = Case(name, lazy)
    z, rows = case.forward()
    dy = torch.randn_like(z)
    sums = ops.normalize_sums(dy, z, rows, "silu")
    return dy, z, rows, sums, case.x, *case.before, *case.rest, list(mask)


def backward_into() -> tuple[Any, ...]:
    """With the gradient by x in the second half of another image's channels."""
    values = backward("pointwise", True)
    n, c, h, w = values[4].shape
    return *values, image(n, 2 * c, h, w)[:, c:]


X = (2, 10, 5, 4)

#: What follows a colon tells several cases of an op apart.
CASES = {
    "normalized_convolution": lambda: layer("k3 s2", True),
    "normalized_convolution:pointwise": lambda: layer("pointwise", False),
    "normalized_convolution:SAME": lambda: layer("SAME", True),
    "normalized_convolution:any": lambda: layer("any window", False),
    "normalized_convolution_backward": lambda: backward("k5 s2", True),
    "normalized_convolution_backward:pointwise": lambda: backward("pointwise", False),
    "normalized_convolution_backward:x": lambda: backward(
        "pointwise", True, (True, False, False, False)
    ),
    "normalized_convolution_backward:parameters": lambda: backward(
        "k3 s1", True, (False, True, True, True)
    ),
    "normalized_convolution_backward:into": backward_into,
    "normalize": lambda: (image(*X), torch.rand(4, 10), "hardswish"),
    "normalize_sums": lambda: (image(*X), image(*X), torch.rand(4, 10), "relu"),
    "normalize_shuffle": lambda: (image(2, 20, 5, 4)[:, :10], image(*X), torch.rand(4, 10), "relu"),
    "unshuffle": lambda: (image(*X), image(*X)[:, 5:]),
    "channel_means": lambda: (image(*X),),
    "channel_dots": lambda: (image(*X), image(*X)),
    "scale_channels": lambda: (image(*X), torch.randn(2, 10), torch.randn(2, 10)),
    "scale_channels:only": lambda: (image(*X), torch.randn(2, 10), None),
}


def op_of(case: str) -> Any:
    return getattr(ops, case.partition(":")[0]).default


def as_tuple(found: Any) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else tuple(found)


def test_every_op_of_the_library_has_a_fake_kernel() -> None:
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("weebill::")]
    assert {n.removeprefix("weebill::") for n in names} >= _training_fake.KERNELS.keys()
    for name in names:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta"), name
    assert {case.partition(":")[0] for case in CASES} == _training_fake.KERNELS.keys()


@pytest.mark.parametrize("name", CASES)
def test_opcheck(name: str) -> None:
    """Schema (what is changed, and what shares memory), registrations, fake against real, and
    graphs with dynamic shapes."""
    torch.library.opcheck(op_of(name), CASES[name]())


@pytest.mark.parametrize("name", CASES)
def test_opcheck_static_shapes(name: str) -> None:
    torch.library.opcheck(op_of(name), CASES[name](), test_utils="test_aot_dispatch_static")


@pytest.mark.parametrize("name", CASES)
def test_fake_has_the_shape_and_strides(name: str) -> None:
    values = CASES[name]()
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(v) if isinstance(v, Tensor) else v for v in values]
        found = as_tuple(op_of(name)(*fakes))
    for fake, real in zip(found, as_tuple(op_of(name)(*values)), strict=True):
        assert (fake.shape, fake.stride()) == (real.shape, real.stride())
        assert (fake.dtype, fake.device) == (real.dtype, real.device)


@pytest.mark.parametrize("name", LAYERS)
def test_fake_of_every_window(name: str) -> None:
    x, *rest = layer(name, False)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake, _ = ops.normalized_convolution(mode.from_tensor(x), *rest)
    real, _ = ops.normalized_convolution(x, *rest)
    assert (fake.shape, fake.stride()) == (real.shape, real.stride())


@pytest.mark.parametrize("name", CASES)
def test_meta_tensors_are_refused(name: str) -> None:
    values = [v.to("meta") if isinstance(v, Tensor) else v for v in CASES[name]()]
    with pytest.raises(TypeError, match="must be on the cpu, got meta"):
        op_of(name)(*values)


@pytest.mark.parametrize("dynamic", [False, True])
def test_graphs_of_halves(dynamic: bool) -> None:
    """What is changed in place is a part of another tensor, and is changed there."""

    def halves(y: Tensor) -> tuple[Tensor, Tensor]:
        whole = torch.zeros_like(y)
        second = ops.unshuffle.default(y, whole[:, : y.shape[1] // 2])
        return whole, second

    compiled = torch.compile(halves, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for shape in ((2, 6, 5, 4), (3, 10, 4, 7)):
        y = image(*shape)
        for got, want in zip(compiled(y), halves(y), strict=True):
            assert torch.equal(got, want)
