"""Batch normalisation with batch statistics and an activation: values, gradients, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.bounds import ACTIVATIONS, is_channels_last, layouts
from tests.ops.cases import op
from weebill import _ops, _reference

MASK = [True, True, True]
SMOOTH = [name for name in ACTIVATIONS if name in ("none", "silu", "sigmoid")]


def double(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(v.detach().double() if isinstance(v, Tensor) else v for v in values)


def near(got: Tensor, wanted: Tensor, roundings: float = 64) -> None:
    """Within so many roundings of the largest value."""
    assert got.dtype == torch.float32
    assert got.shape == wanted.shape
    off = float((got.double() - wanted).abs().max()) if got.numel() else 0.0
    assert off <= roundings * 2.0**-24 * max(1.0, float(wanted.abs().max())), off


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_and_statistics(activation: str, isa: str) -> None:
    for channels in (1, 2, 3, 17, 22, 50):
        for shape in ((1, 1, 2), (2, 3, 5), (3, 9, 7)):
            x = 2 * torch.randn(shape[0], channels, *shape[1:])
            values = (x, torch.randn(channels), torch.randn(channels), 1e-3, activation)
            y, mean, var = _ops.batch_norm_activation(*values)
            assert is_channels_last(y)
            wanted = _reference.batch_norm_activation(*double(values))
            for got, want in zip((y, mean, var), wanted, strict=True):
                near(got, want)


def test_statistics_far_from_zero(isa: str) -> None:
    """A mean of 1000 deviations costs no digit of the variance."""
    x = 1000 + torch.randn(4, 5, 40, 40)
    x[:, 4] = 7.25
    _, mean, var = _ops.batch_norm_activation(x, None, None, 1e-5, "none")
    exact_var, exact_mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=2.0**-23, atol=0)
    torch.testing.assert_close(var[:4].double(), exact_var[:4], rtol=1e-5, atol=0)
    assert var[4] == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients(activation: str, isa: str) -> None:
    for channels in (1, 3, 17, 50):
        x, dy = 2 * torch.randn(3, channels, 5, 7), torch.randn(3, channels, 5, 7)
        weight, bias = torch.randn(channels), torch.randn(channels)
        _, mean, var = _ops.batch_norm_activation(x, weight, bias, 1e-3, activation)
        inputs = (x, weight, bias, mean, var, 1e-3, activation)
        if activation not in SMOOTH:  # no argument so near a kink that float32 cannot tell
            z, *_ = _reference.batch_norm_activation(*double((*inputs[:3], 1e-3, "none")))
            kinks = torch.tensor([-3.0, -2.5, 0.0, 2.5, 3.0, 6.0], dtype=torch.float64)
            dy[((z[..., None] - kinks).abs() < 1e-5).any(-1)] = 0
        got = _ops.batch_norm_activation_backward(dy, *inputs, MASK)
        assert is_channels_last(got[0])
        exact = double((dy, *inputs, MASK))
        wanted = _reference.batch_norm_activation_backward(*exact)
        for have, want in zip(got, wanted, strict=True):
            near(have, want, 512)


@pytest.mark.parametrize("activation", SMOOTH)
def test_the_reference_is_the_derivative(activation: str) -> None:
    """The formula of the backward against torch's own derivative of the forward, in float64."""
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y, mean, var = _reference.batch_norm_activation(x, weight, bias, 1e-3, activation)
    dy = torch.randn_like(y)
    wanted = torch.autograd.grad(y, (x, weight, bias), dy)
    got = _reference.batch_norm_activation_backward(
        *(dy, x.detach(), weight.detach(), bias.detach(), mean, var, 1e-3, activation, MASK)
    )
    for have, want in zip(got, wanted, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", layouts(torch.zeros(1, 1, 1, 1)))
def test_layouts(layout: str) -> None:
    x, dy = (layouts(torch.randn(2, 20, 7, 6))[layout] for _ in range(2))
    forward = (x, torch.randn(20), None, 1e-3, "silu")
    y, mean, var = _ops.batch_norm_activation(*forward)
    dense = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, _ops.batch_norm_activation(dense, *forward[1:])[0])
    backward = (*forward[:3], mean, var, *forward[3:], [True, False, True])
    got = _ops.batch_norm_activation_backward(dy, *backward)
    assert got[1].shape == (0,)
    wanted = _ops.batch_norm_activation_backward(dy.contiguous(), dense, *backward[1:])
    assert all(torch.equal(have, want) for have, want in zip(got, wanted, strict=True))


def test_threads_do_not_change_a_bit() -> None:
    threads = torch.get_num_threads()
    x, dy = torch.randn(5, 40, 33, 40), torch.randn(5, 40, 33, 40)
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y, *statistics = _ops.batch_norm_activation(x, None, None, 1e-5, "hardswish")
            inputs = (x, None, None, *statistics, 1e-5, "hardswish", MASK)
            results.append((y, *statistics, *_ops.batch_norm_activation_backward(dy, *inputs)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_first_and_second_derivatives() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    weight, bias = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    sources = (x, weight, bias)

    def loss(function: Any, inputs: Any) -> Tensor:
        y, *_ = function(*inputs, 1e-3, "silu")
        weighted: Tensor = (y * torch.linspace(-1, 2, y.numel()).view_as(y)).sum()
        return weighted

    exact = tuple(v.detach().double().requires_grad_() for v in sources)
    got = torch.autograd.grad(loss(_ops.batch_norm_activation, sources), sources, create_graph=True)
    wanted = torch.autograd.grad(
        loss(_reference.batch_norm_activation, exact), exact, create_graph=True
    )
    first = torch.autograd.grad(loss(_ops.batch_norm_activation, sources), sources)
    for a, b, c in zip(first, got, wanted, strict=True):
        torch.testing.assert_close(a.double(), c, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(b.double(), c, rtol=1e-4, atol=1e-4)
    (second,) = torch.autograd.grad(got[0].square().sum(), x)
    (wanted_second,) = torch.autograd.grad(wanted[0].square().sum(), exact[0])
    torch.testing.assert_close(second.double(), wanted_second, rtol=1e-3, atol=1e-3)


def test_opcheck() -> None:
    x, weight = torch.randn(2, 6, 4, 5), torch.randn(6)
    _, mean, var = _ops.batch_norm_activation(x, weight, None, 1e-3, "silu")
    leaf = x.clone().requires_grad_()
    torch.library.opcheck(op("batch_norm_activation"), (leaf, weight, None, 1e-3, "silu"))
    torch.library.opcheck(
        op("batch_norm_activation_backward"),
        (torch.randn_like(x), x, weight, None, mean, var, 1e-3, "silu", MASK),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(0, 3, 4, 4)}, "x must not be empty"),
        ({"x": torch.zeros(2, 3, 4)}, "x must have 4 dimensions"),
        ({"weight": torch.zeros(3).double()}, "weight must be float32, got float64"),
        ({"weight": torch.zeros(4)}, r"weight must have shape \(3,\)"),
        ({"bias": torch.zeros(3, 1)}, r"bias must have shape \(3,\)"),
        ({"eps": -1.0}, "eps must not be negative, got -1"),
        ({"activation": "tanh"}, "activation must be one of"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {
        "x": torch.zeros(2, 3, 4, 4),
        "weight": None,
        "bias": None,
        "eps": 1e-5,
        "activation": "relu",
    }
    # What ops raise is a RuntimeError that names the class where torch has no way to pass it on.
    with pytest.raises((ValueError, RuntimeError), match=f"batch_norm_activation: {message}"):
        _ops.batch_norm_activation(*{**values, **change}.values())
