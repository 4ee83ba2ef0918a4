"""Runs of convolution, BatchNorm and activation as one node of the graph each.

A run's convolutions are depthwise or 1 x 1, and each is followed by a BatchNorm with batch
statistics. Between two layers goes what the convolution gave, with its statistics: the next one
normalises as it reads, forward and backward, and only the run's result is written normalised. Saved
for the backward are the input and one tensor per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weebill import _gradients, _ops, _reference
from weebill.fusion import activations

Parameters: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]

_kernels = torch.ops.weebill


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


def shuffled(first: Sequence[Layer], second: Sequence[Layer], x: Tensor) -> Tensor:
    """channel_shuffle(concat(first(x), second(x)), 2), or without first layers and x1 and x2 being
    the halves of x, channel_shuffle(concat(x1, second(x2)), 2)."""
    parameters = [p for layer in (*first, *second) for p in layer.parameters]
    y: Tensor = _ShuffledRuns.apply(x, first, second, *parameters)  # type: ignore[no-untyped-call]
    return y


def squeeze_excite(
    x: Tensor,
    reduce: nn.Conv2d,
    expand: nn.Conv2d,
    activation: nn.Module,
    gate: nn.Module,
) -> Tensor:
    """x * gate(expand(activation(reduce(mean_hw(x)))))."""
    parameters = reduce.weight, reduce.bias, expand.weight, expand.bias
    if any(True for layer in (activation, gate) for _ in layer.parameters()):
        # whose gradients autograd has to make
        return _excited(x, activation, gate, *parameters)
    x = x.contiguous(memory_format=torch.channels_last)
    y: Tensor = _SqueezeExcite.apply(x, activation, gate, *parameters)  # type: ignore[no-untyped-call]
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


def _move_all_statistics(layers: Sequence[Layer], outputs: Sequence[Tensor]) -> None:
    """`move_statistics` of all layers, in few calls where they have the same momentum."""
    norms = [layer.norm for layer in layers]
    statistics = outputs[1::2]
    counts = [z.numel() // z.shape[1] for z in outputs[::2]]
    momentum = norms[0].momentum
    running = [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
    seen = [n.num_batches_tracked for n in norms if n.num_batches_tracked is not None]
    if (
        momentum is None
        or any(norm.momentum != momentum or not norm.track_running_stats for norm in norms)
        or len(running) + len(seen) < 3 * len(norms)
    ):
        for norm, values, count in zip(norms, statistics, counts, strict=True):
            move_statistics(norm, values[0], values[1], count)
        return
    unbiased = torch._foreach_mul(
        [values[1] for values in statistics], [n / (n - 1) for n in counts]
    )
    batch = [t for values, var in zip(statistics, unbiased, strict=True) for t in (values[0], var)]
    torch._foreach_add_(seen, 1)
    torch._foreach_lerp_(running, batch, momentum)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layers: Sequence[Layer], *parameters: Tensor | None) -> Tensor:
        outputs = _forward(layers, x)
        ctx.layers = layers
        ctx.save_for_backward(x, *parameters, *outputs)
        y: Tensor = _kernels.normalize.default(*outputs[-2:], layers[-1].activation)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        count = 3 * len(ctx.layers)
        x, *rest = ctx.saved_tensors
        parameters, outputs = rest[:count], rest[count:]
        if torch.is_grad_enabled():
            by_x, *others = _differentiated(
                lambda x, *values: _plain(ctx.layers, x, values), (x, *parameters), ctx, grad
            )
            return (by_x, None, *others)
        grad = grad.contiguous(memory_format=torch.channels_last)
        needs = ctx.needs_input_grad
        by_x, found = _backward(ctx.layers, x, parameters, outputs, grad, [needs[0], *needs[2:]])
        return (by_x, None, *found)


class _ShuffledRuns(torch.autograd.Function):
    """`shuffled`; `first` are the layers of the first half, none for the channels as they come."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        first: Sequence[Layer],
        second: Sequence[Layer],
        *parameters: Tensor | None,
    ) -> Tensor:
        half = x.shape[1] // 2
        if first:
            before = _forward(first, x)
            beside = _kernels.normalize.default(*before[-2:], first[-1].activation)
        else:
            before, beside = [], x[:, :half]
        outputs = _forward(second, x if first else x[:, half:])
        ctx.runs = first, second
        ctx.save_for_backward(x, *parameters, *before, *outputs)
        y: Tensor = _kernels.normalize_shuffle.default(beside, *outputs[-2:], second[-1].activation)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, second = ctx.runs
        x, *rest = ctx.saved_tensors
        count = 3 * (len(first) + len(second))
        parameters, outputs = rest[:count], rest[count:]
        if torch.is_grad_enabled():
            by_x, *others = _differentiated(
                lambda x, *values: _plain_shuffled(first, second, x, values),
                (x, *parameters),
                ctx,
                grad,
            )
            return (by_x, None, None, *others)
        grad = grad.contiguous(memory_format=torch.channels_last)
        needs = list(ctx.needs_input_grad[3:])
        wants_x = ctx.needs_input_grad[0]
        if not first:
            half = x.shape[1] // 2
            by_x = torch.empty_like(x)
            by_second = _kernels.unshuffle.default(grad, by_x[:, :half])
            _, found = _backward(
                second,
                x[:, half:],
                parameters,
                outputs,
                by_second,
                [wants_x, *needs],
                by_x[:, half:] if wants_x else None,
            )
            return (by_x if wants_x else None, None, None, *found)
        n, channels, height, width = grad.shape
        by_first = grad.new_empty((n, height, width, channels // 2)).permute(0, 3, 1, 2)
        by_second = _kernels.unshuffle.default(grad, by_first)
        split, made = 3 * len(first), 2 * len(first)
        one, found = _backward(
            first, x, parameters[:split], outputs[:made], by_first, [wants_x, *needs[:split]]
        )
        other, more = _backward(
            second, x, parameters[split:], outputs[made:], by_second, [wants_x, *needs[split:]]
        )
        total = one.add_(other) if one is not None and other is not None else None
        return (total, None, None, *found, *more)


def _excited(
    x: Tensor,
    activation: nn.Module,
    gate: nn.Module,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
) -> Tensor:
    """Squeeze-and-excitation in plain torch."""
    hidden = activation(F.conv2d(x.mean((2, 3), keepdim=True), w1, b1))
    scale: Tensor = gate(F.conv2d(hidden, w2, b2))
    return x * scale


class _Activated:
    """What a function makes of values. One that is not known has a graph of its own."""

    def __init__(self, function: nn.Module, values: Tensor) -> None:
        self.gradient_of = _gradients.ACTIVATION_GRADIENTS.get(
            activations.of_module(function) or ""
        )
        self.values = values
        if self.gradient_of is not None:
            self.result: Tensor = function(values.clone())  # which may work in place
            return
        with torch.enable_grad():
            self.made: Tensor = function(values.requires_grad_().clone())
        self.result = self.made.detach()

    def backward(self, grad: Tensor) -> Tensor:
        if self.gradient_of is not None:
            return self.gradient_of(grad, self.values)
        (by_values,) = torch.autograd.grad(self.made, self.values, grad, retain_graph=True)
        return by_values


class _SqueezeExcite(torch.autograd.Function):
    """Convolutions and passes over whole images on kernels, the two functions as graphs of their
    own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, activation: nn.Module, gate: nn.Module, *parameters: Tensor | None
    ) -> Tensor:
        w1, b1, w2, b2 = parameters
        means = _kernels.channel_means.default(x)[:, :, None, None]
        hidden = _Activated(activation, _ops.pointwise_conv2d(means, w1, b1, "none"))
        scale = _Activated(gate, _ops.pointwise_conv2d(hidden.result, w2, b2, "none"))
        ctx.functions, ctx.values = (activation, gate), (means, hidden, scale)
        ctx.save_for_backward(x, *parameters)
        y: Tensor = _kernels.scale_channels.default(x, scale.result.flatten(1), None)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            by_x, *others = _differentiated(
                lambda x, *values: _excited(x, *ctx.functions, *values),
                (x, *parameters),
                ctx,
                grad,
            )
            return (by_x, None, None, *others)
        grad = grad.contiguous(memory_format=torch.channels_last)
        means, hidden, scale = ctx.values
        w1, _, w2, _ = parameters
        wants_x, _, _, *wanted = ctx.needs_input_grad
        dots = _kernels.channel_dots.default(grad, x)[:, :, None, None]
        by_hidden, *second = _ops.pointwise_conv2d_backward(
            scale.backward(dots), hidden.result, w2, [True, *wanted[2:]]
        )
        by_means, *first = _ops.pointwise_conv2d_backward(
            hidden.backward(by_hidden), means, w1, [wants_x, *wanted[:2]]
        )
        by_x = None
        if wants_x:
            by_pixel = by_means.flatten(1) / (x.shape[2] * x.shape[3])
            by_x = _kernels.scale_channels.default(grad, scale.result.flatten(1), by_pixel)
        found = zip((*first, *second), wanted, strict=True)
        return (by_x, None, None, *(g if needed else None for g, needed in found))


def _forward(layers: Sequence[Layer], x: Tensor) -> list[Tensor]:
    """Of each layer what the convolution gives, and its statistics."""
    outputs: list[Tensor] = []
    z, statistics, activation = x, None, "none"
    for layer in layers:
        z, statistics = _kernels.normalized_convolution.default(
            z, statistics, activation, *_settings(layer)
        )
        activation = layer.activation
        outputs += z, statistics
    _move_all_statistics(layers, outputs)
    return outputs


def _backward(
    layers: Sequence[Layer],
    x: Tensor,
    parameters: Sequence[Tensor | None],
    outputs: Sequence[Tensor],
    grad: Tensor,
    needs: Sequence[bool],
    into: Tensor | None = None,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients by x, which goes to `into` if that is given, and by the parameters."""
    found: list[Tensor | None] = [None] * len(parameters)
    sums = _kernels.normalize_sums.default(grad, *outputs[-2:], layers[-1].activation)
    for i in reversed(range(len(layers))):
        before = (outputs[2 * i - 2], outputs[2 * i - 1]) if i else (x, None)
        # A layer that another one comes before has its gradient asked for, wanted or not.
        mask = [i > 0 or needs[0], *needs[1 + 3 * i : 4 + 3 * i]]
        grad, *gradients, sums = _kernels.normalized_convolution_backward.default(
            grad,
            *outputs[2 * i : 2 * i + 2],
            sums,
            *before,
            layers[i - 1].activation if i else "none",
            *_settings(layers[i], parameters[3 * i : 3 * i + 3]),
            mask,
            into if i == 0 else None,
        )
        found[3 * i : 3 * i + 3] = [
            gradient if wanted else None
            for gradient, wanted in zip(gradients, mask[1:], strict=True)
        ]
    return grad if needs[0] else None, found


def _settings(layer: Layer, parameters: Sequence[Tensor | None] | None = None) -> tuple[Any, ...]:
    """The arguments of the ops that say what a layer is."""
    return *(parameters or layer.parameters), layer.norm.eps, layer.activation, *layer.window


def _plain(layers: Sequence[Layer], x: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
    """The layers in plain torch; no running statistics move."""
    for i, layer in enumerate(layers):
        weight, scale, shift = parameters[3 * i : 3 * i + 3]
        assert weight is not None
        if layer.is_depthwise:
            stride, pad, dilation = layer.window
            z = _reference.depthwise_conv2d(x, weight, None, stride, pad, dilation, "none")
        else:
            z = _reference.pointwise_conv2d(x, weight, None, "none")
        x, *_ = _reference.batch_norm_activation(z, scale, shift, layer.norm.eps, layer.activation)
    return x


def _plain_shuffled(
    first: Sequence[Layer],
    second: Sequence[Layer],
    x: Tensor,
    parameters: Sequence[Tensor | None],
) -> Tensor:
    if first:
        split = 3 * len(first)
        halves = _plain(first, x, parameters[:split]), _plain(second, x, parameters[split:])
    else:
        beside, rest = x.chunk(2, dim=1)
        halves = beside, _plain(second, rest, parameters)
    return _reference.channel_shuffle(torch.cat(halves, dim=1), 2)


def _differentiated(
    forward: Callable[..., Tensor], inputs: Sequence[Tensor | None], ctx: Any, grad: Tensor
) -> list[Tensor | None]:
    """Gradients by the inputs, the tensors among ctx's arguments, that can be differentiated."""
    # Views, so that each argument gets its own gradient, and a second derivative finds its way.
    views = [None if value is None else value.view_as(value) for value in inputs]
    with torch.enable_grad():
        y = forward(*views)
    arguments = len(ctx.needs_input_grad)
    needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[arguments - len(inputs) + 1 :]]
    wanted = [v for v, needed in zip(views, needs, strict=True) if needed and v is not None]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if needed else None for needed in needs]
