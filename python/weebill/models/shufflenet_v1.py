"""ShuffleNetV1: grouped 1 x 1 convolutions with a channel shuffle between them.

Source: ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices,
arXiv:1707.01083, table 1.
"""

from __future__ import annotations

from torch import nn

from weebill.models._base import Classifier, FeatureInfo, check_sizes
from weebill.models._build import build
from weebill.models._registry import register_model
from weebill.models._weights import WeightsLike
from weebill.nn import Conv2dNormActivation, ShuffleUnitV1

__all__ = ["ShuffleNetV1", "shufflenet_v1_x1_0"]

# Groups: output channels of the first stage; each of the other two has twice those of the one
# before. More groups have wider stages, so that all networks cost about the same.
_WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
_REPEATS = (4, 8, 4)
_STEM = 24


class ShuffleNetV1(Classifier):
    """ShuffleNetV1: stem, max pool, three stages of units, pool, linear.

    The first 1 x 1 convolution of the first unit is not grouped: it has few input channels.

    Args:
        groups: Of the 1 x 1 convolutions and the shuffles: 1, 2, 3, 4 or 8.
        num_classes, in_channels: Of the output and the input.
        stem_stride: Stride of the first convolution; 1 for small images.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), any H and W >= 1.

    State dict: `features.0` the stem, `features.2` to `features.17` the units (`branch.0` to
    `branch.7`), `classifier.0` the linear layer.
    """

    linear_std = 0.01

    def __init__(
        self,
        *,
        groups: int = 3,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem_stride: int = 2,
    ) -> None:
        check_sizes(
            "ShuffleNetV1",
            groups=groups,
            num_classes=num_classes,
            in_channels=in_channels,
            stem_stride=stem_stride,
        )
        if groups not in _WIDTHS:
            raise ValueError(f"ShuffleNetV1: groups must be one of {[*_WIDTHS]}, got {groups}")
        layers: list[nn.Module] = [
            Conv2dNormActivation(in_channels, _STEM, stride=stem_stride),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        ]
        info = [FeatureInfo(0, _STEM, stem_stride), FeatureInfo(1, _STEM, 2 * stem_stride)]
        channels, width, reduction = _STEM, _WIDTHS[groups], 2 * stem_stride
        for repeats in _REPEATS:
            first = 1 if channels == _STEM else None
            layers.append(ShuffleUnitV1(channels, width, groups, stride=2, expand_groups=first))
            layers += [ShuffleUnitV1(width, width, groups) for _ in range(repeats - 1)]
            channels, width, reduction = width, 2 * width, 2 * reduction
            info.append(FeatureInfo(len(layers) - 1, channels, reduction))
        super().__init__(
            layers, [nn.Linear(channels, num_classes)], num_features=channels, feature_info=info
        )
        self.groups = groups
        for module in self.modules():
            self.init_weights(module)


@register_model(variants=tuple({"groups": groups} for groups in _WIDTHS if groups != 3))
def shufflenet_v1_x1_0(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    groups: int = 3,
    stem_stride: int = 2,
    in_channels: int = 3,
) -> ShuffleNetV1:
    """ShuffleNetV1 1x, 1.9 M parameters and 137 M multiply-adds at 224 x 224 with 3 groups.

    Args:
        weights: `Weights` or the path of a file; none are published in these keys. Default:
            random.
        progress: Show a bar while downloading.
        num_classes: Default: what the weights have, or 1000.
        groups: Of the 1 x 1 convolutions: 1, 2, 3, 4 or 8, wider the more.
        stem_stride: Of the first convolution; 1 for small images.
        in_channels: Channels of the input.

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file.

    Source: ShuffleNet, arXiv:1707.01083, table 1.
    """

    def make(classes: int) -> ShuffleNetV1:
        return ShuffleNetV1(
            groups=groups, num_classes=classes, in_channels=in_channels, stem_stride=stem_stride
        )

    return build(make, None, weights, num_classes, progress)
