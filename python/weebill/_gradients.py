"""Gradients of the ops: which run on kernels, and which through plain torch.

The backward of an op computes its forward again with the formulas of `_reference` and
differentiates that. Where only first derivatives are wanted, the convolutions inside run on
kernels, forward and backward: depthwise with one filter per channel, and 1 x 1. Other convolutions,
and everything where a second derivative is wanted, run through plain torch. So does all of an op in
forward mode and in transforms of torch.func.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from weebill import _eager, _reference
from weebill._eager import Backward

#: The ops that a backward calls, by name, as `_ops` has them.
calls: dict[str, Callable[..., Any]] = {}


def setup_context_of(name: str) -> Callable[..., None]:
    """What the op's backward finds, for `torch.library.register_autograd`: its tensors, which come
    first, None for those not given; for BatchNorm its statistics after them; the rest as `rest`."""
    count = _eager.tensors_of(getattr(torch.ops.weebill, name).default)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.rest = inputs[count:]

    def save_statistics(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, mean, var = output
        ctx.mark_non_differentiable(mean, var)
        ctx.save_for_backward(*inputs[:count], mean, var)
        ctx.rest = inputs[count:]

    return save_statistics if name == "batch_norm_activation" else save


def backward_of(name: str) -> Backward:
    """The backward of `torch.ops.weebill.<name>`, for `torch.library.register_autograd`."""
    first_order = {
        "depthwise_conv2d": _depthwise,
        "pointwise_conv2d": _pointwise,
        "batch_norm_activation": _batch_norm_activation,
        "channel_shuffle": _channel_shuffle,
    }.get(name)
    count = _eager.tensors_of(getattr(torch.ops.weebill, name).default)
    composed = _composed(getattr(_reference, name), count)

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if first_order is not None and grads[0] is not None and not torch.is_grad_enabled():
            found = first_order(ctx, grads[0])
            if found is not None:
                return found
        return composed(ctx, *grads)

    return backward


def formula_of(name: str) -> Callable[..., Any]:
    """`torch.ops.weebill.<name>` in plain torch, with the op's checks and its way with autocast."""
    op = getattr(torch.ops.weebill, name).default
    reference = getattr(_reference, name)
    casts = name != "channel_shuffle"
    # the others are called with what a forward has checked
    checks = not name.startswith("batch_norm") and not name.endswith("_backward")

    def formula(*arguments: Any) -> Any:
        if casts and torch.is_autocast_enabled("cpu"):
            arguments = torch.amp.autocast_mode._cast(arguments, "cpu", torch.float32)
        # in a backward the convolutions of formulas are calls of the ops, which would lead here
        kernels = _reference.convolution.set(None)
        try:
            with torch.autocast("cpu", enabled=False):
                if checks:
                    op(*map(_likeness, arguments, range(len(arguments))))
                return reference(*arguments)
        finally:
            _reference.convolution.reset(kernels)

    return formula


def _likeness(value: Any, index: int) -> Any:
    """What an op's checks see of an argument: without values and derivatives; x without images."""
    if not isinstance(value, Tensor):
        return value
    if value.layout is not torch.strided:
        return value.detach()
    no_images = index == 0 and value.dim() == 4
    shape = (0, *value.shape[1:]) if no_images else value.shape
    return torch.empty(shape, dtype=value.dtype, device=value.device)


