"""MobileNetV3 with torchvision's state_dict keys and shapes.

Source: Searching for MobileNetV3, arXiv:1905.02244, tables 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from weebill.data import ImageClassification, imagenet_categories
from weebill.models._base import Classifier, FeatureInfo, check_sizes, make_divisible
from weebill.models._build import build, merge_arguments
from weebill.models._registry import register_model
from weebill.models._trained import fashion_mnist_weights
from weebill.models._weights import Weights, WeightsEnum, WeightsLike, resolve_weights
from weebill.nn import Conv2dNormActivation, InvertedResidual

__all__ = [
    "MobileNetV3",
    "MobileNetV3Block",
    "MobileNet_V3_Large_Weights",
    "MobileNet_V3_Small_Weights",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
]

_TORCHVISION = {
    "categories": imagenet_categories(),
    "min_size": (1, 1),
    "license": "BSD-3-Clause (torchvision)",
    "source": "https://docs.pytorch.org/vision/stable/models/mobilenetv3.html",
}
_LARGE = {**_TORCHVISION, "num_params": 5483032, "multiply_adds": 217e6}
_SMALL = {**_TORCHVISION, "num_params": 2542856, "multiply_adds": 57e6}


class MobileNet_V3_Large_Weights(WeightsEnum):
    """torchvision's trained weights of `mobilenet_v3_large`."""

    IMAGENET1K_V1 = Weights(
        url="https://download.pytorch.org/models/mobilenet_v3_large-8738ca79.pth",
        sha256="8738ca79",
        preset=ImageClassification(),
        meta={
            **_LARGE,
            "acc@1": 74.042,
            "acc@5": 91.340,
            "recipe": "https://github.com/pytorch/vision/tree/main/references/classification"
            "#mobilenetv3-large--small",
        },
    )
    IMAGENET1K_V2 = Weights(
        url="https://download.pytorch.org/models/mobilenet_v3_large-5c1a4163.pth",
        sha256="5c1a4163",
        preset=ImageClassification(resize_size=232),
        meta={
            **_LARGE,
            "acc@1": 75.274,
            "acc@5": 92.566,
            "recipe": "https://github.com/pytorch/vision/issues/3995#new-recipe-with-reg-tuning",
        },
    )
    DEFAULT = IMAGENET1K_V2


class MobileNet_V3_Small_Weights(WeightsEnum):
    """Trained weights of `mobilenet_v3_small`: torchvision's, and small ones in this package.

    FASHION_MNIST_X0_5 is half as wide, for grey 28 x 28 pictures.
    """

    IMAGENET1K_V1 = Weights(
        url="https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth",
        sha256="047dcff4",
        preset=ImageClassification(),
        meta={
            **_SMALL,
            "acc@1": 67.668,
            "acc@5": 87.402,
            "recipe": "https://github.com/pytorch/vision/tree/main/references/classification"
            "#mobilenetv3-large--small",
        },
    )
    FASHION_MNIST_X0_5 = fashion_mnist_weights(
        "mobilenet_v3_small_x0_5-fashion_mnist.safetensors",
        sha256="e797248e1da867b4ea41b4449de90e020b05f7ad9231d164c114c0a77d4f4455",
        width_mult=0.5,
        **{"num_params": 409250, "multiply_adds": 1.51e6, "acc@1": 91.00, "acc@5": 99.83},
    )
    DEFAULT = IMAGENET1K_V1


@dataclass(frozen=True)
class MobileNetV3Block:
    """One row of the paper's tables; its input width is the row's before.

    Attributes:
        kernel: Depthwise kernel size.
        expanded: Channels after the expansion; no expansion where that is the input's width.
        out: Channels after the projection.
        squeeze: Whether there is a squeeze-excite, a quarter of `expanded` wide.
        activation: "relu" or "hardswish".
        stride: Of the depthwise convolution, where `dilation` is 1.
        dilation: 2 keeps the resolution (stride 1) and widens the kernel's reach instead.
    """

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    activation: str
    stride: int = 1
    dilation: int = 1


