"""Gradients of the ops: which run on kernels, and which through plain torch.

The backward of an op computes its forward again with the formulas of `_reference` and
differentiates that. Where only first derivatives are wanted, the convolutions inside run on
kernels, forward and backward: depthwise with one filter per channel, and 1 x 1. Other convolutions,
and everything where a second derivative is wanted, run through plain torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from weebill import _reference

Backward = Callable[..., tuple[Tensor | None, ...]]


def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.places = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.save_for_backward(*(inputs[i] for i in ctx.places))
    ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]


def _save_statistics(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    save_inputs(ctx, inputs, output)
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(*(inputs[i] for i in ctx.places), mean, var)


def setup_context_of(name: str) -> Callable[..., None]:
    """What the op's backward finds, for `torch.library.register_autograd`."""
    return _save_statistics if name == "batch_norm_activation" else save_inputs


def backward_of(name: str) -> Backward:
    """The backward of `torch.ops.weebill.<name>`, for `torch.library.register_autograd`."""
    first_order = {
        "depthwise_conv2d": _depthwise,
        "pointwise_conv2d": _pointwise,
        "batch_norm_activation": _batch_norm_activation,
        "channel_shuffle": _channel_shuffle,
    }.get(name)
    composed = _composed(getattr(_reference, name))

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if first_order is not None and grads[0] is not None and not torch.is_grad_enabled():
            found = first_order(ctx, grads[0])
            if found is not None:
                return found
        return composed(ctx, *grads)

    return backward


def _composed(reference: Callable[..., Any]) -> Backward:
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        arguments = list(ctx.others)
        wanted = [i for i in ctx.places if ctx.needs_input_grad[i]]
        create_graph = torch.is_grad_enabled()
        kernels = _reference.convolution.set(None if create_graph else _convolution)
        try:
            with torch.enable_grad():
                # Views, so that a tensor given for two arguments gets each one's own gradient, and
                # a second derivative finds its way to the tensor.
                inputs = ctx.saved_tensors[: len(ctx.places)]
                for i, tensor in zip(ctx.places, inputs, strict=True):
                    arguments[i] = tensor.view_as(tensor)
                result = reference(*arguments)
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
        gradients: list[Tensor | None] = [None] * len(arguments)
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
    ops = torch.ops.weebill
    y: Tensor
    if groups == x.shape[1] == weight.shape[0]:
        y = ops.depthwise_conv2d.default(
            x, weight, bias, list(stride), list(padding), list(dilation), "none"
        )
        return y
    if (
        groups == 1
        and tuple(weight.shape[2:]) == (1, 1)
        and tuple(stride) == (1, 1)
        and not any(padding)
    ):
        y = ops.pointwise_conv2d.default(x, weight, bias, "none")
        return y
    return None


def _before_activation(activation: str, forward: Callable[[], Tensor], grad: Tensor) -> Tensor:
    """The gradient by what goes into the activation, which `forward` computes again."""
    if activation == "none":
        return grad
    z = forward().detach().requires_grad_()
    with torch.enable_grad():
        y = _reference.ACTIVATIONS[activation](z)
    (gradient,) = torch.autograd.grad(y, z, grad)
    return gradient


def _mask(ctx: Any) -> list[bool]:
    return [bool(needed) for needed in ctx.needs_input_grad[:3]]


def _depthwise(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...] | None:
    x, weight, *bias = ctx.saved_tensors
    if weight.shape[0] != x.shape[1]:
        return None
    window, activation = ctx.others[3:6], ctx.others[6]
    forward = torch.ops.weebill.depthwise_conv2d.default
    grad = _before_activation(
        activation, lambda: forward(x, weight, bias[0] if bias else None, *window, "none"), grad
    )
    mask = _mask(ctx)
    found = torch.ops.weebill.depthwise_conv2d_backward.default(grad, x, weight, *window, mask)
    return (*_wanted(found, mask), None, None, None, None)


def _pointwise(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, *bias = ctx.saved_tensors
    forward = torch.ops.weebill.pointwise_conv2d.default
    grad = _before_activation(
        ctx.others[3], lambda: forward(x, weight, bias[0] if bias else None, "none"), grad
    )
    mask = _mask(ctx)
    found = torch.ops.weebill.pointwise_conv2d_backward.default(grad, x, weight, mask)
    return (*_wanted(found, mask), None)


def _batch_norm_activation(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, mean, var = ctx.saved_tensors
    x, weight, bias = (inputs[ctx.places.index(i)] if i in ctx.places else None for i in range(3))
    mask = _mask(ctx)
    found = torch.ops.weebill.batch_norm_activation_backward.default(
        grad, x, weight, bias, mean, var, *ctx.others[3:], mask
    )
    return (*_wanted(found, mask), None, None)


def _channel_shuffle(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The shuffle that undoes it."""
    groups = ctx.others[1]
    return torch.ops.weebill.channel_shuffle.default(grad, grad.shape[1] // groups), None


def _wanted(found: Sequence[Tensor], mask: Sequence[bool]) -> list[Tensor | None]:
    return [gradient if wanted else None for gradient, wanted in zip(found, mask, strict=True)]
