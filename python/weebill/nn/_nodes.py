"""Runs of convolution, BatchNorm and activation as one node of the graph each.

A run's convolutions are depthwise or 1 x 1, and each is followed by a BatchNorm with batch
statistics. Between two layers goes what the convolution gave, with its statistics: the next one
normalises as it reads, forward and backward, and only the run's result is written normalised. Saved
for the backward are the input and one tensor per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from weebill import _reference

Parameters: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]

_ops = torch.ops.weebill


def is_depthwise(layer: nn.Conv2d) -> bool:
    """With one filter per channel."""
    return layer.groups == layer.in_channels == layer.out_channels


def output_shape(layer: nn.Conv2d, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Of the convolution for an input of this shape; without pixels if the window does not fit."""
    sizes = []
    for axis in range(2):
        size, stride = shape[2 + axis], layer.stride[axis]
        if hasattr(layer, "same_padding"):
            sizes.append(-(-size // stride))
        else:
            pad = layer.padding[axis]
            assert isinstance(pad, int)
            reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
            sizes.append((size + 2 * pad - reach) // stride + 1)
    return shape[0], layer.out_channels, sizes[0], sizes[1]


class Layer(NamedTuple):
    """A convolution, the BatchNorm after it, and the activation after that."""

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d
    activation: str

    @property
    def window(self) -> tuple[list[int], list[int], list[int]]:
        """Stride, padding (top, left, bottom, right; -1 for SAME) and dilation."""
        c = self.convolution
        same = hasattr(c, "same_padding")
        return list(c.stride), [-1] if same else [*c.padding, *c.padding], list(c.dilation)

    @property
    def is_depthwise(self) -> bool:
        return is_depthwise(self.convolution)

    @property
    def parameters(self) -> Parameters:
        return self.convolution.weight, self.norm.weight, self.norm.bias


def run(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """What the layers give one after the other; running statistics move."""
    parameters = [p for layer in layers for p in layer.parameters]
    y: Tensor = _Run.apply(x, layers, *parameters)  # type: ignore[no-untyped-call]
    return y


def move_statistics(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """Moves the running statistics; `var` is the biased one of `count` values."""
    if not norm.track_running_stats or norm.running_mean is None:
        return
    assert norm.running_var is not None
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:  # the plain average of all batches
            momentum = 1.0 / float(norm.num_batches_tracked)
    momentum = momentum or 0.0
    with torch.no_grad():
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(var * (count / (count - 1)), momentum)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[Layer], *parameters: Tensor | None) -> Tensor:
        outputs: list[Tensor] = []
        z, statistics, activation = x, None, "none"
        for layer in layers:
            z, statistics = _ops.normalized_convolution.default(
                z, statistics, activation, *_settings(layer)
            )
            activation = layer.activation
            outputs += z, statistics
            move_statistics(layer.norm, statistics[0], statistics[1], z.numel() // z.shape[1])
        ctx.layers = layers
        ctx.save_for_backward(x, *parameters, *outputs)
        assert statistics is not None
        y: Tensor = _ops.normalize.default(z, statistics, activation)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        count = 3 * len(ctx.layers)
        x, *rest = ctx.saved_tensors
        parameters, outputs = rest[:count], rest[count:]
        if torch.is_grad_enabled():
            return _plain_backward(ctx, x, parameters, grad)
        needs = ctx.needs_input_grad
        found: list[Tensor | None] = [None] * count
        grad = grad.contiguous(memory_format=torch.channels_last)
        sums = _ops.normalize_sums.default(grad, *outputs[-2:], ctx.layers[-1].activation)
        for i in reversed(range(len(ctx.layers))):
            before = (outputs[2 * i - 2], outputs[2 * i - 1]) if i else (x, None)
            # A layer that another one comes before has its gradient asked for, wanted or not.
            mask = [i > 0 or needs[0], *needs[2 + 3 * i : 5 + 3 * i]]
            grad, *gradients, sums = _ops.normalized_convolution_backward.default(
                grad,
                *outputs[2 * i : 2 * i + 2],
                sums,
                *before,
                ctx.layers[i - 1].activation if i else "none",
                *_settings(ctx.layers[i], parameters[3 * i : 3 * i + 3]),
                mask,
            )
            found[3 * i : 3 * i + 3] = [
                gradient if wanted else None
                for gradient, wanted in zip(gradients, mask[1:], strict=True)
            ]
        return (grad if needs[0] else None, None, *found)


def _settings(layer: Layer, parameters: Sequence[Tensor | None] | None = None) -> tuple[Any, ...]:
    """The arguments of the ops that say what a layer is."""
    return *(parameters or layer.parameters), layer.norm.eps, layer.activation, *layer.window


def _plain_backward(
    ctx: Any, x: Tensor, parameters: Sequence[Tensor | None], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Through plain torch, so that it can be differentiated again."""
    # Views, so that each argument gets its own gradient, and a second derivative finds its way.
    inputs = [None if value is None else value.view_as(value) for value in (x, *parameters)]
    y = inputs[0]
    assert y is not None
    with torch.enable_grad():
        for layer, at in zip(ctx.layers, range(1, len(inputs), 3), strict=True):
            weight, scale, shift = inputs[at : at + 3]
            assert weight is not None
            if layer.is_depthwise:
                stride, pad, dilation = layer.window
                z = _reference.depthwise_conv2d(y, weight, None, stride, pad, dilation, "none")
            else:
                z = _reference.pointwise_conv2d(y, weight, None, "none")
            y, *_ = _reference.batch_norm_activation(
                z, scale, shift, layer.norm.eps, layer.activation
            )
    needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[2:]]
    wanted = [v for v, needed in zip(inputs, needs, strict=True) if needed and v is not None]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    by_x, *others = (next(found) if needed else None for needed in needs)
    return (by_x, None, *others)
