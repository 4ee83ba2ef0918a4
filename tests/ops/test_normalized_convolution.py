"""The ops that layers in training run on: convolutions between normalisations, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.bounds import gamma, is_channels_last
from weebill import _ops, _reference

pytestmark = pytest.mark.skipif(not _ops.native, reason="without the library's ops")

ops = torch.ops.weebill

# Channels in and out, size, kernel (0: 1 x 1), stride, padding, dilation.
LAYERS = {
    "pointwise": (19, 37, (5, 7), 0, 1, 0, 1),
    "pointwise of many pixels": (8, 24, (33, 40), 0, 1, 0, 1),
    "pointwise of few pixels": (70, 130, (2, 3), 0, 1, 0, 1),
    "k3 s1": (20, 20, (9, 7), 3, 1, 1, 1),
    "k3 s2": (33, 33, (11, 8), 3, 2, 1, 1),
    "k5 s1": (16, 16, (6, 13), 5, 1, 2, 1),
    "k5 s2": (50, 50, (12, 9), 5, 2, 2, 1),
    "any window": (7, 7, (12, 13), 4, 3, 2, 2),
    "SAME": (18, 18, (8, 9), 5, 2, -1, 1),
    "no padding": (6, 6, (7, 9), 3, 1, 0, 1),
    "large": (40, 40, (60, 64), 3, 1, 1, 1),
}


def window(layer: tuple[Any, ...]) -> tuple[list[int], list[int], list[int]]:
    *_, stride, padding, dilation = layer
    return [stride] * 2, [-1] if padding < 0 else [padding] * 4, [dilation] * 2


def statistics_of(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return torch.stack([mean, var, weight / (var + eps).sqrt(), bias])


def normalised(z: Tensor, rows: Tensor, activation: str) -> Tensor:
    mean, _, scale, shift = rows[:, :, None, None]
    y: Tensor = _reference.ACTIVATIONS[activation]((z - mean) * scale + shift)
    return y


def convolve(x: Tensor, weight: Tensor, layer: tuple[Any, ...]) -> Tensor:
    if layer[3] == 0:
        return _reference.pointwise_conv2d(x, weight, None, "none")
    return _reference.depthwise_conv2d(x, weight, None, *window(layer), "none")


def close(got: Tensor, wanted: Tensor, terms: int) -> None:
    """Within the roundings of a sum of so many terms, relative to the largest value."""
    bound = (16 + 2 * terms**0.5) * 2.0**-23 * max(1e-3, float(wanted.abs().max()))
    assert got.shape == wanted.shape
    assert float((got.double() - wanted).abs().max()) <= bound


class Case:
    """A layer with random values; `lazy`: its input comes through a normalisation."""

    def __init__(self, name: str, lazy: bool, images: int = 3) -> None:
        torch.manual_seed(0)
        self.layer = LAYERS[name]
        c_in, c_out, size, kernel, *_ = self.layer
        self.x = torch.randn(images, c_in, *size).to(memory_format=torch.channels_last)
        shape = (c_out, 1, kernel, kernel) if kernel else (c_out, c_in, 1, 1)
        self.weight = torch.randn(shape)
        self.scale, self.shift = torch.rand(c_out) + 0.5, torch.randn(c_out)
        self.rows = statistics_of(self.x, torch.rand(c_in) + 0.5, torch.randn(c_in), 1e-3)
        self.before = (self.rows if lazy else None, "silu" if lazy else "none")
        self.lazy = lazy
        self.rest = (self.weight, self.scale, self.shift, 1e-3, "silu", *window(self.layer))

    def forward(self) -> tuple[Tensor, Tensor]:
        z, rows = ops.normalized_convolution(self.x, *self.before, *self.rest)
        return z, rows

    def backward(self, dy: Tensor, mask: list[bool]) -> tuple[Tensor, ...]:
        z, rows = self.forward()
        sums = ops.normalize_sums(dy, z, rows, "silu")
        found: tuple[Tensor, ...] = ops.normalized_convolution_backward(
            dy, z, rows, sums, self.x, *self.before, *self.rest, mask
        )
        return found


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_forward(name: str, lazy: bool, isa: str) -> None:
    case = Case(name, lazy)
    z, rows = case.forward()
    assert is_channels_last(z)
    x = case.x.double()
    read = normalised(x, case.rows.double(), "silu") if lazy else x
    wanted = convolve(read, case.weight.double(), case.layer)
    close(z, wanted, case.weight[0].numel())
    exact = statistics_of(z.double(), case.scale.double(), case.shift.double(), 1e-3)
    for got, want in zip(rows, exact, strict=True):
        close(got, want, 1)
    close(ops.normalize(z, rows, "silu"), normalised(z.double(), exact, "silu"), 1)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_backward(name: str, lazy: bool, isa: str) -> None:
    case = Case(name, lazy)
    z, _ = case.forward()
    dy = torch.randn(z.shape).to(memory_format=torch.channels_last)
    by_x, by_weight, by_scale, by_shift, sums = case.backward(dy, [True] * 4)
    assert is_channels_last(by_x)
    x = case.x.double()
    read = normalised(x, case.rows.double(), "silu") if lazy else x
    leaves = [
        v.double().detach().requires_grad_() for v in (read, case.weight, case.scale, case.shift)
    ]
    y, *_ = _reference.batch_norm_activation(
        convolve(leaves[0], leaves[1], case.layer), leaves[2], leaves[3], 1e-3, "silu"
    )
    wanted = torch.autograd.grad(y, leaves, dy.double())
    pixels = dy.numel() // dy.shape[1]
    close(by_x, wanted[0], case.weight.numel() // case.x.shape[1] + 256)
    for got, want in zip((by_weight, by_scale, by_shift), wanted[1:], strict=True):
        close(got, want, pixels)
    if not lazy:
        assert sums.shape == (0,)
        return
    mean, _, scale, shift = case.rows.double()[:, :, None, None]
    u = ((x - mean) * scale + shift).detach().requires_grad_()
    (g,) = torch.autograd.grad(_reference.ACTIVATIONS["silu"](u), u, by_x.double())
    size = float(g.abs().sum((0, 2, 3)).max())
    for got, want in zip(sums, (g.sum((0, 2, 3)), (g * (x - mean)).sum((0, 2, 3))), strict=True):
        assert float((got - want).abs().max()) <= 64 * 2.0**-23 * size


def test_what_is_not_wanted_is_left_out() -> None:
    for name in ("pointwise", "k3 s1"):
        case = Case(name, lazy=True)
        z, _ = case.forward()
        dy = torch.randn(z.shape).to(memory_format=torch.channels_last)
        full = case.backward(dy, [True] * 4)
        for left_out in range(4):
            found = case.backward(dy, [i != left_out for i in range(4)])
            assert found[left_out].numel() == 0
            for i, (have, want) in enumerate(zip(found, full, strict=True)):
                if i != left_out and not (i == 4 and left_out == 0):
                    assert torch.equal(have, want)


@pytest.mark.parametrize("name", LAYERS)
def test_threads_do_not_change_a_bit(name: str) -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            case = Case(name, lazy=True, images=9)
            z, rows = case.forward()
            torch.manual_seed(1)
            dy = torch.randn(z.shape).to(memory_format=torch.channels_last)
            results.append((z, rows, *case.backward(dy, [True] * 4)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_pixels_of_a_part_of_the_channels() -> None:
    """The second half of a tensor's channels is read where it lies."""
    whole = torch.randn(2, 24, 6, 5).to(memory_format=torch.channels_last)
    part = whole[:, 12:]
    for weight, padding in ((torch.randn(20, 12, 1, 1), 0), (torch.randn(12, 1, 3, 3), 1)):
        rest = (None, "none", weight, None, None, 1e-5, "none", [1, 1], [padding] * 4, [1, 1])
        got = ops.normalized_convolution(part, *rest)
        want = ops.normalized_convolution(part.contiguous(), *rest)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_the_gradient_goes_where_it_is_asked_for() -> None:
    """Into a part of the channels of another tensor, and nowhere beside it."""
    case = Case("pointwise", lazy=True)
    z, rows = case.forward()
    dy = torch.randn(z.shape).to(memory_format=torch.channels_last)
    sums = ops.normalize_sums(dy, z, rows, "silu")
    values = (dy, z, rows, sums, case.x, *case.before, *case.rest, [True] * 4)
    n, c, h, w = case.x.shape
    whole = torch.full((n, 2 * c, h, w), 7.0).to(memory_format=torch.channels_last)
    empty, *rest = ops.normalized_convolution_backward(*values, whole[:, c:])
    wanted, *others = ops.normalized_convolution_backward(*values)
    assert empty.shape == (0,)
    assert torch.equal(whole[:, c:], wanted)
    assert bool((whole[:, :c] == 7).all())
    assert all(torch.equal(a, b) for a, b in zip(rest, others, strict=True))


