"""The operators as functions on torch tensors.

All of them, but for `channel_shuffle`, which moves elements of any dtype and keeps x's memory
format. Tensors are float32 and on the CPU. x is (N, C, H, W) in any memory format;
channels_last is used as it is, anything else costs one copy. The result is channels_last. Weights
are torch's own and are packed inside the call: for a model, pack once (`weebill.convert`).
Gradients are exact; the backward computes the forward again with plain torch. Under CPU autocast,
floating inputs are converted to float32. Results do not depend on the number of threads.

Windows. stride, dilation: an int or (h, w). padding: an int, (h, w), (top, left, bottom, right), or
"same": TensorFlow's SAME, H' = ceil(H / stride), where the odd zero goes to the bottom and right.
Otherwise H' = (H + top + bottom - dilation * (k - 1) - 1) // stride + 1.

Activations. One of `ACTIVATIONS`; hardsigmoid is clip(x/6 + 1/2, 0, 1), hardsigmoid_paddle is
clip(x/5 + 1/2, 0, 1).

Errors. ValueError: a shape or value does not fit. TypeError: a tensor is not float32, not strided
or not on the CPU, or an argument is of the wrong kind. Messages name the op, the argument, the rule
and the value.

Accuracy. |y - exact| <= gamma * (|W| * |x|) per convolution, gamma = n * 2^-24 / (1 - n * 2^-24)
for n terms: the bound of a sum in float32, in any order. tests/ops holds the ops to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weebill import _C, _eager, _ops
from weebill._arguments import Padding, Size, pair, sides
from weebill._errors import call, fail
from weebill._shuffle_ops import channel_shuffle, shuffle_unit, shuffle_unit_v1

__all__ = [
    "ACTIVATIONS",
    "channel_shuffle",
    "conv2d",
    "depthwise_conv2d",
    "depthwise_pointwise",
    "inverted_residual",
    "pointwise_conv2d",
    "pool_linear",
    "run",
    "shuffle_unit",
    "shuffle_unit_v1",
    "squeeze_excite",
]

#: The names that activation arguments take.
ACTIVATIONS: tuple[str, ...] = tuple(_C.activation_names())


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: str = "none",
) -> Tensor:
    """Convolution with its activation.

        y[n,o,i,j] = act(b[o] + sum_{c,u,v} w[o,c,u,v] * x[n, g+c, i*s+u*d-p, j*s+v*d-q])

    with g the first input channel of o's group. The dense convolution of stems; depthwise and 1 x 1
    weights take their own kernels.

    Args:
        x: (N, C, H, W).
        weight: (O, C / groups, kh, kw).
        bias: (O).
        stride, padding, dilation: See the module.
        groups: Divides C and O.
        activation: act.

    Returns:
        (N, O, H', W').

    Raises:
        ValueError: Shapes do not agree, or the window is larger than the padded input.
        TypeError: See the module.

    Source: as `torch.nn.functional.conv2d`.

    Example:
        >>> x = torch.ones(1, 3, 4, 4)
        >>> conv2d(x, torch.ones(8, 3, 3, 3), stride=2, padding="same", activation="relu6").shape
        torch.Size([1, 8, 2, 2])
    """
    op = "conv2d"
    strides, dilations = pair(op, "stride", stride), pair(op, "dilation", dilation)
    pads = sides(op, padding)
    try:
        return _ops.conv2d(x, weight, bias, strides, pads, dilations, groups, activation)
    except RuntimeError as error:
        fail(error, op, x=x, weight=weight, bias=bias)


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    activation: str = "none",
) -> Tensor:
    """Depthwise convolution: every channel has its own filter.

        y[n,c*m+r,i,j] = act(b[c*m+r] + sum_{u,v} w[c*m+r,0,u,v] * x[n,c,i*s+u*d-p,j*s+v*d-q])

    with r from 0 to m-1. 3 x 3 and 5 x 5 with m = 1, dilation 1 and strides 1 and 2 are tuned, any
    other window takes a general kernel.

    Args:
        x: (N, C, H, W).
        weight: (C * m, 1, kh, kw), m >= 1.
        bias: (C * m).
        stride, padding, dilation: See the module.
        activation: act.

    Returns:
        (N, C * m, H', W').

    Raises:
        ValueError: Shapes do not agree, or the window is larger than the padded input.
        TypeError: See the module.

    Source: MobileNets, arXiv:1704.04861, section 3.1.

    Example:
        >>> x = torch.ones(1, 16, 7, 7)
        >>> depthwise_conv2d(x, torch.ones(16, 1, 3, 3), padding=1, activation="hardswish").shape
        torch.Size([1, 16, 7, 7])
    """
    op = "depthwise_conv2d"
    strides, dilations = pair(op, "stride", stride), pair(op, "dilation", dilation)
    pads = sides(op, padding)
    try:
        return _ops.depthwise_conv2d(x, weight, bias, strides, pads, dilations, activation)
    except RuntimeError as error:
        fail(error, op, x=x, weight=weight, bias=bias)


def pointwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none"
) -> Tensor:
    """1 x 1 convolution: a matrix product on every pixel.

        y[n,o,i,j] = act(b[o] + sum_c w[o,c] * x[n,c,i,j])

    Args:
        x: (N, C, H, W).
        weight: (O, C, 1, 1).
        bias: (O).
        activation: act.

    Returns:
        (N, O, H, W).

    Raises:
        ValueError: Shapes do not agree.
        TypeError: See the module.

    Source: MobileNets, arXiv:1704.04861, section 3.1.

    Example:
        >>> pointwise_conv2d(torch.ones(1, 2, 5, 5), torch.ones(4, 2, 1, 1)).shape
        torch.Size([1, 4, 5, 5])
    """
    try:
        return _ops.pointwise_conv2d(x, weight, bias, activation)
    except RuntimeError as error:
        fail(error, "pointwise_conv2d", x=x, weight=weight, bias=bias)


def pool_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none"
) -> Tensor:
    """Global average pooling, then a linear layer: a classifier's head.

        y[n,o] = act(b[o] + sum_c w[o,c] * mean_{i,j} x[n,c,i,j])

    Args:
        x: (N, C, H, W).
        weight: (O, C).
        bias: (O).
        activation: act.

    Returns:
        (N, O).

    Raises:
        ValueError: Shapes do not agree.
        TypeError: See the module.

    Source: Network in Network, arXiv:1312.4400, section 3.2.

    Example:
        >>> pool_linear(torch.ones(1, 2, 7, 7), torch.ones(10, 2)).shape
        torch.Size([1, 10])
    """
    return call(
        _ops.pool_linear,
        "pool_linear",
        x=x,
        weight=weight,
        bias=bias,
        activation=activation,
    )


def squeeze_excite(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor | None,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    activation: str = "relu",
    gate: str = "hardsigmoid",
) -> Tensor:
    """Squeeze-and-excitation: every channel is scaled by a factor computed from all the means.

        y[n,c,i,j] = x[n,c,i,j] * gate(b2 + W2 * act(b1 + W1 * mean_{i,j} x[n]))[c]

    Args:
        x: (N, C, H, W).
        reduce_weight: W1, (S, C, 1, 1).
        reduce_bias: b1, (S).
        expand_weight: W2, (C, S, 1, 1).
        expand_bias: b2, (C).
        activation: act; relu in most networks, silu in EfficientNet.
        gate: hardsigmoid in MobileNetV3, sigmoid in EfficientNet.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: Shapes do not agree.
        TypeError: See the module.

    Source: Squeeze-and-Excitation Networks, arXiv:1709.01507, section 3.

    Example:
        >>> x, down, up = torch.ones(1, 8, 3, 3), torch.ones(2, 8, 1, 1), torch.ones(8, 2, 1, 1)
        >>> squeeze_excite(x, down, None, up, None).shape
        torch.Size([1, 8, 3, 3])
    """
    return call(
        _ops.squeeze_excite,
        "squeeze_excite",
        x=x,
        reduce_weight=reduce_weight,
        reduce_bias=reduce_bias,
        expand_weight=expand_weight,
        expand_bias=expand_bias,
        activation=activation,
        gate=gate,
    )


def depthwise_pointwise(
    x: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor | None,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    depthwise_activation: str = "none",
    pointwise_activation: str = "none",
    residual: bool = False,
) -> Tensor:
    """Depthwise k x k, then pointwise 1 x 1, without writing the intermediate to memory.

        y = [x +] act2(b2 + W2 * act1(b1 + depthwise(x, W1)))

    Args:
        x: (N, C, H, W).
        depthwise_weight: W1, (C, 1, kh, kw).
        depthwise_bias: b1, (C).
        pointwise_weight: W2, (O, C, 1, 1).
        pointwise_bias: b2, (O).
        stride, padding, dilation: Of the depthwise convolution; see the module.
        depthwise_activation: act1.
        pointwise_activation: act2.
        residual: Add x; needs O == C and a result of x's size.

    Returns:
        (N, O, H', W').

    Raises:
        ValueError: Shapes do not agree, or the window is larger than the padded input.
        TypeError: See the module.

    Source: MobileNets, arXiv:1704.04861, section 3.1.

    Example:
        >>> x, dw, pw = torch.ones(1, 8, 6, 6), torch.ones(8, 1, 3, 3), torch.ones(16, 8, 1, 1)
        >>> depthwise_pointwise(x, dw, None, pw, None, stride=2, padding=1).shape
        torch.Size([1, 16, 3, 3])
    """
    op = "depthwise_pointwise"
    strides, dilations = pair(op, "stride", stride), pair(op, "dilation", dilation)
    pads = sides(op, padding)
    return call(
        _ops.depthwise_pointwise,
        op,
        x=x,
        depthwise_weight=depthwise_weight,
        depthwise_bias=depthwise_bias,
        pointwise_weight=pointwise_weight,
        pointwise_bias=pointwise_bias,
        stride=strides,
        padding=pads,
        dilation=dilations,
        depthwise_activation=depthwise_activation,
        pointwise_activation=pointwise_activation,
        residual=residual,
    )


def inverted_residual(
    x: Tensor,
    *,
    depthwise_weight: Tensor,
    project_weight: Tensor,
    expand_weight: Tensor | None = None,
    expand_bias: Tensor | None = None,
    depthwise_bias: Tensor | None = None,
    se_reduce_weight: Tensor | None = None,
    se_reduce_bias: Tensor | None = None,
    se_expand_weight: Tensor | None = None,
    se_expand_bias: Tensor | None = None,
    project_bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    expand_activation: str = "none",
    depthwise_activation: str = "none",
    se_activation: str = "relu",
    se_gate: str = "hardsigmoid",
    project_activation: str = "none",
    residual: bool = False,
) -> Tensor:
    """Expand 1 x 1, depthwise k x k, [squeeze-excite], project 1 x 1, [add x], in one op.

        d = act_d(b_d + depthwise(act_e(b_e + W_e * x), W_d))
        y = [x +] act_p(b_p + W_p * (d * gate(b_s2 + W_s2 * act_s(b_s1 + W_s1 * mean(d)))))

    Without `expand_weight`, d is computed from x itself; without the `se_` weights, y is from d.

    Args:
        x: (N, C, H, W).
        depthwise_weight: W_d, (E, 1, kh, kw); E == C without expansion.
        project_weight: W_p, (O, E, 1, 1).
        expand_weight: W_e, (E, C, 1, 1).
        expand_bias, depthwise_bias, project_bias: (E), (E), (O).
        se_reduce_weight: W_s1, (S, E, 1, 1).
        se_expand_weight: W_s2, (E, S, 1, 1).
        se_reduce_bias, se_expand_bias: (S), (E).
        stride, padding, dilation: Of the depthwise convolution; see the module.
        expand_activation, depthwise_activation, project_activation: act_e, act_d, act_p.
        se_activation, se_gate: act_s, gate.
        residual: Add x; needs O == C and a result of x's size.

    Returns:
        (N, O, H', W').

    Raises:
        ValueError: Shapes do not agree, or the window is larger than the padded input.
        TypeError: See the module.

    Source: MobileNetV2, arXiv:1801.04381, section 3.3; MobileNetV3, arXiv:1905.02244, section 5.3.

    Example:
        >>> x, up, dw = torch.ones(1, 8, 6, 6), torch.ones(24, 8, 1, 1), torch.ones(24, 1, 5, 5)
        >>> down = torch.ones(8, 24, 1, 1)
        >>> inverted_residual(x, expand_weight=up, depthwise_weight=dw, project_weight=down,
        ...                   padding=2, residual=True).shape
        torch.Size([1, 8, 6, 6])
    """
    op = "inverted_residual"
    strides, dilations = pair(op, "stride", stride), pair(op, "dilation", dilation)
    pads = sides(op, padding)
    return call(
        _ops.inverted_residual,
        op,
        x=x,
        expand_weight=expand_weight,
        expand_bias=expand_bias,
        depthwise_weight=depthwise_weight,
        depthwise_bias=depthwise_bias,
        se_reduce_weight=se_reduce_weight,
        se_reduce_bias=se_reduce_bias,
        se_expand_weight=se_expand_weight,
        se_expand_bias=se_expand_bias,
        project_weight=project_weight,
        project_bias=project_bias,
        stride=strides,
        padding=pads,
        dilation=dilations,
        expand_activation=expand_activation,
        depthwise_activation=depthwise_activation,
        se_activation=se_activation,
        se_gate=se_gate,
        project_activation=project_activation,
        residual=residual,
    )


def run(x: Tensor, records: Tensor, geometry: Sequence[int], flatten: bool = False) -> Tensor:
    """Runs packed blocks one after the other in one call. For inference.

    Args:
        x: (N, C, H, W).
        records: 1-D, uint8: packed blocks (`weebill._C.pack_...`), one or several joined, at an
            address that is a multiple of 16; loads are fastest at multiples of 64, which is what
            torch allocates.
        geometry: `weebill._C.geometry(records)`. The shape of a result follows from it, for tracers
            that can't read the records.
        flatten: Whether the result has O, H' and W' as one dimension.

    Returns:
        (N, O, H', W') of the last block, channels_last; flattened (N, O * H' * W').

    Raises:
        ValueError: The records are damaged or do not fit x.
        TypeError: See the module; or records is not uint8.
        NotImplementedError: x requires a gradient or has a tangent; this op has no derivatives.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(
            "run: x must not require a gradient, got requires_grad=True; use torch.no_grad() or an "
            "op with plain weights"
        )
    if _eager.is_differentiated(x):
        raise NotImplementedError(
            "run: x must not be differentiated by forward mode or a transform of torch.func, got "
            "an x that is; use an op with plain weights"
        )
    return call(
        _ops.run,
        "run",
        x=x,
        records=records,
        geometry=geometry,
        flatten=flatten,
    )
