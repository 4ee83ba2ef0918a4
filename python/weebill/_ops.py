"""Loads the torch ops and adds what is written in Python: fake kernels, gradients, autocast.

- Fake kernels give the shape and the strides (channels_last) of a result without computing it. They
  take the CPU tensors that torch.compile and torch.export trace with; meta tensors are refused, as
  there is no kernel that could follow.
- Gradients: the backward of an op computes its forward again with plain torch (`_reference`) and
  differentiates that. `run` has none: its packed weights are no parameters, and a Python autograd
  kernel costs every call some microseconds, with or without gradients.
- Autocast: the ops compute in float32; under CPU autocast floating inputs are converted to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from weebill import _reference


def _load() -> None:
    if torch.__version__ < (2, 10):
        raise ImportError(f"weebill: torch must be 2.10 or later, got {torch.__version__}")
    spec = find_spec("weebill._torch_ops")
    if spec is None or spec.origin is None:
        raise ImportError(
            "weebill: the torch ops must be built in, got a build without them; install torch, then "
            "'pip install --no-build-isolation' weebill"
        )
    torch.ops.load_library(spec.origin)


_load()

run = torch.ops.weebill.run.default
conv2d = torch.ops.weebill.conv2d.default
depthwise_conv2d = torch.ops.weebill.depthwise_conv2d.default
pointwise_conv2d = torch.ops.weebill.pointwise_conv2d.default
pool_linear = torch.ops.weebill.pool_linear.default
squeeze_excite = torch.ops.weebill.squeeze_excite.default
depthwise_pointwise = torch.ops.weebill.depthwise_pointwise.default
inverted_residual = torch.ops.weebill.inverted_residual.default

#: `mode` of a record's geometry: how its output's size follows from the input's.
_WINDOW, _SAME, _GLOBAL = 0, 1, 2


def _check_input(op: str, x: Tensor) -> None:
    if x.device.type != "cpu":
        raise TypeError(f"{op}: x must be on the cpu, got {x.device}")
    if x.dtype != torch.float32:
        raise TypeError(f"{op}: x must be float32, got {x.dtype}".replace("torch.", ""))
    if x.dim() != 4:
        raise ValueError(f"{op}: x must have 4 dimensions (n, c, h, w), got {x.dim()}")


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
        if padding:
            reach = dilation[axis] * (kernel[axis] - 1) + 1
            size = (size + padding[axis] + padding[2 + axis] - reach) // stride[axis] + 1
        else:
            size = -(-size // stride[axis])
        sizes.append(size)
    return _empty(x, channels, sizes[0], sizes[1])


@torch.library.register_fake("weebill::run")
def _(x: Tensor, records: Tensor, geometry: Sequence[int]) -> Tensor:
    _check_input("run", x)
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


@torch.library.register_fake("weebill::conv2d")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
) -> Tensor:
    _check_input("conv2d", x)
    return _window_output(x, weight.shape[0], weight.shape[2:], stride, padding, dilation)


@torch.library.register_fake("weebill::depthwise_conv2d")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
) -> Tensor:
    _check_input("depthwise_conv2d", x)
    return _window_output(x, weight.shape[0], weight.shape[2:], stride, padding, dilation)


@torch.library.register_fake("weebill::pointwise_conv2d")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    _check_input("pointwise_conv2d", x)
    return _empty(x, weight.shape[0], x.shape[2], x.shape[3])


@torch.library.register_fake("weebill::pool_linear")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    _check_input("pool_linear", x)
    return x.new_empty((x.shape[0], weight.shape[0]))


@torch.library.register_fake("weebill::squeeze_excite")
def _(x: Tensor, *weights_and_activations: Any) -> Tensor:
    _check_input("squeeze_excite", x)
    return _empty(x, x.shape[1], x.shape[2], x.shape[3])


@torch.library.register_fake("weebill::depthwise_pointwise")
def _(
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
    _check_input("depthwise_pointwise", x)
    kernel = depthwise_weight.shape[2:]
    return _window_output(x, pointwise_weight.shape[0], kernel, stride, padding, dilation)


@torch.library.register_fake("weebill::inverted_residual")
def _(
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
    *activations_and_residual: Any,
) -> Tensor:
    _check_input("inverted_residual", x)
    kernel = depthwise_weight.shape[2:]
    return _window_output(x, project_weight.shape[0], kernel, stride, padding, dilation)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.places = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.save_for_backward(*(inputs[i] for i in ctx.places))
    ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]


def _register_autograd(name: str, reference: Callable[..., Tensor]) -> None:
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        arguments = list(ctx.others)
        wanted = [i for i in ctx.places if ctx.needs_input_grad[i]]
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # Views, so that a tensor given for two arguments gets each one's own gradient, and a
            # second derivative finds its way to the tensor.
            for i, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
                arguments[i] = tensor.view_as(tensor)
            y = reference(*arguments)
            found = torch.autograd.grad(
                y, [arguments[i] for i in wanted], grad, create_graph=create_graph
            )
        grads: list[Tensor | None] = [None] * len(arguments)
        for i, gradient in zip(wanted, found, strict=True):
            grads[i] = gradient
        return tuple(grads)

    torch.library.register_autograd(f"weebill::{name}", backward, setup_context=_save_inputs)


for _reference_op in (
    _reference.conv2d,
    _reference.depthwise_conv2d,
    _reference.pointwise_conv2d,
    _reference.pool_linear,
    _reference.squeeze_excite,
    _reference.depthwise_pointwise,
    _reference.inverted_residual,
):
    _register_autograd(_reference_op.__name__, _reference_op)
    torch.library.register_autocast(f"weebill::{_reference_op.__name__}", "cpu", torch.float32)
torch.library.register_autocast("weebill::run", "cpu", torch.float32)
