"""Fake kernels of the ops of which nodes of training are made (csrc/bindings/training_ops.cpp), as
in `_fake`; each function has the name and arguments of its op."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from weebill._fake import check_tensors, empty_image, window_sizes

#: Numbers of a channel: mean, variance, scale, shift.
_STATISTICS = 4


def _sums(x: Tensor) -> Tensor:
    return x.new_empty((2, x.shape[1]), dtype=torch.float64)


def normalized_convolution(
    x: Tensor,
    input_statistics: Tensor | None,
    input_activation: str,
    weight: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    activation: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor]:
    channels = weight.shape[0]
    sizes = window_sizes(x, weight, stride, padding, dilation)
    return empty_image(x, channels, *sizes), x.new_empty((_STATISTICS, channels))


def normalized_convolution_backward(
    grad_output: Tensor,
    z: Tensor,
    statistics: Tensor,
    sums: Tensor,
    x: Tensor,
    input_statistics: Tensor | None,
    input_activation: str,
    weight: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    activation: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_mask: Sequence[bool],
    grad_input: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    by_x, by_weight, by_scale, by_shift = output_mask
    none, channels = (0,), z.shape[1]
    return (
        empty_image(x, *x.shape[1:]) if by_x and grad_input is None else x.new_empty(none),
        x.new_empty(weight.shape if by_weight else none),
        x.new_empty((channels if by_scale else 0,)),
        x.new_empty((channels if by_shift else 0,)),
        _sums(x) if by_x and input_statistics is not None else x.new_empty(none),
    )


def normalize(z: Tensor, statistics: Tensor, activation: str) -> Tensor:
    return empty_image(z, *z.shape[1:])


def normalize_sums(grad_output: Tensor, z: Tensor, statistics: Tensor, activation: str) -> Tensor:
    return _sums(z)


def normalize_shuffle(first: Tensor, z: Tensor, statistics: Tensor, activation: str) -> Tensor:
    return empty_image(z, 2 * z.shape[1], *z.shape[2:])


def unshuffle(y: Tensor, first: Tensor) -> Tensor:
    return empty_image(y, *first.shape[1:])


def channel_means(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2])


def channel_dots(grad_output: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2])


def scale_channels(x: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    return empty_image(x, *x.shape[1:])


def _checked(kernel: Callable[..., Any]) -> Callable[..., Any]:
    names = kernel.__code__.co_varnames

    @functools.wraps(kernel)
    def checked(*arguments: Any, **others: Any) -> Any:
        check_tensors(kernel.__name__, names, arguments)
        return kernel(*arguments, **others)

    return checked


#: By the name of the op, called as the op is.
KERNELS: dict[str, Callable[..., Any]] = {
    kernel.__name__: _checked(kernel)
    for kernel in (
        normalized_convolution,
        normalized_convolution_backward,
        normalize,
        normalize_sums,
        normalize_shuffle,
        unshuffle,
        channel_means,
        channel_dots,
        scale_channels,
    )
}
