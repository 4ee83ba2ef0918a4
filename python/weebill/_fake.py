"""Fake kernels of the ops: shape and strides (channels_last) of a result, nothing computed.

torch.compile and torch.export trace with them, on fake tensors that say they are on the CPU. Meta
tensors come here too and are refused: no kernel could follow. Each function but `run` has the name
of its op, and takes its arguments as attributes of one object, named as in `_reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from weebill import _geometry, _reference


def empty_image(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """As many images as x has."""
    return torch.empty(
        (x.shape[0], channels, height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


def window_sizes(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """Height and width of what a convolution gives."""
    sizes = []
    for axis in (0, 1):
        size = x.shape[2 + axis]
        if len(padding) == 4:
            reach = dilation[axis] * (weight.shape[2 + axis] - 1) + 1
            size = (size + padding[axis] + padding[2 + axis] - reach) // stride[axis] + 1
        else:
            size = -(-size // stride[axis])
        sizes.append(size)
    return sizes[0], sizes[1]


def _window_output(a: SimpleNamespace, channels: int, weight: Tensor) -> Tensor:
    return empty_image(a.x, channels, *window_sizes(a.x, weight, a.stride, a.padding, a.dilation))


def run(x: Tensor, records: Tensor, geometry: Sequence[int], flatten: bool = False) -> Tensor:
    if not geometry or len(geometry) % _geometry.RECORD:
        raise ValueError(
            f"run: geometry must hold six integers per record, got {len(geometry)} integers"
        )
    *_, (channels, height, width) = _geometry.outputs(geometry, x.shape[2], x.shape[3])
    if flatten:
        return x.new_empty((x.shape[0], channels * height * width))
    return empty_image(x, channels, height, width)


def conv2d(a: SimpleNamespace) -> Tensor:
    return _window_output(a, a.weight.shape[0], a.weight)


def depthwise_conv2d(a: SimpleNamespace) -> Tensor:
    return _window_output(a, a.weight.shape[0], a.weight)


def pointwise_conv2d(a: SimpleNamespace) -> Tensor:
    return empty_image(a.x, a.weight.shape[0], a.x.shape[2], a.x.shape[3])


def pool_linear(a: SimpleNamespace) -> Tensor:
    y: Tensor = a.x.new_empty((a.x.shape[0], a.weight.shape[0]))
    return y


def squeeze_excite(a: SimpleNamespace) -> Tensor:
    return empty_image(a.x, a.x.shape[1], a.x.shape[2], a.x.shape[3])


def depthwise_pointwise(a: SimpleNamespace) -> Tensor:
    return _window_output(a, a.pointwise_weight.shape[0], a.depthwise_weight)


def inverted_residual(a: SimpleNamespace) -> Tensor:
    return _window_output(a, a.project_weight.shape[0], a.depthwise_weight)


def channel_shuffle(a: SimpleNamespace) -> Tensor:
    x: Tensor = a.x
    side_by_side = x.shape[1] > 1 and x.stride(1) == 1
    memory_format = torch.channels_last if side_by_side else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def shuffle_unit(a: SimpleNamespace) -> Tensor:
    return _window_output(a, 2 * a.project_weight.shape[0], a.depthwise_weight)


def shuffle_unit_v1(a: SimpleNamespace) -> Tensor:
    channels = a.project_weight.shape[0] + (a.x.shape[1] if a.shortcut == "concat" else 0)
    return _window_output(a, channels, a.depthwise_weight)


def _gradients(a: SimpleNamespace) -> tuple[Tensor, Tensor, Tensor]:
    """By x (channels_last), weight and bias; shape (0,) for what is not wanted."""
    x, weight, none = a.x, a.weight, (0,)
    by_x, by_weight, by_bias = a.output_mask
    return (
        empty_image(x, x.shape[1], x.shape[2], x.shape[3]) if by_x else x.new_empty(none),
        x.new_empty(weight.shape if by_weight else none),
        x.new_empty((weight.shape[0],) if by_bias else none),
    )


def batch_norm_activation(a: SimpleNamespace) -> tuple[Tensor, Tensor, Tensor]:
    x, channels = a.x, a.x.shape[1]
    y = empty_image(x, channels, x.shape[2], x.shape[3])
    return y, x.new_empty((channels,)), x.new_empty((channels,))


def _batch_norm_gradients(a: SimpleNamespace) -> tuple[Tensor, Tensor, Tensor]:
    x, channels = a.x, a.x.shape[1]
    by_x, by_weight, by_bias = a.output_mask
    return (
        empty_image(x, channels, x.shape[2], x.shape[3]) if by_x else x.new_empty((0,)),
        x.new_empty((channels if by_weight else 0,)),
        x.new_empty((channels if by_bias else 0,)),
    )


_RUN = ["x", "records", "geometry", "flatten"]


def check_tensors(op: str, names: Sequence[str], arguments: Sequence[Any]) -> None:
    """What the real kernels check of all tensors, and of the first one."""
    for name, value in zip(names, arguments, strict=False):  # torch leaves out what is the default
        if isinstance(value, Tensor) and value.device.type != "cpu":
            raise TypeError(f"{op}: {name} must be on the cpu, got {value.device}")
    name, x = names[0], arguments[0]
    if x.dtype != torch.float32 and op != "channel_shuffle":
        raise TypeError(f"{op}: {name} must be float32, got {x.dtype}".replace("torch.", ""))
    if x.dim() != 4:
        raise ValueError(f"{op}: {name} must have 4 dimensions (n, c, h, w), got {x.dim()}")


def _checked(op: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel behind the checks that all have in common; the real ones make the rest."""
    names = _RUN if op == "run" else _reference.argument_names(op)

    def checked(*arguments: Any) -> Any:
        if op == "run" and len(arguments) < len(_RUN):
            arguments = (*arguments, False)
        check_tensors(op, names, arguments)
        return kernel(SimpleNamespace(**dict(zip(names, arguments, strict=True))))

    return checked


_KERNELS: dict[str, Callable[..., Any]] = {
    "run": lambda a: run(a.x, a.records, a.geometry, a.flatten),
    "conv2d": conv2d,
    "depthwise_conv2d": depthwise_conv2d,
    "pointwise_conv2d": pointwise_conv2d,
    "pool_linear": pool_linear,
    "squeeze_excite": squeeze_excite,
    "depthwise_pointwise": depthwise_pointwise,
    "inverted_residual": inverted_residual,
    "channel_shuffle": channel_shuffle,
    "shuffle_unit": shuffle_unit,
    "shuffle_unit_v1": shuffle_unit_v1,
    "depthwise_conv2d_backward": _gradients,
    "pointwise_conv2d_backward": _gradients,
    "batch_norm_activation": batch_norm_activation,
    "batch_norm_activation_backward": _batch_norm_gradients,
}

#: By the name of the op, called as the op is.
KERNELS: dict[str, Callable[..., Any]] = {
    op: _checked(op, kernel) for op, kernel in _KERNELS.items()
}
