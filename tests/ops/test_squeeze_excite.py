"""Squeeze-and-excitation on its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.bounds import Bounded, is_channels_last, layouts
from weebill import ops


def run_case(
    x: Tensor, width: int, activation: str = "relu", gate: str = "hardsigmoid", bias: bool = True
) -> None:
    channels = x.shape[1]
    down, up = torch.randn(width, channels, 1, 1), torch.randn(channels, width, 1, 1)
    b1, b2 = (torch.randn(width), torch.randn(channels)) if bias else (None, None)
    y = ops.squeeze_excite(x, down, b1, up, b2, activation, gate)
    Bounded.of(x).squeeze_excite(down, b1, up, b2, activation, gate).check(y)
    assert is_channels_last(y)


@pytest.mark.parametrize("channels", [1, 2, 3, 17, 22, 50])
@pytest.mark.parametrize("width", [1, 2, 10, 26])
def test_value(channels: int, width: int, isa: str) -> None:
    run_case(torch.randn(2, channels, 5, 6), width)


@pytest.mark.parametrize("gate", ["hardsigmoid", "hardsigmoid_paddle", "sigmoid"])
@pytest.mark.parametrize("activation", ["relu", "silu", "hardswish"])
def test_activations(activation: str, gate: str, isa: str) -> None:
    run_case(torch.randn(1, 22, 4, 5) + 0.5, 6, activation, gate, bias=False)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (14, 14)])
def test_sizes(size: tuple[int, int], isa: str) -> None:
    run_case(torch.randn(1, 24, *size), 8)


@pytest.mark.parametrize("batch", [0, 3])
def test_batch(batch: int, isa: str) -> None:
    run_case(torch.randn(batch, 17, 3, 3), 5)


def test_layouts(isa: str) -> None:
    for x in layouts(torch.randn(2, 20, 5, 6)).values():
        run_case(x, 7)
