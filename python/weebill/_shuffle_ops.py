"""Channel shuffle and the units of ShuffleNet: part of `weebill.ops`, whose rules hold here."""

from __future__ import annotations

from torch import Tensor

from weebill import _ops
from weebill._arguments import Padding, Size, pair, sides
from weebill._errors import call, fail


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Deals the channels of `groups` groups out in turn, as the cards of as many packs.

        y[n, i * groups + j] = x[n, j * (C / groups) + i]

    It moves and never computes: any dtype, bit for bit, at the speed of a copy.

    Args:
        x: (N, C, H, W), any dtype.
        groups: Divides C.

    Returns:
        (N, C, H, W) of x's dtype, channels_last if the channels of x lie next to each other
        (`x.stride(1) == 1`), else contiguous.

    Raises:
        ValueError: `groups` does not divide C, or x has not 4 dimensions.
        TypeError: x is not strided or not on the CPU.

    Source: ShuffleNet, arXiv:1707.01083, section 3.1; as `torch.nn.functional.channel_shuffle`.

    Example:
        >>> channel_shuffle(torch.arange(6).reshape(1, 6, 1, 1), 2).flatten().tolist()
        [0, 3, 1, 4, 2, 5]
    """
    try:
        y: Tensor = _ops.channel_shuffle(x, groups)
        return y
    except RuntimeError as error:
        fail(error, "channel_shuffle", x=x)


def shuffle_unit(
    x: Tensor,
    *,
    depthwise_weight: Tensor,
    project_weight: Tensor,
    expand_weight: Tensor | None = None,
    expand_bias: Tensor | None = None,
    depthwise_bias: Tensor | None = None,
    project_bias: Tensor | None = None,
    shortcut_depthwise_weight: Tensor | None = None,
    shortcut_depthwise_bias: Tensor | None = None,
    shortcut_project_weight: Tensor | None = None,
    shortcut_project_bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    expand_activation: str = "relu",
    depthwise_activation: str = "none",
    project_activation: str = "relu",
    shortcut_depthwise_activation: str = "none",
    shortcut_project_activation: str = "relu",
) -> Tensor:
    """ShuffleNetV2's unit: split, concatenation and shuffle cost no pass of their own.

        b(x) = act_p(b_p + W_p * act_d(b_d + depthwise(act_e(b_e + W_e * x), W_d)))
        s(x) = act_sp(b_sp + W_sp * act_sd(b_sd + depthwise(x, W_sd)))

    Without shortcut weights the basic unit, x1 and x2 being the halves of x's channels:

        y = channel_shuffle(concat(x1, b(x2)), 2)

    and with them the down-sampling one:

        y = channel_shuffle(concat(s(x), b(x)), 2)

    Args:
        x: (N, C, H, W).
        expand_weight: W_e, (E, B, 1, 1); B is C / 2 in a basic unit, C in the other. Without it
            E == B.
        depthwise_weight: W_d, (E, 1, kh, kw).
        project_weight: W_p, (O, E, 1, 1); O is C / 2 in a basic unit.
        expand_bias, depthwise_bias, project_bias: (E), (E), (O).
        shortcut_depthwise_weight: W_sd, (C, 1, kh, kw).
        shortcut_project_weight: W_sp, (O, C, 1, 1).
        shortcut_depthwise_bias, shortcut_project_bias: (C), (O).
        stride, padding, dilation: Of both depthwise convolutions; see `weebill.ops`. A basic unit
            keeps the size.
        expand_activation, depthwise_activation, project_activation: act_e, act_d, act_p.
        shortcut_depthwise_activation, shortcut_project_activation: act_sd, act_sp.

    Returns:
        (N, 2 * O, H', W').

    Raises:
        ValueError: Shapes do not agree, or the window is larger than the padded input.
        TypeError: See `weebill.ops`.

    Source: ShuffleNet V2, arXiv:1807.11164, figure 3 (c) and (d).

    Example:
        >>> x, w, dw = torch.ones(1, 8, 6, 6), torch.ones(4, 4, 1, 1), torch.ones(4, 1, 3, 3)
        >>> shuffle_unit(x, expand_weight=w, depthwise_weight=dw, project_weight=w,
        ...              padding=1).shape
        torch.Size([1, 8, 6, 6])
    """
    op = "shuffle_unit"
    strides, dilations = pair(op, "stride", stride), pair(op, "dilation", dilation)
    pads = sides(op, padding)
    return call(
        _ops.shuffle_unit,
        op,
        x=x,
        expand_weight=expand_weight,
        expand_bias=expand_bias,
        depthwise_weight=depthwise_weight,
        depthwise_bias=depthwise_bias,
        project_weight=project_weight,
        project_bias=project_bias,
        shortcut_depthwise_weight=shortcut_depthwise_weight,
        shortcut_depthwise_bias=shortcut_depthwise_bias,
        shortcut_project_weight=shortcut_project_weight,
        shortcut_project_bias=shortcut_project_bias,
        stride=strides,
        padding=pads,
        dilation=dilations,
        expand_activation=expand_activation,
        depthwise_activation=depthwise_activation,
        project_activation=project_activation,
        shortcut_depthwise_activation=shortcut_depthwise_activation,
        shortcut_project_activation=shortcut_project_activation,
    )


def shuffle_unit_v1(
    x: Tensor,
    *,
    expand_weight: Tensor,
    depthwise_weight: Tensor,
    project_weight: Tensor,
    expand_bias: Tensor | None = None,
    depthwise_bias: Tensor | None = None,
    project_bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int,
    expand_groups: int | None = None,
    project_groups: int | None = None,
    expand_activation: str = "relu",
    depthwise_activation: str = "none",
    activation: str = "relu",
    shortcut: str = "none",
) -> Tensor:
    """ShuffleNetV1's unit: 1 x 1 in groups, shuffle, depthwise k x k, 1 x 1 in groups.

        t = channel_shuffle(act_e(b_e + W_e * x), groups)
        f = b_p + W_p * act_d(b_d + depthwise(t, W_d))
        y = act(f),  act(x + f)  or  act(concat(average_pool(x), f))

    The average pool has the window, stride and padding of the depthwise convolution; zeros of the
    padding count, as by default in `torch.nn.AvgPool2d`.

    Args:
        x: (N, C, H, W).
        expand_weight: W_e, (E, C / expand_groups, 1, 1).
        depthwise_weight: W_d, (E, 1, kh, kw).
        project_weight: W_p, (O, E / project_groups, 1, 1).
        expand_bias, depthwise_bias, project_bias: (E), (E), (O).
        stride, padding, dilation: Of the depthwise convolution; see `weebill.ops`.
        groups: Of the shuffle; divides E.
        expand_groups, project_groups: Of the 1 x 1 convolutions. Default: `groups`. The first unit
            of a ShuffleNetV1 has expand_groups=1.
        expand_activation, depthwise_activation, activation: act_e, act_d, act.
        shortcut: "none", "add" (O == C, and a result of x's size) or "concat".

    Returns:
        (N, O, H', W'), or (N, C + O, H', W') with "concat".

    Raises:
        ValueError: Shapes do not agree, or the window is larger than the padded input.
        TypeError: See `weebill.ops`.

    Source: ShuffleNet, arXiv:1707.01083, figure 2 (b) and (c).

    Example:
        >>> x, w, dw = torch.ones(1, 6, 5, 5), torch.ones(6, 2, 1, 1), torch.ones(6, 1, 3, 3)
        >>> shuffle_unit_v1(x, expand_weight=w, depthwise_weight=dw, project_weight=w, padding=1,
        ...                 groups=3, shortcut="add").shape
        torch.Size([1, 6, 5, 5])
    """
    op = "shuffle_unit_v1"
    strides, dilations = pair(op, "stride", stride), pair(op, "dilation", dilation)
    pads = sides(op, padding)
    return call(
        _ops.shuffle_unit_v1,
        op,
        x=x,
        expand_weight=expand_weight,
        expand_bias=expand_bias,
        depthwise_weight=depthwise_weight,
        depthwise_bias=depthwise_bias,
        project_weight=project_weight,
        project_bias=project_bias,
        stride=strides,
        padding=pads,
        dilation=dilations,
        expand_groups=groups if expand_groups is None else expand_groups,
        groups=groups,
        project_groups=groups if project_groups is None else project_groups,
        expand_activation=expand_activation,
        depthwise_activation=depthwise_activation,
        activation=activation,
        shortcut=shortcut,
    )
