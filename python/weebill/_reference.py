"""The operators in plain torch: what each one means, and how its gradient is computed.

Each function has the name and the arguments of its op (csrc/bindings/ops.cpp); what else is called
as the ops are takes the names from here. Any floating dtype and any device. Windows are in the ops'
normal form: stride and dilation (h, w); padding (top, left, bottom, right), or (-1,) for
TensorFlow's SAME.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardsigmoid_paddle": lambda x: (x / 5 + 0.5).clamp(0, 1),
    "silu": F.silu,
    "sigmoid": lambda x: x.sigmoid(),
}


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's SAME along one axis: zeros before and after, so that the output is
    ceil(size / stride). The odd one goes after."""
    reach = dilation * (kernel - 1) + 1
    if reach == 1:  # whatever the size is, which may be a symbol: so is the next case's sum
        return 0, 0
    total = (-(-size // stride) - 1) * stride + reach - size
    if reach < stride:
        total = torch.sym_max(total, 0)  # type: ignore[no-untyped-call]
    return total // 2, total - total // 2


#: A convolution on the padding (top, left, bottom, right), or None where there is none: the ops set
#: it when they compute these formulas for a gradient, so that the parts run on kernels.
Convolution = Callable[..., Tensor | None]
convolution: ContextVar[Convolution | None] = ContextVar("weebill_convolution", default=None)


def _explicit(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Sequence[int]:
    if len(padding) == 4:
        return padding
    top, bottom = same_padding(x.shape[2], weight.shape[2], stride[0], dilation[0])
    left, right = same_padding(x.shape[3], weight.shape[3], stride[1], dilation[1])
    return top, left, bottom, right


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    kernel = convolution.get()
    if kernel is not None:
        y = kernel(x, weight, bias, stride, padding, dilation, groups)
        if y is not None:
            return y
    top, left, bottom, right = padding
    symmetric = [0, 0]
    # of a symbol that would be true for sizes like the traced one's alone
    known = not any(isinstance(side, torch.SymInt) for side in padding)
    if known and top == bottom and left == right:
        symmetric = [top, left]
    else:
        x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, list(stride), symmetric, list(dilation), groups)


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
    """activation(conv2d(x, weight) + bias)."""
    padding = _explicit(x, weight, stride, padding, dilation)
    y = _convolve(x, weight, bias, stride, padding, dilation, groups)
    return ACTIVATIONS[activation](y)


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
) -> Tensor:
    """`conv2d` with one filter or more per channel."""
    return conv2d(x, weight, bias, stride, padding, dilation, x.shape[1], activation)


def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """`conv2d` with a 1 x 1 window."""
    return ACTIVATIONS[activation](_convolve(x, weight, bias))


def pool_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """activation(weight * mean_hw(x) + bias), of shape (N, O)."""
    return ACTIVATIONS[activation](F.linear(x.mean((2, 3)), weight, bias))


def squeeze_excite(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor | None,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    activation: str,
    gate: str,
) -> Tensor:
    """x * gate(expand(activation(reduce(mean_hw(x)))))."""
    mean = x.mean((2, 3), keepdim=True)
    squeezed = ACTIVATIONS[activation](_convolve(mean, reduce_weight, reduce_bias))
    return x * ACTIVATIONS[gate](_convolve(squeezed, expand_weight, expand_bias))


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
    """[x +] `pointwise_conv2d` of `depthwise_conv2d`."""
    y = depthwise_conv2d(
        x, depthwise_weight, depthwise_bias, stride, padding, dilation, depthwise_activation
    )
    y = pointwise_conv2d(y, pointwise_weight, pointwise_bias, pointwise_activation)
    return x + y if residual else y


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
    """[x +] project([se](depthwise([expand](x))))."""
    y = x
    if expand_weight is not None:
        y = pointwise_conv2d(y, expand_weight, expand_bias, expand_activation)
    y = depthwise_conv2d(
        y, depthwise_weight, depthwise_bias, stride, padding, dilation, depthwise_activation
    )
    if se_reduce_weight is not None and se_expand_weight is not None:
        y = squeeze_excite(
            y,
            se_reduce_weight,
            se_reduce_bias,
            se_expand_weight,
            se_expand_bias,
            se_activation,
            se_gate,
        )
    y = pointwise_conv2d(y, project_weight, project_bias, project_activation)
    return x + y if residual else y


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """y[:, i * groups + j] = x[:, j * (C / groups) + i]."""
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


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
    """The halves, or the branches, concatenated and shuffled by two."""
    if shortcut_depthwise_weight is None:
        first, y = x.chunk(2, 1)
    else:
        y = x
        first = depthwise_conv2d(
            x,
            shortcut_depthwise_weight,
            shortcut_depthwise_bias,
            stride,
            padding,
            dilation,
            shortcut_depthwise_activation,
        )
        if shortcut_project_weight is not None:
            first = pointwise_conv2d(
                first, shortcut_project_weight, shortcut_project_bias, shortcut_project_activation
            )
    if expand_weight is not None:
        y = pointwise_conv2d(y, expand_weight, expand_bias, expand_activation)
    y = depthwise_conv2d(
        y, depthwise_weight, depthwise_bias, stride, padding, dilation, depthwise_activation
    )
    y = pointwise_conv2d(y, project_weight, project_bias, project_activation)
    return channel_shuffle(torch.cat((first, y), 1), 2)


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
    """act([x + | pool(x) concat] project(depthwise(shuffle(expand(x)))))."""
    y = F.conv2d(x, expand_weight, expand_bias, 1, 0, 1, expand_groups)
    y = ACTIVATIONS[expand_activation](y)
    y = depthwise_conv2d(
        channel_shuffle(y, groups),
        depthwise_weight,
        depthwise_bias,
        stride,
        padding,
        dilation,
        depthwise_activation,
    )
    y = F.conv2d(y, project_weight, project_bias, 1, 0, 1, project_groups)
    if shortcut == "add":
        y = x + y
    elif shortcut == "concat":
        kernel = depthwise_weight.shape[2:]
        mean = x.new_full((x.shape[1], 1, *kernel), 1 / (kernel[0] * kernel[1]))
        pooled = depthwise_conv2d(x, mean, None, stride, padding, dilation, "none")
        y = torch.cat((pooled, y), 1)
    return ACTIVATIONS[activation](y)


def depthwise_conv2d_backward(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `depthwise_conv2d` without activation by x, weight and bias; a gradient that the
    mask leaves out has shape (0,)."""
    top, left, bottom, right = _explicit(x, weight, stride, padding, dilation)
    padded = F.pad(x, (left, right, top, bottom))
    found = torch.ops.aten.convolution_backward(
        grad_output,
        padded,
        weight,
        [weight.shape[0]],
        list(stride),
        [0, 0],
        list(dilation),
        False,
        [0, 0],
        x.shape[1],
        list(output_mask),
    )
    gradients = [x.new_empty(0) if gradient is None else gradient for gradient in found]
    if output_mask[0]:
        gradients[0] = gradients[0][:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return gradients[0], gradients[1], gradients[2]


def pointwise_conv2d_backward(
    grad_output: Tensor, x: Tensor, weight: Tensor, output_mask: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `pointwise_conv2d` without activation by x, weight and bias."""
    found = torch.ops.aten.convolution_backward(
        grad_output,
        x,
        weight,
        [weight.shape[0]],
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        list(output_mask),
    )
    first, second, third = (x.new_empty(0) if gradient is None else gradient for gradient in found)
    return first, second, third


#: Derivatives of ACTIVATIONS; torch's own cannot be had inside of an op.
_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": torch.ones_like,
    "relu": lambda z: (z > 0).to(z.dtype),
    "relu6": lambda z: ((z > 0) & (z < 6)).to(z.dtype),
    "hardswish": lambda z: torch.where(z <= 3, z / 3 + 0.5, torch.ones_like(z)) * (z >= -3),
    "hardsigmoid": lambda z: (z.abs() < 3).to(z.dtype) / 6,
    "hardsigmoid_paddle": lambda z: (z.abs() <= 2.5).to(z.dtype) / 5,
    "silu": lambda z: z.sigmoid() * (1 + z * (1 - z.sigmoid())),
    "sigmoid": lambda z: z.sigmoid() * (1 - z.sigmoid()),
}


def batch_norm_activation(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """activation(batch_norm(x)) with the batch's statistics, and these: mean and biased variance,
    which carry no gradient."""
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    with torch.no_grad():
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return ACTIVATIONS[activation](y), mean, var


def batch_norm_activation_backward(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    activation: str,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `batch_norm_activation` by x, weight and bias. x-hat being the normalised x and
    g the gradient of what goes into the activation:

    dbias = sum g,  dweight = sum g x-hat,  dx = weight (g - mean(g) - x-hat mean(g x-hat)) / sigma
    """

    def per_channel(values: Tensor | None, default: float) -> Tensor:
        return torch.full_like(mean, default) if values is None else values

    inverse = (var + eps).rsqrt()[:, None, None]
    normal = (x - mean[:, None, None]) * inverse
    factor = per_channel(weight, 1.0)[:, None, None]
    z = normal * factor + per_channel(bias, 0.0)[:, None, None]
    g = _SLOPES[activation](z) * grad_output
    by_bias, by_weight = g.sum((0, 2, 3)), (g * normal).sum((0, 2, 3))
    count = x.shape[0] * x.shape[2] * x.shape[3]
    means = (by_bias[:, None, None] + normal * by_weight[:, None, None]) / count
    found = (factor * inverse * (g - means), by_weight, by_bias)
    first, second, third = (
        gradient if wanted else x.new_empty(0)
        for gradient, wanted in zip(found, output_mask, strict=True)
    )
    return first, second, third


def argument_names(op: str) -> list[str]:
    """Of an op, in the order of its schema."""
    return list(inspect.signature(globals()[op]).parameters)
