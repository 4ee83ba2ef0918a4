"""Semantic segmentation on dilated backbones: Lite R-ASPP and DeepLabV3, with torchvision's keys.

Sources: Searching for MobileNetV3, arXiv:1905.02244, section 6.4; Rethinking Atrous Convolution for
Semantic Image Segmentation, arXiv:1706.05587.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weebill.models._base import StateDict, check_sizes
from weebill.models._build import build
from weebill.models._categories import VOC
from weebill.models._presets import SemanticSegmentation
from weebill.models._registry import register_model
from weebill.models._weights import Weights, WeightsEnum, WeightsLike
from weebill.models.mobilenet_v3 import mobilenet_v3_large
from weebill.nn import FusedModule

__all__ = [
    "LRASPP",
    "DeepLabV3",
    "DeepLabV3_MobileNet_V3_Large_Weights",
    "LRASPP_MobileNet_V3_Large_Weights",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
]

_TORCHVISION = {
    "categories": VOC,
    "min_size": (1, 1),
    "license": "BSD-3-Clause (torchvision)",
}
_RECIPES = "https://github.com/pytorch/vision/tree/main/references/segmentation"
_PAGES = "https://docs.pytorch.org/vision/stable/models"


class LRASPP_MobileNet_V3_Large_Weights(WeightsEnum):
    """torchvision's trained weights of `lraspp_mobilenet_v3_large`."""

    COCO_WITH_VOC_LABELS_V1 = Weights(
        url="https://download.pytorch.org/models/lraspp_mobilenet_v3_large-d234d4ea.pth",
        sha256="d234d4ea",
        preset=SemanticSegmentation(),
        meta={
            **_TORCHVISION,
            "num_params": 3221538,
            "multiply_adds": 2086e6,
            "miou": 57.9,
            "pixel_acc": 91.2,
            "source": f"{_PAGES}/lraspp.html",
            "recipe": f"{_RECIPES}#lraspp_mobilenet_v3_large",
        },
    )
    DEFAULT = COCO_WITH_VOC_LABELS_V1


