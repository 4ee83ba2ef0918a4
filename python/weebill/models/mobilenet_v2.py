"""MobileNetV2 with torchvision's state_dict keys and shapes.

Source: MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv:1801.04381, table 2.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from weebill.data import ImageClassification, imagenet_categories
from weebill.models._base import Classifier, FeatureInfo, check_sizes, make_divisible
from weebill.models._build import build
from weebill.models._registry import register_model
from weebill.models._weights import Weights, WeightsEnum, WeightsLike
from weebill.nn import Conv2dNormActivation, FusedModule

__all__ = ["MobileNetV2", "MobileNet_V2_Weights", "mobilenet_v2"]

_META = {
    "categories": imagenet_categories(),
    "min_size": (1, 1),
    "license": "BSD-3-Clause (torchvision)",
    "source": "https://docs.pytorch.org/vision/stable/models/mobilenetv2.html",
    "num_params": 3504872,
    "multiply_adds": 301e6,
}


class MobileNet_V2_Weights(WeightsEnum):
    """torchvision's trained weights of `mobilenet_v2`."""

    IMAGENET1K_V1 = Weights(
        url="https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
        sha256="b0353104",
        preset=ImageClassification(),
        meta={
            **_META,
            "acc@1": 71.878,
            "acc@5": 90.286,
            "recipe": "https://github.com/pytorch/vision/tree/main/references/classification"
            "#mobilenetv2",
        },
    )
    IMAGENET1K_V2 = Weights(
        url="https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth",
        sha256="7ebf99e0",
        preset=ImageClassification(resize_size=232),
        meta={
            **_META,
            "acc@1": 72.154,
            "acc@5": 90.822,
            "recipe": "https://github.com/pytorch/vision/issues/3995#new-recipe-with-reg-tuning",
        },
    )
    DEFAULT = IMAGENET1K_V2


# expansion, output channels, blocks, stride of the first
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _HEAD = 32, 1280


class _LinearBottleneck(FusedModule):
    """`weebill.nn.InvertedResidual` with ReLU6 and under the keys of torchvision's MobileNetV2.

    There the projection and its normalisation are no module of their own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expansion: int,
        norm_layer: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        expanded = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(
                Conv2dNormActivation(
                    in_channels, expanded, 1, norm_layer=norm_layer, activation_layer=nn.ReLU6
                )
            )
        layers += [
            Conv2dNormActivation(
                expanded,
                expanded,
                stride=stride,
                groups=expanded,
                norm_layer=norm_layer,
                activation_layer=nn.ReLU6,
            ),
            nn.Conv2d(expanded, out_channels, 1, bias=False),
            norm_layer(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(Classifier):
    """MobileNetV2: stem, seventeen inverted residuals, 1 x 1, pool, linear.

    Args:
        width_mult: Multiplies every width, the last only if it is above 1; results are rounded to
            multiples of 8.
        num_classes, in_channels: Of the output and the input.
        dropout: Probability, before the last layer.
        norm_layer: Called with the number of channels. Default: BatchNorm.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), any H and W >= 1.

    State dict: torchvision's keys and shapes.
    """

    linear_std = 0.01

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        check_sizes("MobileNetV2", num_classes=num_classes, in_channels=in_channels)
        if not width_mult > 0:
            raise ValueError(f"MobileNetV2: width_mult must be positive, got {width_mult}")
        norm = norm_layer or nn.BatchNorm2d
        channels, reduction = make_divisible(_STEM * width_mult), 2
        layers: list[nn.Module] = [
            Conv2dNormActivation(
                in_channels, channels, stride=2, norm_layer=norm, activation_layer=nn.ReLU6
            )
        ]
        info: list[FeatureInfo] = []
        for expansion, out, count, first_stride in _BLOCKS:
            out = make_divisible(out * width_mult)
            for stride in (first_stride, *(1,) * (count - 1)):
                if stride > 1:
                    info.append(FeatureInfo(len(layers) - 1, channels, reduction))
                layers.append(_LinearBottleneck(channels, out, stride, expansion, norm))
                channels, reduction = out, reduction * stride
        num_features = make_divisible(_HEAD * max(1.0, width_mult))
        layers.append(
            Conv2dNormActivation(
                channels, num_features, 1, norm_layer=norm, activation_layer=nn.ReLU6
            )
        )
        info.append(FeatureInfo(len(layers) - 1, num_features, reduction))
        head = [nn.Dropout(p=dropout), nn.Linear(num_features, num_classes)]
        super().__init__(layers, head, num_features=num_features, feature_info=info)
        for module in self.modules():
            self.init_weights(module)


@register_model(
    weights=MobileNet_V2_Weights,
    variants=({"width_mult": 0.75}, {"width_mult": 0.5}, {"width_mult": 0.35}, {"width_mult": 1.4}),
)
def mobilenet_v2(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    width_mult: float = 1.0,
    in_channels: int = 3,
    dropout: float = 0.2,
    norm_layer: Callable[..., nn.Module] | None = None,
) -> MobileNetV2:
    """MobileNetV2, 3.5 M parameters and 301 M multiply-adds at 224 x 224.

    Args:
        weights: A member of `MobileNet_V2_Weights` or its name, "DEFAULT", `Weights`, or the path
            of a file. Default: random.
        progress: Show a bar while downloading.
        num_classes: Default: what the weights have, or 1000.
        width_mult: Multiplies every width, the last only if it is above 1.
        in_channels: Channels of the input.
        dropout: Probability, before the last layer.
        norm_layer: Called with the number of channels. Default: BatchNorm.

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file, or the download failed.

    Source: MobileNetV2, arXiv:1801.04381, table 2.
    """

    def make(classes: int) -> MobileNetV2:
        return MobileNetV2(
            width_mult=width_mult,
            num_classes=classes,
            in_channels=in_channels,
            dropout=dropout,
            norm_layer=norm_layer,
        )

    return build(make, MobileNet_V2_Weights, weights, num_classes, progress)
