"""The building blocks of lightweight CNNs as torch modules.

Children carry torchvision's names, so that its state dicts fit: `block.0.0.weight` of an inverted
residual, `fc1.weight` of a squeeze-excite. In training the layers run one by one, on kernels where
those pay (see `_training`); in evaluation a block is one fused call (see `FusedModule`). A network
of blocks still makes a call per block: `weebill.convert` makes it one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F
from torch import SymInt, Tensor, nn

from weebill._reference import same_padding
from weebill.fusion.module import FusedModule
from weebill.nn import _nodes, _training

Layer: TypeAlias = Callable[..., nn.Module]
Size: TypeAlias = int | tuple[int, int]


def _pair(op: str, argument: str, value: Size, minimum: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(v, int) or v < minimum for v in pair):
        raise ValueError(
            f"{op}: {argument} must be an int or a pair of ints >= {minimum}, got {value!r}"
        )
    return pair[0], pair[1]


def _check_channels(op: str, **channels: int) -> None:
    for name, value in channels.items():
        if value < 1:
            raise ValueError(f"{op}: {name} must be >= 1, got {value}")


class Conv2dSame(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, which depends on the size of the input.

        H' = ceil(H / stride),  total = max((H' - 1) * stride + dilation * (k - 1) + 1 - H, 0)

    zeros are added, `total // 2` before and the rest after; the same along the width. At stride 2
    and an even size this pads at the end only, which no symmetric padding can express.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: As `nn.Conv2d`.

    Shapes: (N, C, H, W) -> (N, O, ceil(H / stride_h), ceil(W / stride_w)).

    Source: https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    """

    #: Tells the matcher that the padding is SAME although `padding` says 0.
    same_padding = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            _pair("Conv2dSame", "kernel_size", kernel_size, 1),
            stride=_pair("Conv2dSame", "stride", stride, 1),
            dilation=_pair("Conv2dSame", "dilation", dilation, 1),
            groups=groups,
            bias=bias,
        )

    def forward(self, input: Tensor) -> Tensor:
        top, bottom, left, right = (
            side
            for axis in (0, 1)
            for side in same_padding(
                input.shape[axis - 2],
                self.kernel_size[axis],
                self.stride[axis],
                self.dilation[axis],
            )
        )
        pads = (left, right, top, bottom)
        # a symbol's comparison would bind a traced forward to sizes like the traced one
        if any(isinstance(pad, SymInt) or pad for pad in pads):
            input = F.pad(input, pads)
        return F.conv2d(input, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Conv2dNormActivation(FusedModule, nn.Sequential):
    """Convolution, normalisation, activation: y = act(norm(conv(x))).

    Args:
        in_channels, out_channels, kernel_size, stride, groups, dilation: As `nn.Conv2d`.
        padding: As `nn.Conv2d`, or "same" for TensorFlow's SAME (see `Conv2dSame`). None keeps the
            size at stride 1: (k - 1) // 2 * dilation.
        norm_layer: Called with `out_channels`; None for no normalisation.
        activation_layer: Called without arguments; None for none.
        inplace: Passed to the activation if it takes it.
        bias: Default: only without normalisation.

    Shapes: (N, C, H, W) -> (N, O, H', W') as `nn.Conv2d`.

    State dict: `0` the convolution, `1` the normalisation, as torchvision's class of this name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        padding: Size | str | None = None,
        groups: int = 1,
        norm_layer: Layer | None = nn.BatchNorm2d,
        activation_layer: Layer | None = nn.ReLU,
        dilation: Size = 1,
        inplace: bool | None = True,
        bias: bool | None = None,
    ) -> None:
        op = "Conv2dNormActivation"
        _check_channels(op, in_channels=in_channels, out_channels=out_channels)
        kernel = _pair(op, "kernel_size", kernel_size, 1)
        steps = _pair(op, "stride", stride, 1)
        dilations = _pair(op, "dilation", dilation, 1)
        if bias is None:
            bias = norm_layer is None
        layers: list[nn.Module] = []
        if padding == "same":
            layers.append(
                Conv2dSame(in_channels, out_channels, kernel, steps, dilations, groups, bias)
            )
        elif isinstance(padding, str):
            raise ValueError(f"{op}: padding must be an int, a pair or 'same', got {padding!r}")
        else:
            if padding is None:
                pads = (
                    (kernel[0] - 1) // 2 * dilations[0],
                    (kernel[1] - 1) // 2 * dilations[1],
                )
            else:
                pads = _pair(op, "padding", padding, 0)
            layers.append(
                nn.Conv2d(
                    in_channels, out_channels, kernel, steps, pads, dilations, groups, bias=bias
                )
            )
        if norm_layer is not None:
            layers.append(norm_layer(out_channels))
        if activation_layer is not None:
            layers.append(_activation(activation_layer, inplace))
        super().__init__(*layers)
        self.out_channels = out_channels

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return _training.run(self, input)
        y: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return y


def _layers_of(*parts: nn.Module) -> list[nn.Module]:
    """The parts, but for `Conv2dNormActivation` in training their layers."""
    layers: list[nn.Module] = []
    for part in parts:
        opens = type(part) is Conv2dNormActivation and part.training and _training.is_plain(part)
        layers += part.children() if opens else [part]
    return layers


def _activation(layer: Layer, inplace: bool | None) -> nn.Module:
    if inplace is None:
        return layer()
    try:
        return layer(inplace=inplace)
    except TypeError:  # Sigmoid, Identity and the like have no such argument
        return layer()


class SqueezeExcite(FusedModule):
    """Squeeze-and-excitation: every channel is scaled by a factor computed from all the means.

        y = x * gate(W2 * act(W1 * mean_hw(x) + b1) + b2)

    Args:
        input_channels: C.
        squeeze_channels: Width between the two 1 x 1 layers.
        activation: act.
        scale_activation: gate. MobileNetV3 takes `nn.Hardsigmoid`, EfficientNet `nn.Sigmoid`.

    Shapes: (N, C, H, W) -> (N, C, H, W).

    State dict: `fc1`, `fc2`, as torchvision's SqueezeExcitation.

    Source: Squeeze-and-Excitation Networks, arXiv:1709.01507, figure 1.
    """

    def __init__(
        self,
        input_channels: int,
        squeeze_channels: int,
        activation: Layer = nn.ReLU,
        scale_activation: Layer = nn.Sigmoid,
    ) -> None:
        super().__init__()
        _check_channels(
            "SqueezeExcite", input_channels=input_channels, squeeze_channels=squeeze_channels
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, input_channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and _training.is_active(x):
            layers = self.avgpool, self.fc1, self.fc2, self.activation, self.scale_activation
            if _training.is_plain(*layers) and type(self.fc1) is type(self.fc2) is nn.Conv2d:
                return _nodes.squeeze_excite(x, *layers[1:])
        scale: Tensor = self.fc1(self.avgpool(x))
        scale = self.fc2(self.activation(scale))
        gate: Tensor = self.scale_activation(scale)
        return x * gate


class DepthwisePointwise(FusedModule):
    """Depthwise k x k, then pointwise 1 x 1, each with normalisation and activation.

        y = [x +] act2(norm(W2 * act1(norm(depthwise(x)))))

    Args:
        in_channels, out_channels: C, O.
        kernel_size, stride, dilation: Of the depthwise convolution.
        padding: As in `Conv2dNormActivation`.
        norm_layer: Called with the number of channels; None for none.
        activation_layer: act1.
        pointwise_activation_layer: act2. Default: as `activation_layer`; `nn.Identity` for none.
        residual: Add the input; needs C == O and stride 1.

    Shapes: (N, C, H, W) -> (N, O, H', W').

    Raises:
        ValueError: A channel count, size or the residual does not fit.

    State dict: `depthwise.0`, `depthwise.1`, `pointwise.0`, `pointwise.1`.

    Source: MobileNets, arXiv:1704.04861, section 3.1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        *,
        padding: Size | str | None = None,
        dilation: Size = 1,
        norm_layer: Layer | None = nn.BatchNorm2d,
        activation_layer: Layer | None = nn.ReLU,
        pointwise_activation_layer: Layer | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        steps = _pair("DepthwisePointwise", "stride", stride, 1)
        if residual and (in_channels != out_channels or steps != (1, 1)):
            raise ValueError(
                "DepthwisePointwise: residual must be False unless in_channels == out_channels and "
                f"stride == 1, got {in_channels} -> {out_channels}, stride {stride}"
            )
        self.depthwise = Conv2dNormActivation(
            in_channels,
            in_channels,
            kernel_size,
            steps,
            padding,
            groups=in_channels,
            norm_layer=norm_layer,
            activation_layer=activation_layer,
            dilation=dilation,
        )
        self.pointwise = Conv2dNormActivation(
            in_channels,
            out_channels,
            1,
            norm_layer=norm_layer,
            activation_layer=pointwise_activation_layer or activation_layer,
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            y = _training.run(_layers_of(self.depthwise, self.pointwise), x)
        else:
            y = self.pointwise(self.depthwise(x))
        return y + x if self.residual else y


class InvertedResidual(FusedModule):
    """Expand 1 x 1, depthwise k x k, optional squeeze-excite, project 1 x 1, optional residual.

        d = act(norm(depthwise(act(norm(We * x)))))
        y = [x +] norm(Wp * [se](d))

    Covers the blocks of MobileNetV2, MobileNetV3, MNASNet and EfficientNet.

    Args:
        in_channels, expanded_channels, out_channels: C, E, O.
        kernel_size, stride, dilation: Of the depthwise convolution.
        padding: Of the depthwise convolution, as in `Conv2dNormActivation`.
        squeeze_channels: Width of the squeeze-excite; None for none.
        activation_layer: act.
        norm_layer: Called with the number of channels; None for none.
        se_layer: Called with E and `squeeze_channels`. Default: `SqueezeExcite` with ReLU and
            Hardsigmoid, MobileNetV3's.
        expand: Whether there is an expansion. Default: if E != C.
        residual: Whether the input is added. Default: if C == O and stride is 1.

    Shapes: (N, C, H, W) -> (N, O, H', W').

    Raises:
        ValueError: A channel count, size or the residual does not fit.

    State dict: `block.0` is the expansion (if any), then the depthwise convolution, the
    squeeze-excite and the projection, as torchvision's MobileNetV3 and EfficientNet.

    Source: MobileNetV2, arXiv:1801.04381, section 3.3; MobileNetV3, arXiv:1905.02244, section 5.
    """

    def __init__(
        self,
        in_channels: int,
        expanded_channels: int,
        out_channels: int,
        kernel_size: Size = 3,
        stride: Size = 1,
        *,
        padding: Size | str | None = None,
        dilation: Size = 1,
        squeeze_channels: int | None = None,
        activation_layer: Layer | None = nn.ReLU,
        norm_layer: Layer | None = nn.BatchNorm2d,
        se_layer: Layer | None = None,
        expand: bool | None = None,
        residual: bool | None = None,
    ) -> None:
        super().__init__()
        op = "InvertedResidual"
        _check_channels(
            op,
            in_channels=in_channels,
            expanded_channels=expanded_channels,
            out_channels=out_channels,
        )
        steps = _pair(op, "stride", stride, 1)
        keeps_shape = in_channels == out_channels and steps == (1, 1)
        if expand is None:
            expand = expanded_channels != in_channels
        if not expand and expanded_channels != in_channels:
            raise ValueError(
                f"{op}: expanded_channels must be {in_channels} (in_channels) without expansion, "
                f"got {expanded_channels}"
            )
        if residual is None:
            residual = keeps_shape
        if residual and not keeps_shape:
            raise ValueError(
                f"{op}: residual must be False unless in_channels == out_channels and "
                f"stride == 1, got {in_channels} -> {out_channels}, stride {stride}"
            )
        layers: list[nn.Module] = []
        if expand:
            layers.append(
                Conv2dNormActivation(
                    in_channels,
                    expanded_channels,
                    1,
                    norm_layer=norm_layer,
                    activation_layer=activation_layer,
                )
            )
        layers.append(
            Conv2dNormActivation(
                expanded_channels,
                expanded_channels,
                kernel_size,
                steps,
                padding,
                groups=expanded_channels,
                norm_layer=norm_layer,
                activation_layer=activation_layer,
                dilation=dilation,
            )
        )
        if squeeze_channels is not None:
            if se_layer is None:
                layers.append(
                    SqueezeExcite(
                        expanded_channels, squeeze_channels, scale_activation=nn.Hardsigmoid
                    )
                )
            else:
                layers.append(se_layer(expanded_channels, squeeze_channels))
        layers.append(
            Conv2dNormActivation(
                expanded_channels, out_channels, 1, norm_layer=norm_layer, activation_layer=None
            )
        )
        self.block = nn.Sequential(*layers)
        self.residual = residual
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        if self.training and _training.is_plain(self.block):
            y = _training.run(_layers_of(*self.block), x)
        else:
            y = self.block(x)
        return y + x if self.residual else y