class DeepLabV3_MobileNet_V3_Large_Weights(WeightsEnum):
    """torchvision's trained weights of `deeplabv3_mobilenet_v3_large`."""

    COCO_WITH_VOC_LABELS_V1 = Weights(
        url="https://download.pytorch.org/models/deeplabv3_mobilenet_v3_large-fc3c493d.pth",
        sha256="fc3c493d",
        preset=SemanticSegmentation(),
        meta={
            **_TORCHVISION,
            "num_params": 11029328,
            "multiply_adds": 10452e6,
            "miou": 60.3,
            "pixel_acc": 91.2,
            "source": f"{_PAGES}/deeplabv3.html",
            "recipe": f"{_RECIPES}#deeplabv3_mobilenet_v3_large",
        },
    )
    DEFAULT = COCO_WITH_VOC_LABELS_V1


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """To the height and width of the other."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class _Backbone(nn.Sequential):
    """Layers of a network that also give what some of them, named by index, return."""

    def __init__(self, layers: Sequence[nn.Module], named: Mapping[int, str]) -> None:
        super().__init__(*layers[: max(named) + 1])
        self._named = dict(named)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = {}
        for index, layer in enumerate(self):
            x = layer(x)
            if index in self._named:
                found[self._named[index]] = x
        return found


class _ConvNormReLU(FusedModule, nn.Sequential):
    """As `Conv2dNormActivation`, and dropout where it is wanted."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        dilation: int = 1,
        dropout: float | None = None,
    ) -> None:
        padding = kernel_size // 2 * dilation
        layers: list[nn.Module] = [
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                padding=padding,
                dilation=dilation,
                bias=False,
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
        if dropout is not None:
            layers.append(nn.Dropout(dropout))
        super().__init__(*layers)


class _LRASPPHead(nn.Module):
    def __init__(
        self, low_channels: int, high_channels: int, num_classes: int, inner: int = 128
    ) -> None:
        super().__init__()
        self.cbr = _ConvNormReLU(high_channels, inner)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(high_channels, inner, 1, bias=False), nn.Sigmoid()
        )
        self.low_classifier = nn.Conv2d(low_channels, num_classes, 1)
        self.high_classifier = nn.Conv2d(inner, num_classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        x = self.cbr(high) * self.scale(high)
        y: Tensor = self.low_classifier(low) + self.high_classifier(_resize(x, low))
        return y


class LRASPP(nn.Module):
    """Lite R-ASPP: two feature maps, the coarse one weighted by what the whole image shows.

        out = resize(W1 low + W2 resize(relu(norm(W3 high)) * sigmoid(W4 mean(high))))

    Args:
        layers: A backbone's, in order.
        low, high: Index and channels of the layer that has 1/8 of the size, and of the last.
        num_classes: With the background, class 0.

    Shapes: (N, C, H, W) -> {"out": (N, num_classes, H, W)}, logits.

    State dict: torchvision's keys and shapes.

    Source: MobileNetV3, arXiv:1905.02244, figure 10.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        low: tuple[int, int],
        high: tuple[int, int],
        num_classes: int,
    ) -> None:
        super().__init__()
        self.backbone = _Backbone(layers, {low[0]: "low", high[0]: "high"})
        self.classifier = _LRASPPHead(low[1], high[1], num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(x)
        return {"out": _resize(self.classifier(maps["low"], maps["high"]), x)}


class _ASPPPooling(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self:
            y = layer(y)
        # of one pixel, which is repeated
        return F.interpolate(y, size=x.shape[-2:], mode="nearest")


class _ASPP(nn.Module):
    """Atrous spatial pyramid pooling: the same map seen at several reaches at once."""

    def __init__(self, in_channels: int, rates: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                _ConvNormReLU(in_channels, out_channels),
                *(_ConvNormReLU(in_channels, out_channels, 3, rate) for rate in rates),
                _ASPPPooling(in_channels, out_channels),
            ]
        )
        self.project = _ConvNormReLU(len(self.convs) * out_channels, out_channels, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(torch.cat([conv(x) for conv in self.convs], dim=1))
        return y


class DeepLabV3(nn.Module):
    """DeepLabV3: atrous spatial pyramid pooling on the last feature map.

    Args:
        layers: A backbone's, in order.
        out: Index and channels of the last layer.
        aux: Index and channels of the layer that an auxiliary classifier learns from.
        num_classes: With the background, class 0.
        rates: Dilations of the pyramid.

    Shapes: (N, C, H, W) -> {"out": (N, num_classes, H, W)}, logits, and with `aux` {"aux"} of the
    same shape.

    State dict: torchvision's keys and shapes.

    Source: Rethinking Atrous Convolution, arXiv:1706.05587, section 3.3.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        out: tuple[int, int],
        aux: tuple[int, int] | None,
        num_classes: int,
        rates: Sequence[int] = (12, 24, 36),
    ) -> None:
        super().__init__()
        named = {out[0]: "out"}
        width = 256
        if aux is not None:
            named[aux[0]] = "aux"
        self.backbone = _Backbone(layers, named)
        self.classifier = nn.Sequential(
            _ASPP(out[1], rates, width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, num_classes, 1),
        )
        self.aux_classifier = None if aux is None else _fcn_head(aux[1], num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(x)
        result = {"out": _resize(self.classifier(maps["out"]), x)}
        if self.aux_classifier is not None:
            result["aux"] = _resize(self.aux_classifier(maps["aux"]), x)
        return result

    def convert_state_dict(self, state_dict: Mapping[str, Tensor]) -> StateDict:
        """Without the auxiliary classifier where the model has none."""
        drop = "aux_classifier." if self.aux_classifier is None else None
        return {k: v for k, v in state_dict.items() if drop is None or not k.startswith(drop)}


def _fcn_head(in_channels: int, num_classes: int) -> nn.Sequential:
    inner = in_channels // 4
    return nn.Sequential(
        nn.Conv2d(in_channels, inner, 3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Dropout(0.1),
        nn.Conv2d(inner, num_classes, 1),
    )


def _mobilenet_v3_large(
    weights: WeightsLike, progress: bool
) -> tuple[list[nn.Module], tuple[int, int], tuple[int, int]]:
    """The dilated backbone, and the index and width of the maps with 1/8 and 1/16 of the size."""
    network = mobilenet_v3_large(weights=weights, progress=progress, dilated=True)
    # The map of 1/8 is taken where it begins, as the published weights expect.
    quarter, eighth = network.feature_info[1:3]
    low = quarter.index + 1, eighth.channels
    return list(network.features), low, (len(network.features) - 1, network.num_features)


def _lraspp_classes(state_dict: StateDict) -> int | None:
    bias = state_dict.get("classifier.low_classifier.bias")
    return None if bias is None else len(bias)


def _deeplabv3_classes(state_dict: StateDict) -> int | None:
    bias = state_dict.get("classifier.4.bias")
    return None if bias is None else len(bias)


@register_model(weights=LRASPP_MobileNet_V3_Large_Weights)
def lraspp_mobilenet_v3_large(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsLike = None,
) -> LRASPP:
    """Lite R-ASPP on MobileNetV3-Large, 3.2 M parameters and 2.1 G multiply-adds at 520 x 520.

    Args:
        weights: A member of `LRASPP_MobileNet_V3_Large_Weights` or its name, "DEFAULT", `Weights`,
            or the path of a file. Default: random.
        progress: Show a bar while downloading.
        num_classes: With the background. Default: what the weights have, or 21 (PASCAL VOC).
        weights_backbone: Trained weights of `mobilenet_v3_large` to start from.

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file, or the download failed.

    Source: MobileNetV3, arXiv:1905.02244, section 6.4; torchvision's keys and shapes.
    """

    def make(classes: int) -> LRASPP:
        check_sizes("lraspp_mobilenet_v3_large", num_classes=classes)
        return LRASPP(*_mobilenet_v3_large(weights_backbone, progress), classes)

    members = LRASPP_MobileNet_V3_Large_Weights
    return build(make, members, weights, num_classes, progress, len(VOC), _lraspp_classes)


@register_model(weights=DeepLabV3_MobileNet_V3_Large_Weights)
def deeplabv3_mobilenet_v3_large(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    aux_loss: bool | None = None,
    weights_backbone: WeightsLike = None,
) -> DeepLabV3:
    """DeepLabV3 on MobileNetV3-Large, 11 M parameters and 10 G multiply-adds at 520 x 520.

    Args:
        weights: A member of `DeepLabV3_MobileNet_V3_Large_Weights` or its name, "DEFAULT",
            `Weights`, or the path of a file. Default: random.
        progress: Show a bar while downloading.
        num_classes: With the background. Default: what the weights have, or 21 (PASCAL VOC).
        aux_loss: An auxiliary classifier, for training. Default: with weights only; False leaves
            its weights away.
        weights_backbone: Trained weights of `mobilenet_v3_large` to start from.

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file, or the download failed.

    Source: Rethinking Atrous Convolution, arXiv:1706.05587; torchvision's keys and shapes.
    """
    auxiliary = weights is not None if aux_loss is None else aux_loss

    def make(classes: int) -> DeepLabV3:
        check_sizes("deeplabv3_mobilenet_v3_large", num_classes=classes)
        layers, low, high = _mobilenet_v3_large(weights_backbone, progress)
        return DeepLabV3(layers, high, low if auxiliary else None, classes)

    members = DeepLabV3_MobileNet_V3_Large_Weights
    return build(make, members, weights, num_classes, progress, len(VOC), _deeplabv3_classes)