@pytest.mark.parametrize("channels", [1, 3, 16, 29, 58])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 5, 7), (3, 8, 1), (5, 16, 17)])
def test_shuffle_and_back(channels: int, size: tuple[int, int, int], isa: str) -> None:
    n, h, w = size
    whole = torch.randn(n, 2 * channels, h, w).to(memory_format=torch.channels_last)
    z = torch.randn(n, channels, h, w).to(memory_format=torch.channels_last)
    rows = statistics_of(
        torch.randn(4, channels, 2, 2), torch.randn(channels), torch.randn(channels), 1e-3
    )
    beside = whole[:, :channels]
    y = ops.normalize_shuffle(beside, z, rows, "relu")
    assert is_channels_last(y)
    assert torch.equal(y[:, ::2], beside)
    assert torch.equal(y[:, 1::2], ops.normalize(z, rows, "relu"))
    back = torch.full_like(whole, 7.0)
    second = ops.unshuffle(y, back[:, channels:])
    assert torch.equal(back[:, channels:], y[:, ::2])
    assert torch.equal(second, y[:, 1::2])
    assert bool((back[:, :channels] == 7).all())


@pytest.mark.parametrize("channels", [1, 7, 16, 50])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 7), (2, 32, 31)])
def test_numbers_per_image(channels: int, size: tuple[int, int, int], isa: str) -> None:
    n, h, w = size
    x, dy = (torch.randn(n, channels, h, w).to(memory_format=torch.channels_last) for _ in range(2))
    scale, shift = torch.randn(n, channels), torch.randn(n, channels)
    exact, pixels = x.double(), h * w
    by_image, offset = (v.double()[:, :, None, None] for v in (scale, shift))
    products, scaled = dy.double() * exact, exact * by_image

    def check(got: Tensor, wanted: Tensor, size: Tensor, terms: int) -> None:
        """A sum of so many terms, whose absolute values add up to `size`."""
        assert got.shape == wanted.shape
        assert bool(((got.double() - wanted).abs() <= gamma(terms) * size).all())

    check(ops.channel_means(x), exact.mean((2, 3)), exact.abs().mean((2, 3)), pixels + 1)
    check(ops.channel_dots(dy, x), products.sum((2, 3)), products.abs().sum((2, 3)), pixels)
    check(ops.scale_channels(x, scale, None), scaled, scaled.abs(), 1)
    check(ops.scale_channels(x, scale, shift), scaled + offset, scaled.abs() + offset.abs(), 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: ops.scale_channels(x, torch.ones(8), None),
            r"scale_channels: scale must be \(2, 8\)",
        ),
        (lambda x: ops.channel_means(x.contiguous()), "channel_means: x must be dense and channe"),
        (lambda x: ops.channel_dots(x[:1], x), "channel_dots: grad_output must have the shape"),
        (lambda x: ops.unshuffle(x, x[:, :3]), "unshuffle: first must have half of the channels"),
        (
            lambda x: ops.normalize_shuffle(x[:, ::2], x[:, :4], torch.ones(4, 4), "none"),
            "normalize_shuffle: first must be channels of a dense channels_last tensor",
        ),
        (lambda x: ops.normalize(x, torch.ones(4, 7), "none"), r"normalize: statistics must be"),
    ],
)
def test_bad_input_of_the_others(call: Any, message: str) -> None:
    x = torch.randn(2, 8, 4, 5).to(memory_format=torch.channels_last)
    with pytest.raises((ValueError, RuntimeError), match=message):
        call(x)