_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "hardswish": nn.Hardswish}
# BatchNorm as in the TensorFlow original.
_norm_layer = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class MobileNetV3(Classifier):
    """MobileNetV3: stem, inverted residuals, 1 x 1, pool, two linear layers.

    Args:
        blocks: The inverted residuals, widths as they are.
        last_channel: Width of the head between its two linear layers.
        stem_channels: Width of the first convolution.
        stem_stride: Its stride; 1 for small images.
        num_classes, in_channels: Of the output and the input.
        dropout: Probability, before the last layer.
        norm_layer: Called with the number of channels. Default: BatchNorm, eps 1e-3.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), any H and W >= 1.

    State dict: torchvision's keys and shapes.
    """

    linear_std = 0.01

    def __init__(
        self,
        blocks: Sequence[MobileNetV3Block],
        last_channel: int,
        *,
        stem_channels: int = 16,
        stem_stride: int = 2,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        check_sizes(
            "MobileNetV3",
            stem_stride=stem_stride,
            num_classes=num_classes,
            in_channels=in_channels,
        )
        if not blocks:
            raise ValueError("MobileNetV3: blocks must not be empty")
        norm = norm_layer or _norm_layer
        layers: list[nn.Module] = [
            Conv2dNormActivation(
                in_channels,
                stem_channels,
                stride=stem_stride,
                norm_layer=norm,
                activation_layer=nn.Hardswish,
            )
        ]
        info: list[FeatureInfo] = []
        channels, reduction = stem_channels, stem_stride
        for block in blocks:
            stride = 1 if block.dilation > 1 else block.stride
            if stride > 1:
                info.append(FeatureInfo(len(layers) - 1, channels, reduction))
            layers.append(
                InvertedResidual(
                    channels,
                    block.expanded,
                    block.out,
                    block.kernel,
                    stride,
                    dilation=block.dilation,
                    squeeze_channels=make_divisible(block.expanded // 4) if block.squeeze else None,
                    activation_layer=_ACTIVATIONS[block.activation],
                    norm_layer=norm,
                    # A block whose stride became a dilation still has no residual.
                    residual=block.stride == 1 and channels == block.out,
                )
            )
            channels, reduction = block.out, reduction * stride
        num_features = 6 * channels
        layers.append(
            Conv2dNormActivation(
                channels, num_features, 1, norm_layer=norm, activation_layer=nn.Hardswish
            )
        )
        info.append(FeatureInfo(len(layers) - 1, num_features, reduction))
        head = [
            nn.Linear(num_features, last_channel),
            nn.Hardswish(inplace=True),
            nn.Dropout(p=dropout, inplace=True),
            nn.Linear(last_channel, num_classes),
        ]
        super().__init__(layers, head, num_features=num_features, feature_info=info)
        for module in self.modules():
            self.init_weights(module)


_DEFAULTS = {"width_mult": 1.0, "stem_stride": 2, "in_channels": 3}

# What `weights of another model` errors try besides the default.
_VARIANTS = (
    {"width_mult": 0.75},
    {"width_mult": 0.5},
    {"width_mult": 0.35},
    {"width_mult": 1.25},
    {"reduced_tail": True},
)


@register_model(weights=MobileNet_V3_Large_Weights, variants=_VARIANTS)
def mobilenet_v3_large(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    width_mult: float | None = None,
    reduced_tail: bool = False,
    dilated: bool = False,
    stem_stride: int | None = None,
    in_channels: int | None = None,
    dropout: float = 0.2,
    norm_layer: Callable[..., nn.Module] | None = None,
) -> MobileNetV3:
    """MobileNetV3-Large, 5.5 M parameters and 217 M multiply-adds at 224 x 224.

    Args:
        weights: A member of `MobileNet_V3_Large_Weights` or its name, "DEFAULT", `Weights`, or the
            path of a file. Default: random.
        progress: Show a bar while downloading.
        num_classes: Default: what the weights have, or 1000.
        width_mult: Multiplies every width; results are rounded to multiples of 8. Default: what the
            weights have, or 1.
        reduced_tail: Halves the last three blocks and the head (for dense heads).
        dilated: Keeps 1/16 resolution in the last three blocks (for dense heads).
        stem_stride: Of the first convolution; 1 for small images. Default: what the weights have,
            or 2.
        in_channels: Channels of the input. Default: what the weights have, or 3.
        dropout: Probability, before the last layer.
        norm_layer: Called with the number of channels. Default: BatchNorm, eps 1e-3.

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file, or the download failed.

    Source: Searching for MobileNetV3, arXiv:1905.02244, table 1.
    """
    half = 2 if reduced_tail else 1
    dilation = 2 if dilated else 1
    blocks = [
        MobileNetV3Block(3, 16, 16, False, "relu"),
        MobileNetV3Block(3, 64, 24, False, "relu", stride=2),
        MobileNetV3Block(3, 72, 24, False, "relu"),
        MobileNetV3Block(5, 72, 40, True, "relu", stride=2),
        MobileNetV3Block(5, 120, 40, True, "relu"),
        MobileNetV3Block(5, 120, 40, True, "relu"),
        MobileNetV3Block(3, 240, 80, False, "hardswish", stride=2),
        MobileNetV3Block(3, 200, 80, False, "hardswish"),
        MobileNetV3Block(3, 184, 80, False, "hardswish"),
        MobileNetV3Block(3, 184, 80, False, "hardswish"),
        MobileNetV3Block(3, 480, 112, True, "hardswish"),
        MobileNetV3Block(3, 672, 112, True, "hardswish"),
        MobileNetV3Block(5, 672, 160 // half, True, "hardswish", stride=2, dilation=dilation),
        MobileNetV3Block(5, 960 // half, 160 // half, True, "hardswish", dilation=dilation),
        MobileNetV3Block(5, 960 // half, 160 // half, True, "hardswish", dilation=dilation),
    ]
    chosen = None if weights is None else resolve_weights(MobileNet_V3_Large_Weights, weights)
    arguments = merge_arguments(
        chosen,
        {"width_mult": width_mult, "stem_stride": stem_stride, "in_channels": in_channels},
        _DEFAULTS,
    )
    make = _scaled(blocks, 1280 // half, **arguments, dropout=dropout, norm_layer=norm_layer)
    return build(make, MobileNet_V3_Large_Weights, chosen, num_classes, progress)


@register_model(weights=MobileNet_V3_Small_Weights, variants=_VARIANTS)
def mobilenet_v3_small(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    width_mult: float | None = None,
    reduced_tail: bool = False,
    dilated: bool = False,
    stem_stride: int | None = None,
    in_channels: int | None = None,
    dropout: float = 0.2,
    norm_layer: Callable[..., nn.Module] | None = None,
) -> MobileNetV3:
    """MobileNetV3-Small, 2.5 M parameters and 57 M multiply-adds at 224 x 224.

    Args:
        weights: A member of `MobileNet_V3_Small_Weights` or its name, "DEFAULT", `Weights`, or the
            path of a file. Default: random.
        progress, num_classes, width_mult, reduced_tail, dilated, stem_stride, in_channels, dropout,
            norm_layer: As in `mobilenet_v3_large`.

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file, or the download failed.

    Source: Searching for MobileNetV3, arXiv:1905.02244, table 2.
    """
    half = 2 if reduced_tail else 1
    dilation = 2 if dilated else 1
    blocks = [
        MobileNetV3Block(3, 16, 16, True, "relu", stride=2),
        MobileNetV3Block(3, 72, 24, False, "relu", stride=2),
        MobileNetV3Block(3, 88, 24, False, "relu"),
        MobileNetV3Block(5, 96, 40, True, "hardswish", stride=2),
        MobileNetV3Block(5, 240, 40, True, "hardswish"),
        MobileNetV3Block(5, 240, 40, True, "hardswish"),
        MobileNetV3Block(5, 120, 48, True, "hardswish"),
        MobileNetV3Block(5, 144, 48, True, "hardswish"),
        MobileNetV3Block(5, 288, 96 // half, True, "hardswish", stride=2, dilation=dilation),
        MobileNetV3Block(5, 576 // half, 96 // half, True, "hardswish", dilation=dilation),
        MobileNetV3Block(5, 576 // half, 96 // half, True, "hardswish", dilation=dilation),
    ]
    chosen = None if weights is None else resolve_weights(MobileNet_V3_Small_Weights, weights)
    arguments = merge_arguments(
        chosen,
        {"width_mult": width_mult, "stem_stride": stem_stride, "in_channels": in_channels},
        _DEFAULTS,
    )
    make = _scaled(blocks, 1024 // half, **arguments, dropout=dropout, norm_layer=norm_layer)
    return build(make, MobileNet_V3_Small_Weights, chosen, num_classes, progress)


def _scaled(
    blocks: Sequence[MobileNetV3Block],
    last_channel: int,
    *,
    width_mult: float,
    stem_stride: int,
    in_channels: int,
    dropout: float,
    norm_layer: Callable[..., nn.Module] | None,
) -> Callable[[int], MobileNetV3]:
    """The network with all widths multiplied, but for the number of classes."""
    if not width_mult > 0:
        raise ValueError(f"mobilenet_v3: width_mult must be positive, got {width_mult}")

    def width(channels: int) -> int:
        return make_divisible(channels * width_mult)

    scaled = [
        replace(block, expanded=width(block.expanded), out=width(block.out)) for block in blocks
    ]
    return lambda num_classes: MobileNetV3(
        scaled,
        width(last_channel),
        stem_channels=width(16),
        stem_stride=stem_stride,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
        norm_layer=norm_layer,
    )
