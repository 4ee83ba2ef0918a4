"""Depthwise convolution: tuned windows, any other, edges, channel multipliers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.bounds import ACTIVATIONS, Bounded, is_channels_last, layouts
from weebill import ops

CHANNELS = (1, 2, 3, 17, 22, 50)
# Kernel, stride, padding, dilation.
WINDOWS: dict[str, tuple[Sequence[int], Sequence[int], Sequence[int] | str, Sequence[int]]] = {
    "3x3": ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "3x3 s2": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    "5x5": ((5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    "5x5 s2": ((5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
    "3x3 unpadded": ((3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
    "3x3 s21": ((3, 3), (2, 1), (1, 0, 2, 1), (1, 1)),
    "3x3 s12": ((3, 3), (1, 2), (0, 2, 1, 0), (1, 1)),
    "3x3 same s2": ((3, 3), (2, 2), "same", (1, 1)),
    "5x5 same s2": ((5, 5), (2, 2), "same", (1, 1)),
    "5x5 dilated": ((5, 5), (1, 1), (4, 4, 4, 4), (2, 2)),
    "3x5": ((3, 5), (1, 1), (1, 2, 1, 2), (1, 1)),
    "7x7 s3": ((7, 7), (3, 3), (3, 3, 3, 3), (1, 1)),
    "2x2": ((2, 2), (1, 1), (0, 1, 1, 0), (1, 1)),
    "3x3 far": ((3, 3), (1, 1), (5, 3, 4, 6), (1, 1)),
}


def run_case(x: Tensor, weight: Tensor, window: str, activation: str = "none") -> None:
    _, stride, padding, dilation = WINDOWS[window]
    bias = torch.randn(weight.shape[0])
    y = ops.depthwise_conv2d(x, weight, bias, stride, padding, dilation, activation)
    exact = Bounded.of(x).conv2d(weight, bias, stride, padding, dilation, groups=x.shape[1])
    exact.activation(activation).check(y)
    assert is_channels_last(y)


@pytest.mark.parametrize("window", WINDOWS)
def test_value(window: str, isa: str) -> None:
    kernel = WINDOWS[window][0]
    for channels in CHANNELS:
        run_case(torch.randn(2, channels, 9, 12), torch.randn(channels, 1, *kernel), window)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 3), (7, 7), (8, 29), (15, 1)])
@pytest.mark.parametrize("window", ["3x3", "3x3 s2", "5x5", "5x5 s2", "3x3 same s2", "5x5 dilated"])
def test_sizes(size: tuple[int, int], window: str, isa: str) -> None:
    kernel = WINDOWS[window][0]
    run_case(torch.randn(1, 19, *size), torch.randn(19, 1, *kernel), window)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation: str, isa: str) -> None:
    run_case(torch.randn(1, 22, 5, 8) * 2, torch.randn(22, 1, 3, 3), "3x3", activation)


@pytest.mark.parametrize("multiplier", [2, 3])
def test_channel_multiplier(multiplier: int, isa: str) -> None:
    run_case(torch.randn(1, 5, 6, 7), torch.randn(5 * multiplier, 1, 3, 3), "3x3 s2", "relu")


@pytest.mark.parametrize("batch", [0, 3])
def test_batch(batch: int, isa: str) -> None:
    run_case(torch.randn(batch, 17, 6, 7), torch.randn(17, 1, 5, 5), "5x5")


@pytest.mark.parametrize("window", ["3x3", "5x5", "5x5 s2"])
@pytest.mark.parametrize(
    "shape", [(8, 48, 60, 59), (8, 56, 56, 56), (8, 672, 14, 14)], ids=["48", "56", "672"]
)
def test_large_results_are_those_of_single_images(
    shape: tuple[int, ...], window: str, isa: str
) -> None:
    """Results of some megabytes may be written past the caches, also where pixels begin in the
    middle of lines, and made some channels at a time."""
    kernel, stride, padding, dilation = WINDOWS[window]
    images, channels, height, width = shape
    x = torch.randn(images, channels, height * stride[0], width * stride[1])
    x = x.to(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, *kernel)

    def convolved(images: Tensor) -> Tensor:
        return ops.depthwise_conv2d(
            images, weight, stride=stride, padding=padding, dilation=dilation
        )

    y = convolved(x)
    assert y.numel() > 1 << 20
    assert torch.equal(y, torch.cat([convolved(image) for image in x.split(1)]))


@pytest.mark.parametrize("shape", [(1, 248, 3, 1512), (1, 200, 7, 840), (1, 72, 112, 140)])
def test_large_image_on_any_number_of_threads(shape: tuple[int, ...], isa: str) -> None:
    """Threads share its rows, or its channels where those divide better."""
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    weight = torch.randn(shape[1], 1, 3, 3)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            results.append(ops.depthwise_conv2d(x, weight, padding=1))
    finally:
        torch.set_num_threads(before)
    assert results[0].numel() > 1 << 20
    assert all(torch.equal(y, results[0]) for y in results)


def test_layouts(isa: str) -> None:
    weight = torch.randn(20, 1, 3, 3)
    for x in layouts(torch.randn(2, 20, 7, 6)).values():
        run_case(x, weight, "3x3 s2")
