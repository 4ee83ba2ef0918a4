"""Global pooling and a linear layer: the head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.bounds import ACTIVATIONS, Bounded, layouts
from weebill import ops


def run_case(x: Tensor, classes: int, activation: str = "none", bias: bool = True) -> None:
    weight = torch.randn(classes, x.shape[1])
    b = torch.randn(classes) if bias else None
    y = ops.pool_linear(x, weight, b, activation)
    exact = Bounded.of(x).mean().conv2d(weight[:, :, None, None], b).activation(activation)
    Bounded(exact.value[:, :, 0, 0], exact.error[:, :, 0, 0]).check(y)
    assert y.is_contiguous()


@pytest.mark.parametrize("channels", [1, 2, 3, 17, 22, 50, 960])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 11)])
def test_value(channels: int, size: tuple[int, int], isa: str) -> None:
    run_case(torch.randn(2, channels, *size) + 1, 10, bias=channels != 17)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation: str, isa: str) -> None:
    run_case(torch.randn(1, 12, 3, 5) * 2, 26, activation)


@pytest.mark.parametrize("batch", [0, 3])
def test_batch(batch: int, isa: str) -> None:
    run_case(torch.randn(batch, 17, 3, 3), 9)


def test_layouts(isa: str) -> None:
    for x in layouts(torch.randn(2, 20, 5, 6)).values():
        run_case(x, 7)
