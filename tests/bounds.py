"""What an op's result may be: the exact value and how far float32 may be from it.

A sum of n products, in any order, with or without fused multiply-adds, is within

    gamma(n) * sum |a_i * b_i|,   gamma(n) = n * u / (1 - n * u),   u = 2^-24

of the exact one (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). `Bounded`
carries value and bound through a network, both in float64, so that no tolerance has to be guessed:
a result outside of it is wrong, whatever the sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

U = 2.0**-24

#: Largest slope of each activation.
_SLOPE = {
    "none": 1.0,
    "relu": 1.0,
    "relu6": 1.0,
    "hardswish": 1.5,
    "hardsigmoid": 1 / 6,
    "hardsigmoid_paddle": 1 / 5,
    "silu": 1.1,
    "sigmoid": 0.25,
}
ACTIVATIONS = tuple(_SLOPE)


def exact_activation(name: str, x: Tensor) -> Tensor:
    """The formulas of the documentation, word by word, in x's precision."""
    hard = {"hardsigmoid": 6, "hardswish": 6, "hardsigmoid_paddle": 5}
    if name in hard:
        gate = torch.clamp(x / hard[name] + 0.5, 0, 1)
        return x * gate if name == "hardswish" else gate
    if name in ("sigmoid", "silu"):
        gate = 1 / (1 + torch.exp(-x))
        return x * gate if name == "silu" else gate
    return {"none": x, "relu": x.clamp(min=0), "relu6": x.clamp(0, 6)}[name]


def gamma(n: int) -> float:
    """The relative bound of a sum of n rounded products."""
    return n * U / (1 - n * U)


@dataclass
class Bounded:
    """`value` in float64; float32 may be off by `error`."""

    value: Tensor
    error: Tensor

    @staticmethod
    def of(x: Tensor) -> Bounded:
        """A float32 tensor as it is."""
        return Bounded(x.double(), torch.zeros_like(x, dtype=torch.float64))

    def conv2d(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] | str = (0, 0, 0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> Bounded:
        """Zeros around, as (top, left, bottom, right) or TensorFlow's SAME, then a convolution."""
        kernel = weight.shape[2:]
        if isinstance(padding, str):
            sides = []
            for size, k, s, d in zip(self.value.shape[2:], kernel, stride, dilation, strict=True):
                total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
                sides.append((total // 2, math.ceil(total / 2)))
            (top, bottom), (left, right) = sides
        else:
            top, left, bottom, right = padding

        def conv(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            x = F.pad(x, (left, right, top, bottom))
            return F.conv2d(x, w, b, tuple(stride), 0, tuple(dilation), groups)

        w = weight.double()
        b = None if bias is None else bias.double()
        total_size = conv(self.value.abs() + self.error, w.abs(), None if b is None else b.abs())
        terms = weight[0].numel() + 1
        return Bounded(
            conv(self.value, w, b), conv(self.error, w.abs(), None) + gamma(terms) * total_size
        )

    def activation(self, name: str) -> Bounded:
        """One of the ops' activations; its own arithmetic rounds a few times."""
        y = exact_activation(name, self.value)
        rounding = 0.0 if name in ("none", "relu", "relu6") else 16 * U
        scale = y.abs() + (self.value.abs() if name == "hardswish" else 0)
        if name.startswith("hardsigmoid"):
            scale = scale + 1
        return Bounded(y, _SLOPE[name] * self.error + rounding * scale)

    def mean(self) -> Bounded:
        """Over height and width, kept as axes of size 1."""
        n = self.value.shape[2] * self.value.shape[3]
        dims = (2, 3)
        size = (self.value.abs() + self.error).mean(dims, keepdim=True)
        error = self.error.mean(dims, keepdim=True) + gamma(n + 1) * size
        return Bounded(self.value.mean(dims, keepdim=True), error)

    def times(self, other: Bounded) -> Bounded:
        value = self.value * other.value
        error = (
            self.value.abs() * other.error
            + other.value.abs() * self.error
            + self.error * other.error
        )
        return Bounded(value, error + 2 * U * (value.abs() + error))

    def plus(self, other: Bounded) -> Bounded:
        value = self.value + other.value
        error = self.error + other.error
        return Bounded(value, error + U * (value.abs() + error))

    def squeeze_excite(
        self,
        reduce_weight: Tensor,
        reduce_bias: Tensor | None,
        expand_weight: Tensor,
        expand_bias: Tensor | None,
        activation: str,
        gate: str,
    ) -> Bounded:
        squeezed = self.mean().conv2d(reduce_weight, reduce_bias).activation(activation)
        return self.times(squeezed.conv2d(expand_weight, expand_bias).activation(gate))

    def check(self, y: Tensor) -> None:
        """y is float32, of the exact shape, and nowhere further off than it may be."""
        assert y.dtype == torch.float32
        assert y.shape == self.value.shape
        off = (y.double() - self.value).abs()
        # The smallest float32: what underflows is off by no more.
        allowed = self.error + 2.0**-149
        wrong = ~(off <= allowed)
        if wrong.any():
            at = tuple(wrong.nonzero()[0].tolist())
            raise AssertionError(
                f"{int(wrong.sum())} of {wrong.numel()} values are off by more than rounding; "
                f"first {at}: got {y[at].item()!r}, exact {self.value[at].item()!r}, "
                f"off by {off[at].item():.3g}, allowed {allowed[at].item():.3g}"
            )


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The values of x in the memory layouts that callers have."""
    n, c, h, w = x.shape
    wide = torch.full((n + 1, c + 2, h + 1, 2 * w + 3), float("nan"))
    sliced = wide[1:, 1 : c + 1, :h, 1 : 1 + 2 * w : 2]
    sliced.copy_(x)
    deep = torch.full((n, h, w, c + 3), float("nan"))
    channels = deep[..., 2 : 2 + c].permute(0, 3, 1, 2)
    channels.copy_(x)
    return {
        "contiguous": x.contiguous(),
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "sliced": sliced,
        "channels_last_sliced": channels,
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
    }


def is_channels_last(y: Tensor) -> bool:
    """Exactly the strides that `torch.empty(..., memory_format=torch.channels_last)` has."""
    wanted = torch.empty(y.shape, memory_format=torch.channels_last)
    return y.stride() == wanted.stride()
