"""Fake kernels of the ops: shape and strides (channels_last) of a result, nothing computed.

torch.compile and torch.export trace with them, on fake tensors that say they are on the CPU. Meta
tensors come here too and are refused: no kernel could follow. Each function has the name and the
arguments of its op (csrc/bindings/ops.cpp).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: `mode` of a record's geometry: how its output's size follows from the input's.
_WINDOW, _SAME, _GLOBAL = 0, 1, 2


def _empty(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    return torch.empty(
        (x.shape[0], channels, height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


def _window_output(
    x: Tensor,
    channels: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    sizes = []
    for axis in (0, 1):
        size = x.shape[2 + axis]
        if len(padding) == 4:
            reach = dilation[axis] * (kernel[axis] - 1) + 1
            size = (size + padding[axis] + padding[2 + axis] - reach) // stride[axis] + 1
        else:
            size = -(-size // stride[axis])
        sizes.append(size)
    return _empty(x, channels, sizes[0], sizes[1])


def run(x: Tensor, records: Tensor, geometry: Sequence[int]) -> Tensor:
    if not geometry or len(geometry) % 6:
        raise ValueError(
            f"run: geometry must hold six integers per record, got {len(geometry)} integers"
        )
    channels, height, width = x.shape[1:]
    for i in range(0, len(geometry), 6):
        channels, stride_h, stride_w, extra_h, extra_w, mode = geometry[i : i + 6]
        if mode == _WINDOW:
            height = (height + extra_h) // stride_h + 1
            width = (width + extra_w) // stride_w + 1
        elif mode == _SAME:
            height, width = -(-height // stride_h), -(-width // stride_w)
        elif mode == _GLOBAL:
            height = width = 1
        else:
            raise ValueError(f"run: geometry must have modes from 0 to 2, got {mode}")
    return _empty(x, channels, height, width)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
) -> Tensor:
    return _window_output(x, weight.shape[0], weight.shape[2:], stride, padding, dilation)


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
) -> Tensor:
    return _window_output(x, weight.shape[0], weight.shape[2:], stride, padding, dilation)


def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return _empty(x, weight.shape[0], x.shape[2], x.shape[3])


def pool_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


def squeeze_excite(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor | None,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    activation: str,
    gate: str,
) -> Tensor:
    return _empty(x, x.shape[1], x.shape[2], x.shape[3])


def depthwise_pointwise(
    x: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    depthwise_activation: str,
    pointwise_activation: str,
    residual: bool,
) -> Tensor:
    kernel = depthwise_weight.shape[2:]
    return _window_output(x, pointwise_weight.shape[0], kernel, stride, padding, dilation)


def inverted_residual(
    x: Tensor,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    se_reduce_weight: Tensor | None,
    se_reduce_bias: Tensor | None,
    se_expand_weight: Tensor | None,
    se_expand_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    expand_activation: str,
    depthwise_activation: str,
    se_activation: str,
    se_gate: str,
    project_activation: str,
    residual: bool,
) -> Tensor:
    kernel = depthwise_weight.shape[2:]
    return _window_output(x, project_weight.shape[0], kernel, stride, padding, dilation)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    side_by_side = x.shape[1] > 1 and x.stride(1) == 1
    memory_format = torch.channels_last if side_by_side else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def shuffle_unit(
    x: Tensor,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    shortcut_depthwise_weight: Tensor | None,
    shortcut_depthwise_bias: Tensor | None,
    shortcut_project_weight: Tensor | None,
    shortcut_project_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    expand_activation: str,
    depthwise_activation: str,
    project_activation: str,
    shortcut_depthwise_activation: str,
    shortcut_project_activation: str,
) -> Tensor:
    kernel = depthwise_weight.shape[2:]
    return _window_output(x, 2 * project_weight.shape[0], kernel, stride, padding, dilation)


def shuffle_unit_v1(
    x: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    expand_groups: int,
    groups: int,
    project_groups: int,
    expand_activation: str,
    depthwise_activation: str,
    activation: str,
    shortcut: str,
) -> Tensor:
    channels = project_weight.shape[0] + (x.shape[1] if shortcut == "concat" else 0)
    kernel = depthwise_weight.shape[2:]
    return _window_output(x, channels, kernel, stride, padding, dilation)


def _gradients(
    x: Tensor, weight: Tensor, output_mask: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """By x (channels_last), weight and bias; shape (0,) for what is not wanted."""
    none = (0,)
    return (
        _empty(x, x.shape[1], x.shape[2], x.shape[3]) if output_mask[0] else x.new_empty(none),
        x.new_empty(weight.shape if output_mask[1] else none),
        x.new_empty((weight.shape[0],) if output_mask[2] else none),
    )


def depthwise_conv2d_backward(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(x, weight, output_mask)


def pointwise_conv2d_backward(
    grad_output: Tensor, x: Tensor, weight: Tensor, output_mask: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(x, weight, output_mask)


def _checked(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel behind the checks that all have in common; the real ones make the rest."""
    op = kernel.__name__
    names = list(inspect.signature(kernel).parameters)

    def checked(*arguments: Any) -> Any:
        for name, value in zip(names, arguments, strict=True):
            if isinstance(value, Tensor) and value.device.type != "cpu":
                raise TypeError(f"{op}: {name} must be on the cpu, got {value.device}")
        name, x = names[0], arguments[0]
        if x.dtype != torch.float32 and op != "channel_shuffle":
            raise TypeError(f"{op}: {name} must be float32, got {x.dtype}".replace("torch.", ""))
        if x.dim() != 4:
            raise ValueError(f"{op}: {name} must have 4 dimensions (n, c, h, w), got {x.dim()}")
        return kernel(*arguments)

    return checked


#: By the name of the op.
KERNELS: dict[str, Callable[..., Any]] = {
    kernel.__name__: _checked(kernel)
    for kernel in (
        run,
        conv2d,
        depthwise_conv2d,
        pointwise_conv2d,
        pool_linear,
        squeeze_excite,
        depthwise_pointwise,
        inverted_residual,
        channel_shuffle,
        shuffle_unit,
        shuffle_unit_v1,
        depthwise_conv2d_backward,
        pointwise_conv2d_backward,
    )
}