def test_statistics_far_from_zero() -> None:
    """A mean of 1000 deviations costs no digit of the variance but those of z itself."""
    torch.manual_seed(0)
    x = 1000 + torch.randn(4, 5, 40, 40).to(memory_format=torch.channels_last)
    weight = torch.eye(5)[:, :, None, None]
    z, rows = ops.normalized_convolution(
        x, None, "none", weight, None, None, 1e-5, "none", [1, 1], [0] * 4, [1, 1]
    )
    assert torch.equal(z, x)
    var, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(rows[0].double(), mean, rtol=2.0**-23, atol=0)
    torch.testing.assert_close(rows[1].double(), var, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(0, 8, 4, 4)}, "x must not be empty"),
        ({"x": torch.zeros(2, 8, 4)}, "x must have 4 dimensions"),
        ({"weight": torch.zeros(8, 4, 1, 1)}, r"weight must be \(8, 1, kh, kw\), or"),
        ({"weight": torch.zeros(8, 8, 3, 3)}, r"weight must be \(8, 1, kh, kw\), or"),
        ({"stride": [2, 2]}, "weight must be .* with stride 1 and without padding"),
        ({"norm_weight": torch.zeros(3)}, r"norm_weight must have shape \(6,\)"),
        ({"norm_bias": torch.zeros(6, 1)}, r"norm_bias must have shape \(6,\)"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"activation": "tanh"}, "activation must be one of"),
        ({"input_statistics": torch.zeros(3, 8)}, r"input_statistics must be \(4, 8\)"),
        (
            {"x": torch.zeros(2, 8, 4, 4), "input_statistics": torch.zeros(4, 8)},
            "x with input_statistics must be dense and channels_last",
        ),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {
        "x": torch.zeros(2, 8, 4, 4).to(memory_format=torch.channels_last),
        "input_statistics": None,
        "input_activation": "none",
        "weight": torch.zeros(6, 8, 1, 1),
        "norm_weight": None,
        "norm_bias": None,
        "eps": 1e-5,
        "activation": "none",
        "stride": [1, 1],
        "padding": [0] * 4,
        "dilation": [1, 1],
    }
    with pytest.raises((ValueError, RuntimeError), match=f"normalized_convolution: {message}"):
        ops.normalized_convolution(*{**values, **change}.values())