def _composed(reference: Callable[..., Any], count: int) -> Backward:
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = [i for i in range(count) if ctx.needs_input_grad[i]]
        create_graph = torch.is_grad_enabled()
        kernels = _reference.convolution.set(None if create_graph else _convolution)
        try:
            with torch.enable_grad():
                # Views, so that a tensor given for two arguments gets each one's own gradient, and
                # a second derivative finds its way to the tensor.
                arguments: list[Any] = [
                    tensor if tensor is None else tensor.view_as(tensor)
                    for tensor in ctx.saved_tensors[:count]
                ]
                result = reference(*arguments, *ctx.rest)
        finally:
            _reference.convolution.reset(kernels)
        results = (result,) if isinstance(result, Tensor) else result
        pairs = [
            (y, grad)
            for y, grad in zip(results, grads, strict=True)
            if grad is not None and y.requires_grad
        ]
        found = torch.autograd.grad(
            [y for y, _ in pairs],
            [arguments[i] for i in wanted],
            [grad for _, grad in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
        gradients: list[Tensor | None] = [None] * (count + len(ctx.rest))
        for i, gradient in zip(wanted, found, strict=True):
            gradients[i] = gradient
        return tuple(gradients)

    return backward


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor | None:
    """A convolution inside a formula, on kernels if they have its gradients."""
    y: Tensor
    if groups == x.shape[1] == weight.shape[0]:
        window = list(stride), list(padding), list(dilation)
        y = calls["depthwise_conv2d"](x, weight, bias, *window, "none")
        return y
    if (
        groups == 1
        and tuple(weight.shape[2:]) == (1, 1)
        and tuple(stride) == (1, 1)
        and not any(padding)
    ):
        y = calls["pointwise_conv2d"](x, weight, bias, "none")
        return y
    return None


#: What torch's autograd calls for an activation, of the gradient and the activation's input. A
#: graph made for one call, with the engine to run it, takes 30 us more.
ACTIVATION_GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda grad, z: torch.ops.aten.threshold_backward.default(grad, z, 0),
    "relu6": lambda grad, z: torch.ops.aten.hardtanh_backward.default(grad, z, 0, 6),
    "hardswish": torch.ops.aten.hardswish_backward.default,
    "hardsigmoid": torch.ops.aten.hardsigmoid_backward.default,
    "silu": torch.ops.aten.silu_backward.default,
    "sigmoid": lambda grad, z: torch.ops.aten.sigmoid_backward.default(grad, z.sigmoid()),
}


def _before_activation(activation: str, forward: Callable[[], Tensor], grad: Tensor) -> Tensor:
    """The gradient by what goes into the activation, which `forward` computes again."""
    z = forward()
    gradient_of = ACTIVATION_GRADIENTS.get(activation)
    if gradient_of is not None:
        return gradient_of(grad, z)
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        y = _reference.ACTIVATIONS[activation](z)
    (gradient,) = torch.autograd.grad(y, z, grad)
    return gradient


def _depthwise(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...] | None:
    x, weight, bias = ctx.saved_tensors
    if weight.shape[0] != x.shape[1]:
        return None
    *window, activation = ctx.rest
    if activation != "none":
        forward = calls["depthwise_conv2d"]
        grad = _before_activation(
            activation, lambda: forward(x, weight, bias, *window, "none"), grad
        )
    mask = list(ctx.needs_input_grad[:3])
    found = calls["depthwise_conv2d_backward"](grad, x, weight, *window, mask)
    return (*_wanted(found, mask), None, None, None, None)


def _pointwise(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    (activation,) = ctx.rest
    if activation != "none":
        forward = calls["pointwise_conv2d"]
        grad = _before_activation(activation, lambda: forward(x, weight, bias, "none"), grad)
    mask = list(ctx.needs_input_grad[:3])
    found = calls["pointwise_conv2d_backward"](grad, x, weight, mask)
    return (*_wanted(found, mask), None)


def _batch_norm_activation(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    mask = list(ctx.needs_input_grad[:3])
    found = calls["batch_norm_activation_backward"](grad, *ctx.saved_tensors, *ctx.rest, mask)
    return (*_wanted(found, mask), None, None)


def _channel_shuffle(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The shuffle that undoes it."""
    (groups,) = ctx.rest
    return calls["channel_shuffle"](grad, grad.shape[1] // groups), None


def _wanted(found: Sequence[Tensor], mask: Sequence[bool]) -> tuple[Tensor | None, ...]:
    x, weight, bias = found
    return x if mask[0] else None, weight if mask[1] else None, bias if mask[2] else None
