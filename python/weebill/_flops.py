"""Operation counts of the ops, for torch's `FlopCounterMode`.

As torch counts its own convolutions: two operations for each multiply-add, none for biases,
activations, pools and the scaling of a squeeze-excite. Each function has the name and arguments of
its op (csrc/bindings/ops.cpp), with shapes in the places of tensors; `out_shape` is the result's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

from torch import Tensor

from weebill import _C

Shape: TypeAlias = Sequence[int]


def _convolution(pixels: int, weight: Shape) -> int:
    """2 x multiply-adds of a convolution or linear layer that makes so many pixels."""
    return 2 * pixels * prod(weight)


def _pixels(shape: Shape) -> int:
    """Of all images."""
    return shape[0] * prod(shape[2:])


def run(x: Tensor, records: Tensor, geometry: Sequence[int], *_: Any, **__: Any) -> int:
    """The counts are in the records: this one takes tensors."""
    return 2 * _C.multiply_adds(x.shape, records.numpy())


def conv2d(x: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return _convolution(_pixels(out_shape), weight)


def pool_linear(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return _convolution(x[0], weight)


def squeeze_excite(
    x: Shape,
    reduce_weight: Shape,
    reduce_bias: Shape | None,
    expand_weight: Shape,
    *_: Any,
    **__: Any,
) -> int:
    return _convolution(x[0], reduce_weight) + _convolution(x[0], expand_weight)


def depthwise_pointwise(
    x: Shape,
    depthwise_weight: Shape,
    depthwise_bias: Shape | None,
    pointwise_weight: Shape,
    *_: Any,
    out_shape: Shape,
    **__: Any,
) -> int:
    pixels = _pixels(out_shape)
    return _convolution(pixels, depthwise_weight) + _convolution(pixels, pointwise_weight)


def inverted_residual(
    x: Shape,
    expand_weight: Shape | None,
    expand_bias: Shape | None,
    depthwise_weight: Shape,
    depthwise_bias: Shape | None,
    se_reduce_weight: Shape | None,
    se_reduce_bias: Shape | None,
    se_expand_weight: Shape | None,
    se_expand_bias: Shape | None,
    project_weight: Shape,
    *_: Any,
    out_shape: Shape,
    **__: Any,
) -> int:
    before, after = _pixels(x), _pixels(out_shape)
    weights = (
        (before, expand_weight),
        (after, depthwise_weight),
        (x[0], se_reduce_weight),
        (x[0], se_expand_weight),
        (after, project_weight),
    )
    return sum(_convolution(pixels, weight) for pixels, weight in weights if weight is not None)


def no_products(*_: Any, **__: Any) -> int:
    return 0


def shuffle_unit(
    x: Shape,
    expand_weight: Shape | None,
    expand_bias: Shape | None,
    depthwise_weight: Shape,
    depthwise_bias: Shape | None,
    project_weight: Shape,
    project_bias: Shape | None,
    shortcut_depthwise_weight: Shape | None,
    shortcut_depthwise_bias: Shape | None,
    shortcut_project_weight: Shape | None,
    *_: Any,
    out_shape: Shape,
    **__: Any,
) -> int:
    before, after = _pixels(x), _pixels(out_shape)
    weights = (
        (before, expand_weight),
        (after, depthwise_weight),
        (after, project_weight),
        (after, shortcut_depthwise_weight),
        (after, shortcut_project_weight),
    )
    return sum(_convolution(pixels, weight) for pixels, weight in weights if weight is not None)


def shuffle_unit_v1(
    x: Shape,
    expand_weight: Shape,
    expand_bias: Shape | None,
    depthwise_weight: Shape,
    depthwise_bias: Shape | None,
    project_weight: Shape,
    *_: Any,
    out_shape: Shape,
    **__: Any,
) -> int:
    before, after = _pixels(x), _pixels(out_shape)
    weights = ((before, expand_weight), (after, depthwise_weight), (after, project_weight))
    return sum(_convolution(pixels, weight) for pixels, weight in weights)


def convolution_backward(dy: Shape, x: Shape, weight: Shape, *arguments: Any, **_: Any) -> int:
    """A product each for the gradients by input and weight, as the last argument, a mask, asks."""
    by_input, by_weight, _bias = arguments[-1]
    return (int(by_input) + int(by_weight)) * _convolution(_pixels(dy), weight)


def normalized_convolution(
    x: Shape,
    input_statistics: Shape | None,
    input_activation: str,
    weight: Shape,
    *_: Any,
    out_shape: Sequence[Shape],
    **__: Any,
) -> int:
    return conv2d(x, weight, out_shape=out_shape[0])


def normalized_convolution_backward(
    dy: Shape,
    z: Shape,
    statistics: Shape,
    sums: Shape,
    x: Shape,
    input_statistics: Shape | None,
    input_activation: str,
    weight: Shape,
    norm_weight: Shape | None,
    norm_bias: Shape | None,
    eps: float,
    activation: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_mask: Sequence[bool],
    *_: Any,
    **__: Any,
) -> int:
    return convolution_backward(z, x, weight, output_mask[:3])


#: By the name of the op: (formula, whether it takes tensors instead of shapes).
FORMULAS: dict[str, tuple[Callable[..., int], bool]] = {
    "run": (run, True),
    "conv2d": (conv2d, False),
    "depthwise_conv2d": (conv2d, False),
    "pointwise_conv2d": (conv2d, False),
    "pool_linear": (pool_linear, False),
    "squeeze_excite": (squeeze_excite, False),
    "depthwise_pointwise": (depthwise_pointwise, False),
    "inverted_residual": (inverted_residual, False),
    "channel_shuffle": (no_products, False),
    "shuffle_unit": (shuffle_unit, False),
    "shuffle_unit_v1": (shuffle_unit_v1, False),
    "depthwise_conv2d_backward": (convolution_backward, False),
    "pointwise_conv2d_backward": (convolution_backward, False),
    "batch_norm_activation": (no_products, False),
    "batch_norm_activation_backward": (no_products, False),
}

#: Of the ops of which nodes of training are made; all others of those multiply no matrices.
TRAINING_FORMULAS: dict[str, Callable[..., int]] = {
    "normalized_convolution": normalized_convolution,
    "normalized_convolution_backward": normalized_convolution_backward,
}
