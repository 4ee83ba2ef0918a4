"""1 x 1 convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.bounds import ACTIVATIONS, Bounded, is_channels_last, layouts
from weebill import ops


def run_case(x: Tensor, channels: int, activation: str = "none", bias: bool = True) -> None:
    weight = torch.randn(channels, x.shape[1], 1, 1)
    b = torch.randn(channels) if bias else None
    y = ops.pointwise_conv2d(x, weight, b, activation)
    Bounded.of(x).conv2d(weight, b).activation(activation).check(y)
    assert is_channels_last(y)


@pytest.mark.parametrize("c_out", [1, 2, 3, 17, 22, 50])
@pytest.mark.parametrize("c_in", [1, 2, 3, 17, 22, 50])
def test_channels(c_in: int, c_out: int, isa: str) -> None:
    run_case(torch.randn(1, c_in, 5, 7), c_out)


@pytest.mark.parametrize("size", [(1, 1), (1, 31), (13, 1), (2, 2), (7, 7), (14, 14)])
def test_sizes(size: tuple[int, int], isa: str) -> None:
    run_case(torch.randn(2, 24, *size), 40, bias=False)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation: str, isa: str) -> None:
    run_case(torch.randn(1, 12, 3, 5) * 2, 26, activation)


@pytest.mark.parametrize("batch", [0, 3])
def test_batch(batch: int, isa: str) -> None:
    run_case(torch.randn(batch, 17, 3, 3), 9)


def test_long_sum(isa: str) -> None:
    run_case(torch.randn(1, 1280, 2, 3), 33)


def test_layouts(isa: str) -> None:
    for x in layouts(torch.randn(2, 20, 5, 6)).values():
        run_case(x, 18)
