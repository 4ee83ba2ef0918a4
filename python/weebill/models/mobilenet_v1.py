"""MobileNetV1: the network of depthwise separable convolutions that began the family.

Source: MobileNets, arXiv:1704.04861, table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from weebill.models._base import Classifier, FeatureInfo, check_sizes, make_divisible
from weebill.models._build import build
from weebill.models._registry import register_model
from weebill.models._weights import WeightsLike
from weebill.nn import Conv2dNormActivation, DepthwisePointwise

__all__ = ["MobileNetV1", "mobilenet_v1"]

# output channels, stride. The table's last stride of 2 is a misprint: its sizes stay 7 x 7.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
_STEM = 32
# BatchNorm as in the TensorFlow original.
_norm_layer = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class MobileNetV1(Classifier):
    """MobileNetV1: stem, thirteen depthwise separable convolutions, pool, linear.

    Every convolution is followed by BatchNorm and ReLU.

    Args:
        width_mult: Multiplies every width; results are rounded to multiples of 8.
        num_classes, in_channels: Of the output and the input.
        dropout: Probability, before the last layer.
        norm_layer: Called with the number of channels. Default: BatchNorm, eps 1e-3.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), any H and W >= 1.

    State dict: `features.0` the stem, `features.1` to `features.13` the blocks (`depthwise`,
    `pointwise`), `classifier.1` the linear layer.
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
        check_sizes("MobileNetV1", num_classes=num_classes, in_channels=in_channels)
        if not width_mult > 0:
            raise ValueError(f"MobileNetV1: width_mult must be positive, got {width_mult}")
        norm = norm_layer or _norm_layer
        channels, reduction = make_divisible(_STEM * width_mult), 2
        layers: list[nn.Module] = [
            Conv2dNormActivation(in_channels, channels, stride=2, norm_layer=norm)
        ]
        info: list[FeatureInfo] = []
        for out, stride in _BLOCKS:
            if stride > 1:
                info.append(FeatureInfo(len(layers) - 1, channels, reduction))
            out = make_divisible(out * width_mult)
            layers.append(DepthwisePointwise(channels, out, stride=stride, norm_layer=norm))
            channels, reduction = out, reduction * stride
        info.append(FeatureInfo(len(layers) - 1, channels, reduction))
        head = [nn.Dropout(p=dropout, inplace=True), nn.Linear(channels, num_classes)]
        super().__init__(layers, head, num_features=channels, feature_info=info)
        for module in self.modules():
            self.init_weights(module)


@register_model(variants=({"width_mult": 0.75}, {"width_mult": 0.5}, {"width_mult": 0.25}))
def mobilenet_v1(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    width_mult: float = 1.0,
    in_channels: int = 3,
    dropout: float = 0.2,
    norm_layer: Callable[..., nn.Module] | None = None,
) -> MobileNetV1:
    """MobileNetV1, 4.2 M parameters and 569 M multiply-adds at 224 x 224.

    Args:
        weights: `Weights` or the path of a file; none are published in these keys. Default:
            random.
        progress: Show a bar while downloading.
        num_classes: Default: what the weights have, or 1000.
        width_mult: Multiplies every width; the paper has 1, 0.75, 0.5 and 0.25.
        in_channels: Channels of the input.
        dropout: Probability, before the last layer.
        norm_layer: Called with the number of channels. Default: BatchNorm, eps 1e-3.

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file.

    Source: MobileNets, arXiv:1704.04861, table 1.
    """

    def make(classes: int) -> MobileNetV1:
        return MobileNetV1(
            width_mult=width_mult,
            num_classes=classes,
            in_channels=in_channels,
            dropout=dropout,
            norm_layer=norm_layer,
        )

    return build(make, None, weights, num_classes, progress)
