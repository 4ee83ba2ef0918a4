"""SSDLite: SSD with separable convolutions in its head, on light backbones.

Source: MobileNetV2, arXiv:1801.04381, section 6.2; MobileNetV3, arXiv:1905.02244, section 6.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from weebill.models._base import StateDict, check_sizes
from weebill.models._build import build
from weebill.models._categories import COCO
from weebill.models._presets import ObjectDetection
from weebill.models._registry import register_model
from weebill.models._weights import Weights, WeightsEnum, WeightsLike
from weebill.models.mobilenet_v3 import mobilenet_v3_large
from weebill.models.shufflenet_v2 import shufflenet_v2_x1_0
from weebill.models.ssd import SSD, DefaultBoxGenerator, SSDHead
from weebill.nn import Conv2dNormActivation, InvertedResidual

__all__ = [
    "SSDLite320_MobileNet_V3_Large_Weights",
    "SSDLiteBackbone",
    "ssdlite",
    "ssdlite320_mobilenet_v3_large",
    "ssdlite320_shufflenet_v2_x1_0",
]


class SSDLite320_MobileNet_V3_Large_Weights(WeightsEnum):
    """torchvision's trained weights of `ssdlite320_mobilenet_v3_large`."""

    COCO_V1 = Weights(
        url="https://download.pytorch.org/models/ssdlite320_mobilenet_v3_large_coco-a79551df.pth",
        sha256="a79551df",
        preset=ObjectDetection(),
        meta={
            "categories": COCO,
            "min_size": (1, 1),
            "num_params": 3440060,
            "multiply_adds": 583e6,
            "box_map": 21.3,
            "license": "BSD-3-Clause (torchvision)",
            "source": "https://docs.pytorch.org/vision/stable/models/ssdlite.html",
            "recipe": "https://github.com/pytorch/vision/tree/main/references/detection"
            "#ssdlite320-mobilenetv3-large",
        },
    )
    DEFAULT = COCO_V1


Norm = Callable[..., nn.Module]

_norm_layer = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
_EXTRAS = (512, 256, 256, 128)
_RATIOS = ((2.0, 3.0),) * (2 + len(_EXTRAS))


