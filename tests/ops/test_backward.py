"""Gradients on kernels: exact within the bound of their sums, in every layout, for every window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.bounds import ACTIVATIONS, gamma, is_channels_last, layouts
from tests.ops.cases import BACKWARD_OPS, PLAIN_OPS, arguments, in_double, op, reference
from tests.ops.test_depthwise_conv2d import WINDOWS
from weebill import _gradients, _ops, _reference, ops

MASK = [True, True, True]


def check(got: Sequence[Tensor], exact: Any, values: Sequence[Tensor], roundings: int) -> None:
    """Against `exact` in float64; the bound is that of a sum of |a| |b|, which the same formula
    gives on absolute values."""
    doubled = [v.double() for v in values]
    wanted, size = exact(*doubled), exact(*(v.abs() for v in doubled))
    for have, want, most in zip(got, wanted, size, strict=True):
        assert have.dtype == torch.float32
        assert have.shape == want.shape
        off = (have.double() - want).abs()
        assert bool((off <= gamma(roundings) * most + 2.0**-149).all()), float(off.max())


def check_depthwise(x: Tensor, window: str, dy_layout: str = "contiguous") -> None:
    kernel, stride, padding, dilation = WINDOWS[window]
    pads = [-1] if padding == "same" else list(padding)
    weight = torch.randn(x.shape[1], 1, *kernel)
    y = ops.depthwise_conv2d(x, weight, None, stride, padding, dilation)
    dy = layouts(torch.randn(y.shape))[dy_layout]
    mode: Any = (list(stride), pads, list(dilation))
    got = _ops.depthwise_conv2d_backward(dy, x, weight, *mode, MASK)
    assert is_channels_last(got[0])

    def exact(*values: Any) -> Any:
        return _reference.depthwise_conv2d_backward(*(*values, *mode, MASK))

    check(got, exact, (dy, x, weight), x.shape[0] * y.shape[2] * y.shape[3] + weight[0].numel())


@pytest.mark.parametrize("window", WINDOWS)
def test_depthwise(window: str, isa: str) -> None:
    for channels in (1, 2, 3, 17, 22, 50, 90):
        check_depthwise(torch.randn(2, channels, 9, 12), window)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 3), (8, 29), (15, 1)])
@pytest.mark.parametrize("window", ["3x3", "3x3 s2", "5x5", "5x5 s2", "3x3 same s2", "5x5 dilated"])
def test_depthwise_sizes(size: tuple[int, int], window: str, isa: str) -> None:
    check_depthwise(torch.randn(3, 19, *size), window)


def test_depthwise_in_strips(isa: str) -> None:
    for window in ("3x3", "5x5 s2", "7x7 s3"):
        check_depthwise(torch.randn(1, 80, 70, 150), window)


@pytest.mark.parametrize("window", ["3x3", "5x5", "3x3 s2", "5x5 s2"])
@pytest.mark.parametrize("channels", [48, 56])
def test_depthwise_past_the_caches(channels: int, window: str, isa: str) -> None:
    """Gradients of some megabytes, whose pixels begin with lines or in the middle of them."""
    x = torch.randn(8, channels, 56, 56).to(memory_format=torch.channels_last)
    assert x.numel() > 1 << 20
    check_depthwise(x, window, "channels_last")


@pytest.mark.parametrize("window", ["3x3", "5x5", "3x3 s2", "5x5 s2"])
def test_depthwise_of_many_channels(window: str, isa: str) -> None:
    """Taps and rows of which the first cache holds a part."""
    for shape in ((9, 312, 7, 7), (2, 408, 14, 14)):
        check_depthwise(torch.randn(shape).to(memory_format=torch.channels_last), window)


@pytest.mark.parametrize("layout", layouts(torch.zeros(1, 1, 1, 1)))
def test_depthwise_layouts(layout: str) -> None:
    x = layouts(torch.randn(2, 20, 7, 6))[layout]
    check_depthwise(x, "3x3 s2", layout)


def check_pointwise(x: Tensor, outputs: int, dy_layout: str = "contiguous") -> None:
    weight = torch.randn(outputs, x.shape[1], 1, 1)
    dy = layouts(torch.randn(x.shape[0], outputs, *x.shape[2:]))[dy_layout]
    got = _ops.pointwise_conv2d_backward(dy, x, weight, MASK)
    assert is_channels_last(got[0])

    def exact(*values: Any) -> Any:
        return _reference.pointwise_conv2d_backward(*(*values, MASK))

    check(got, exact, (dy, x, weight), x.shape[0] * x.shape[2] * x.shape[3] + outputs)


@pytest.mark.parametrize("outputs", [1, 5, 6, 14, 15, 24, 40])
def test_pointwise(outputs: int, isa: str) -> None:
    for channels in (1, 2, 3, 17, 22, 50):
        check_pointwise(torch.randn(2, channels, 5, 7), outputs)


def test_pointwise_in_groups(isa: str) -> None:
    check_pointwise(torch.randn(2, 19, 50, 51), 23)


@pytest.mark.parametrize("layout", layouts(torch.zeros(1, 1, 1, 1)))
def test_pointwise_layouts(layout: str) -> None:
    check_pointwise(layouts(torch.randn(2, 20, 7, 6))[layout], 9, layout)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "none"])
def test_activations_have_the_gradient_of_autograd(activation: str) -> None:
    """Bit for bit, at the kinks and beyond."""
    z = torch.cat([torch.arange(-16, 17) / 2, torch.tensor([-0.0, torch.inf, -torch.inf])])
    z = torch.cat([z, torch.randn(100)]).requires_grad_()
    grad = torch.randn(z.shape)
    (wanted,) = torch.autograd.grad(_reference.ACTIVATIONS[activation](z), z, grad)
    with torch.no_grad():
        found = _gradients._before_activation(activation, z.clone, grad)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(5, 40, 33, 40), (17, 200, 7, 7)])
@pytest.mark.parametrize("name", BACKWARD_OPS)
def test_threads_do_not_change_a_bit(name: str, shape: tuple[int, ...]) -> None:
    threads = torch.get_num_threads()
    channels = shape[1]
    dw = (torch.randn(shape), torch.randn(shape), torch.randn(channels, 1, 5, 5))
    values: dict[str, tuple[Any, ...]] = {
        "depthwise_conv2d_backward": (*dw, [1, 1], [2, 2, 2, 2], [1, 1], MASK),
        "pointwise_conv2d_backward": (dw[0], dw[1], torch.randn(channels, channels, 1, 1), MASK),
    }
    results = []
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            results.append(op(name)(*values[name]))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", BACKWARD_OPS)
def test_batch_of_none(name: str) -> None:
    dy, x, *rest = arguments(name)
    got = op(name)(dy[:0], x[:0], *rest)
    assert got[0].shape == (0, *x.shape[1:])
    assert not got[1].any()
    assert not got[2].any()


@pytest.mark.parametrize("name", BACKWARD_OPS)
def test_mask(name: str) -> None:
    values = arguments(name)
    everything = op(name)(*values)
    for wanted in range(8):
        mask = [bool(wanted >> i & 1) for i in range(3)]
        for given, gradient, full in zip(
            mask, op(name)(*values[:-1], mask), everything, strict=True
        ):
            assert gradient.shape == (full.shape if given else (0,))
            assert not given or torch.equal(gradient, full)


@pytest.mark.parametrize("name", BACKWARD_OPS)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_wrong_shapes_are_refused(name: str, position: int) -> None:
    values = list(arguments(name))
    values[position] = torch.randn(2, 5, 4, 3)
    with pytest.raises(ValueError, match=f"^{name}: .* must "):
        op(name)(*values)
    values[position] = values[position].double()
    with pytest.raises(RuntimeError, match=f"TypeError: {name}: .* must be float32"):
        op(name)(*values)


def test_filters_per_channel_are_not_supported_by_the_kernel() -> None:
    x = torch.randn(1, 3, 5, 5, requires_grad=True)
    weight = torch.randn(6, 1, 3, 3, requires_grad=True)
    window = ([1, 1], [1, 1, 1, 1], [1, 1])
    with pytest.raises(RuntimeError, match="NotImplementedError: .* one filter per channel"):
        _ops.depthwise_conv2d_backward(torch.randn(1, 6, 5, 5), x.detach(), weight, *window, MASK)
    ops.depthwise_conv2d(x, weight, None, *window).sum().backward()
    wanted = torch.autograd.grad(F.conv2d(x, weight, None, 1, 1, 1, 3).sum(), (x, weight))
    for tensor, want in zip((x, weight), wanted, strict=True):
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, want)


@pytest.mark.parametrize("name", PLAIN_OPS)
def test_gradients_use_the_kernels(name: str) -> None:
    """What is documented to run on kernels does: in the profile of a backward."""
    values = arguments(name, requires_grad=True)
    y = op(name)(*values)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        y.sum().backward()
    found = {event.key for event in profile.key_averages()}
    expected = {
        "depthwise_conv2d": {BACKWARD_OPS[0]},
        "pointwise_conv2d": {BACKWARD_OPS[1]},
        "squeeze_excite": {BACKWARD_OPS[1]},
        "depthwise_pointwise": set(BACKWARD_OPS),
        "inverted_residual": set(BACKWARD_OPS),
        "shuffle_unit": set(BACKWARD_OPS),
        "shuffle_unit_v1": {BACKWARD_OPS[0]},
    }.get(name.split(":")[0], set())
    assert expected == {kernel for kernel in BACKWARD_OPS if f"weebill::{kernel}" in found}


@pytest.mark.parametrize("name", BACKWARD_OPS)
def test_opcheck(name: str) -> None:
    torch.library.opcheck(op(name), arguments(name))
    torch.library.opcheck(op(name), arguments(name), test_utils="test_aot_dispatch_static")
    torch.library.opcheck(op(name), arguments(name, requires_grad=True))


@pytest.mark.parametrize("name", BACKWARD_OPS)
def test_its_own_gradient(name: str) -> None:
    values = arguments(name, requires_grad=True)
    exact = in_double(values)

    def loss(function: Any, inputs: tuple[Any, ...]) -> list[Tensor]:
        total = sum(gradient.square().sum() for gradient in function(*inputs))
        return list(torch.autograd.grad(total, inputs[:3]))

    wanted = loss(reference(name), exact)
    for got, want in zip(loss(op(name), values), wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