def _extra(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Half the resolution: 1 x 1, depthwise of stride 2, 1 x 1."""
    inner = out_channels // 2
    make = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU6)
    return nn.Sequential(
        make(in_channels, inner, 1),
        make(inner, inner, 3, 2, groups=inner),
        make(inner, out_channels, 1),
    )


def _prediction(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        Conv2dNormActivation(
            in_channels,
            in_channels,
            groups=in_channels,
            norm_layer=norm,
            activation_layer=nn.ReLU6,
        ),
        nn.Conv2d(in_channels, out_channels, 1),
    )


def _normal_init(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, mean=0.0, std=0.03)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SSDLiteBackbone(nn.Module):
    """Six feature maps: two of a classification network, four that follow it.

    Args:
        stages: The network in two parts; the first ends at 1/16 of the image, the second at 1/32.
        channels: What comes out of the two.
        norm_layer: Called with the number of channels.

    Shapes: (N, C, H, W) -> six maps, of 1/16 to 1/512 of the size, rounded up.

    Attributes:
        out_channels: Of the six maps.
    """

    def __init__(
        self, stages: Sequence[nn.Module], channels: Sequence[int], norm_layer: Norm
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*stages)
        inputs = (channels[-1], *_EXTRAS)
        self.extra = nn.ModuleList(
            _extra(before, after, norm_layer)
            for before, after in zip(inputs[:-1], _EXTRAS, strict=True)
        )
        _normal_init(self.extra)
        self.out_channels = (*channels, *_EXTRAS)

    @classmethod
    def of_shufflenet_v2(cls, network: Any, norm_layer: Norm | None = None) -> SSDLiteBackbone:
        """The backbone of a ShuffleNetV2 with torchvision's part names, whose layers it shares.

        Args:
            network: `conv1`, `maxpool`, `stage2` to `stage4`, `conv5`.
            norm_layer: As in `SSDLiteBackbone`. Default: BatchNorm, eps 1e-3.

        Raises:
            TypeError: the network has no such parts.
        """
        names = ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5")
        missing = [name for name in names if not hasattr(network, name)]
        if missing:
            raise TypeError(
                "SSDLiteBackbone: network must be a ShuffleNetV2, got "
                f"{type(network).__name__} without {missing[0]}"
            )
        parts = [getattr(network, name) for name in names]
        convolutions = [x for part in parts[4:] for x in part.modules() if isinstance(x, nn.Conv2d)]
        channels = (convolutions[0].in_channels, convolutions[-1].out_channels)
        stages = (nn.Sequential(*parts[:4]), nn.Sequential(*parts[4:]))
        return cls(stages, channels, norm_layer or _norm_layer)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for part in (*self.features, *self.extra):
            x = part(x)
            maps.append(x)
        return maps


def ssdlite(
    backbone: SSDLiteBackbone, num_classes: int, norm_layer: Norm | None = None, **arguments: Any
) -> SSD:
    """The detector on any backbone.

    Args:
        backbone: See the class.
        num_classes: With the background.
        norm_layer: Called with the number of channels. Default: BatchNorm, eps 1e-3.
        arguments: Of `SSD`.
    """
    norm = norm_layer or _norm_layer
    anchors = DefaultBoxGenerator(_RATIOS)
    counts = anchors.num_anchors_per_location()

    def predictions(columns: int) -> list[nn.Module]:
        parts: list[nn.Module] = [
            _prediction(channels, columns * count, norm)
            for channels, count in zip(backbone.out_channels, counts, strict=True)
        ]
        for part in parts:
            _normal_init(part)
        return parts

    head = SSDHead(predictions(num_classes), predictions(4), num_classes)
    return SSD(backbone, head, anchors, **arguments)


def ssdlite_classes(state_dict: StateDict) -> int | None:
    """The number of classes of trained weights; None where they are no detector's."""
    bias = state_dict.get("head.classification_head.module_list.0.1.bias")
    return None if bias is None else len(bias) // (2 + 2 * len(_RATIOS[0]))


@register_model(weights=SSDLite320_MobileNet_V3_Large_Weights)
def ssdlite320_mobilenet_v3_large(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsLike = None,
    norm_layer: Norm | None = None,
    **arguments: Any,
) -> SSD:
    """SSDLite on MobileNetV3-Large, 3.4 M parameters and 583 M multiply-adds at 320 x 320.

    Args:
        weights: A member of `SSDLite320_MobileNet_V3_Large_Weights` or its name, "DEFAULT",
            `Weights`, or the path of a file. Default: random.
        progress: Show a bar while downloading.
        num_classes: With the background. Default: what the weights have, or 91 (COCO).
        weights_backbone: Trained weights of `mobilenet_v3_large` to start from; the last blocks
            have half their width without them (the paper's choice for detection).
        norm_layer: Called with the number of channels. Default: BatchNorm, eps 1e-3.
        arguments: Of `SSD`: `score_thresh`, `nms_thresh`, `detections_per_img` ...

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file, or the download failed.

    Source: MobileNetV3, arXiv:1905.02244, section 6.3; torchvision's keys and shapes.
    """
    norm = norm_layer or _norm_layer

    def make(classes: int) -> SSD:
        check_sizes("ssdlite320_mobilenet_v3_large", num_classes=classes)
        network = mobilenet_v3_large(
            weights=weights_backbone,
            progress=progress,
            norm_layer=norm,
            reduced_tail=weights_backbone is None,
        )
        if weights_backbone is None:
            _normal_init(network)
        layers = list(network.features)
        # The last block with a stride: its expansion still has 1/16 of the resolution.
        split = network.feature_info[-2].index + 1
        block = layers[split]
        assert isinstance(block, InvertedResidual)
        expansion = block.block[0]
        assert isinstance(expansion, Conv2dNormActivation)
        stages = (
            nn.Sequential(*layers[:split], expansion),
            nn.Sequential(block.block[1:], *layers[split + 1 :]),
        )
        channels = (expansion.out_channels, network.num_features)
        return ssdlite(SSDLiteBackbone(stages, channels, norm), classes, norm, **arguments)

    members = SSDLite320_MobileNet_V3_Large_Weights
    return build(make, members, weights, num_classes, progress, 91, ssdlite_classes)


@register_model()
def ssdlite320_shufflenet_v2_x1_0(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    weights_backbone: WeightsLike = None,
    norm_layer: Norm | None = None,
    **arguments: Any,
) -> SSD:
    """The same head on ShuffleNetV2 x1.0, at 320 x 320.

    Args:
        weights: `Weights` or the path of a file; none are published. Default: random.
        progress, num_classes, arguments: As in `ssdlite320_mobilenet_v3_large`.
        weights_backbone: Trained weights of `shufflenet_v2_x1_0` to start from.
        norm_layer: Of the layers after the backbone. Default: BatchNorm, eps 1e-3.

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file, or the download failed.
    """

    def make(classes: int) -> SSD:
        check_sizes("ssdlite320_shufflenet_v2_x1_0", num_classes=classes)
        network = shufflenet_v2_x1_0(weights=weights_backbone, progress=progress)
        backbone = SSDLiteBackbone.of_shufflenet_v2(network, norm_layer)
        return ssdlite(backbone, classes, norm_layer, **arguments)

    return build(make, None, weights, num_classes, progress, 91, ssdlite_classes)
