"""ShuffleNetV2 with torchvision's state_dict keys and shapes.

Source: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, arXiv:1807.11164,
table 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from weebill.data import ImageClassification, imagenet_categories
from weebill.models._base import Classifier, FeatureInfo, check_sizes
from weebill.models._build import build, merge_arguments
from weebill.models._registry import register_model
from weebill.models._trained import fashion_mnist_weights
from weebill.models._weights import Weights, WeightsEnum, WeightsLike, resolve_weights
from weebill.nn import Conv2dNormActivation, ShuffleUnit

__all__ = [
    "ShuffleNetV2",
    "ShuffleNet_V2_X0_5_Weights",
    "ShuffleNet_V2_X1_0_Weights",
    "ShuffleNet_V2_X1_5_Weights",
    "ShuffleNet_V2_X2_0_Weights",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
]

_TORCHVISION = {
    "categories": imagenet_categories(),
    "min_size": (1, 1),
    "license": "BSD-3-Clause (torchvision)",
    "source": "https://docs.pytorch.org/vision/stable/models/shufflenetv2.html",
}
_ERICSUN = "https://github.com/ericsun99/Shufflenet-v2-Pytorch"
_REFERENCE = "https://github.com/pytorch/vision/pull/5906"


class ShuffleNet_V2_X0_5_Weights(WeightsEnum):
    """Trained weights of `shufflenet_v2_x0_5`: torchvision's, and small ones in this package.

    FASHION_MNIST_V1 is for grey 28 x 28 pictures.
    """

    IMAGENET1K_V1 = Weights(
        url="https://download.pytorch.org/models/shufflenetv2_x0.5-f707e7126e.pth",
        sha256="f707e7126e",
        preset=ImageClassification(),
        meta={
            **_TORCHVISION,
            "num_params": 1366792,
            "multiply_adds": 40e6,
            "acc@1": 60.552,
            "acc@5": 81.746,
            "recipe": _ERICSUN,
        },
    )
    FASHION_MNIST_V1 = fashion_mnist_weights(
        "shufflenet_v2_x0_5-fashion_mnist.safetensors",
        sha256="ffc2939c2a13946010086f2e1f6dde8718a8d8ef28255564e41a1ce114771204",
        **{"num_params": 351610, "multiply_adds": 2.58e6, "acc@1": 92.06, "acc@5": 99.86},
    )
    DEFAULT = IMAGENET1K_V1


class ShuffleNet_V2_X1_0_Weights(WeightsEnum):
    """torchvision's trained weights of `shufflenet_v2_x1_0`."""

    IMAGENET1K_V1 = Weights(
        url="https://download.pytorch.org/models/shufflenetv2_x1-5666bf0f80.pth",
        sha256="5666bf0f80",
        preset=ImageClassification(),
        meta={
            **_TORCHVISION,
            "num_params": 2278604,
            "multiply_adds": 145e6,
            "acc@1": 69.362,
            "acc@5": 88.316,
            "recipe": _ERICSUN,
        },
    )
    DEFAULT = IMAGENET1K_V1


class ShuffleNet_V2_X1_5_Weights(WeightsEnum):
    """torchvision's trained weights of `shufflenet_v2_x1_5`."""

    IMAGENET1K_V1 = Weights(
        url="https://download.pytorch.org/models/shufflenetv2_x1_5-3c479a10.pth",
        sha256="3c479a10",
        preset=ImageClassification(resize_size=232),
        meta={
            **_TORCHVISION,
            "num_params": 3503624,
            "multiply_adds": 296e6,
            "acc@1": 72.996,
            "acc@5": 91.086,
            "recipe": _REFERENCE,
        },
    )
    DEFAULT = IMAGENET1K_V1


class ShuffleNet_V2_X2_0_Weights(WeightsEnum):
    """torchvision's trained weights of `shufflenet_v2_x2_0`."""

    IMAGENET1K_V1 = Weights(
        url="https://download.pytorch.org/models/shufflenetv2_x2_0-8be3c8ee.pth",
        sha256="8be3c8ee",
        preset=ImageClassification(resize_size=232),
        meta={
            **_TORCHVISION,
            "num_params": 7393996,
            "multiply_adds": 583e6,
            "acc@1": 76.230,
            "acc@5": 93.006,
            "recipe": _REFERENCE,
        },
    )
    DEFAULT = IMAGENET1K_V1


_REPEATS = (4, 8, 4)
_STEM = 24


class ShuffleNetV2(Classifier):
    """ShuffleNetV2: stem, max pool, three stages of units, 1 x 1, mean, linear.

    Args:
        widths: Output channels of the three stages and of the last 1 x 1 convolution.
        num_classes, in_channels: Of the output and the input.
        stem_stride: Stride of the first convolution; 1 for small images.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), any H and W >= 1.

    State dict: torchvision's keys and shapes. The parts keep torchvision's names (`conv1`,
    `stage2`, ... `fc`); `features` is a view of all but the last.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem_stride: int = 2,
    ) -> None:
        nn.Module.__init__(self)  # the parts have other names than the base class gives
        check_sizes(
            "ShuffleNetV2",
            num_classes=num_classes,
            in_channels=in_channels,
            stem_stride=stem_stride,
        )
        self.conv1 = Conv2dNormActivation(in_channels, _STEM, 3, stem_stride)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        info = [FeatureInfo(0, _STEM, stem_stride), FeatureInfo(1, _STEM, 2 * stem_stride)]
        channels, index, reduction = _STEM, 1, 2 * stem_stride
        for number, (repeats, width) in enumerate(zip(_REPEATS, widths[:3], strict=True), 2):
            units = [ShuffleUnit(channels, width, 2)]
            units += [ShuffleUnit(width, width, 1) for _ in range(repeats - 1)]
            setattr(self, f"stage{number}", nn.Sequential(*units))
            channels, index, reduction = width, index + repeats, reduction * 2
            info.append(FeatureInfo(index, channels, reduction))
        self.num_features = self.head_hidden_size = widths[3]
        self.conv5 = Conv2dNormActivation(channels, self.num_features, 1)
        info[-1] = FeatureInfo(index + 1, self.num_features, reduction)
        self.fc: nn.Module = nn.Linear(self.num_features, num_classes)
        self.feature_info = tuple(info)

    @property
    def features(self) -> nn.Sequential:  # type: ignore[override]
        """Stem to last 1 x 1, one child per layer or unit. Not part of the state dict."""
        stages = [self.get_submodule(f"stage{number}") for number in (2, 3, 4)]
        units = [unit for stage in stages for unit in stage.children()]
        return nn.Sequential(self.conv1, self.maxpool, *units, self.conv5)

    @property
    def num_classes(self) -> int:
        """Rows of the last linear layer, 0 where `reset_classifier(0)` removed it."""
        return self.fc.out_features if isinstance(self.fc, nn.Linear) else 0

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the backbone's (N, num_features, H', W')."""
        x = self.maxpool(self.conv1(x))
        for number in (2, 3, 4):
            x = self.get_submodule(f"stage{number}")(x)
        y: Tensor = self.conv5(x)
        return y

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What follows the backbone: mean and linear layer; with `pre_logits` the mean only."""
        x = x.mean([2, 3])
        y: Tensor = x if pre_logits else self.fc(x)
        return y

    def get_classifier(self) -> nn.Module:
        """The last layer of the head."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the last layer by a freshly initialised one; 0 removes it.

        Raises:
            ValueError: `num_classes` is negative.
        """
        if num_classes < 0:
            raise ValueError(
                f"reset_classifier: num_classes must not be negative, got {num_classes}"
            )
        like = next(self.parameters())
        self.fc = (
            nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
            if num_classes
            else nn.Identity()
        )


_DEFAULTS = {"stem_stride": 2, "in_channels": 3}


def _build(
    widths: Sequence[int],
    members: type[WeightsEnum],
    weights: WeightsLike,
    num_classes: int | None,
    progress: bool,
    **given: Any,
) -> ShuffleNetV2:
    """The network, with what the weights were trained for where the caller gives nothing."""
    chosen = None if weights is None else resolve_weights(members, weights)
    arguments = merge_arguments(chosen, given, _DEFAULTS)

    def make(num_classes: int) -> ShuffleNetV2:
        return ShuffleNetV2(widths, num_classes=num_classes, **arguments)

    return build(make, members, chosen, num_classes, progress)


@register_model(weights=ShuffleNet_V2_X0_5_Weights)
def shufflenet_v2_x0_5(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    stem_stride: int | None = None,
    in_channels: int | None = None,
) -> ShuffleNetV2:
    """ShuffleNetV2 x0.5, 1.4 M parameters and 41 M multiply-adds at 224 x 224.

    Args:
        weights: A member of `ShuffleNet_V2_X0_5_Weights` or its name, "DEFAULT", `Weights`, or the
            path of a file. Default: random.
        progress: Show a bar while downloading.
        num_classes: Default: what the weights have, or 1000.
        stem_stride: Of the first convolution; 1 for small images. Default: what the weights have,
            or 2.
        in_channels: Channels of the input. Default: what the weights have, or 3.

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file, or the download failed.

    Source: ShuffleNet V2, arXiv:1807.11164, table 5.
    """
    return _build(
        (48, 96, 192, 1024),
        ShuffleNet_V2_X0_5_Weights,
        weights,
        num_classes,
        progress,
        stem_stride=stem_stride,
        in_channels=in_channels,
    )


@register_model(weights=ShuffleNet_V2_X1_0_Weights)
def shufflenet_v2_x1_0(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    stem_stride: int | None = None,
    in_channels: int | None = None,
) -> ShuffleNetV2:
    """ShuffleNetV2 x1.0, 2.3 M parameters and 146 M multiply-adds; see `shufflenet_v2_x0_5`."""
    return _build(
        (116, 232, 464, 1024),
        ShuffleNet_V2_X1_0_Weights,
        weights,
        num_classes,
        progress,
        stem_stride=stem_stride,
        in_channels=in_channels,
    )


@register_model(weights=ShuffleNet_V2_X1_5_Weights)
def shufflenet_v2_x1_5(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    stem_stride: int | None = None,
    in_channels: int | None = None,
) -> ShuffleNetV2:
    """ShuffleNetV2 x1.5, 3.5 M parameters and 299 M multiply-adds; see `shufflenet_v2_x0_5`."""
    return _build(
        (176, 352, 704, 1024),
        ShuffleNet_V2_X1_5_Weights,
        weights,
        num_classes,
        progress,
        stem_stride=stem_stride,
        in_channels=in_channels,
    )


@register_model(weights=ShuffleNet_V2_X2_0_Weights)
def shufflenet_v2_x2_0(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    stem_stride: int | None = None,
    in_channels: int | None = None,
) -> ShuffleNetV2:
    """ShuffleNetV2 x2.0, 7.4 M parameters and 591 M multiply-adds; see `shufflenet_v2_x0_5`."""
    return _build(
        (244, 488, 976, 2048),
        ShuffleNet_V2_X2_0_Weights,
        weights,
        num_classes,
        progress,
        stem_stride=stem_stride,
        in_channels=in_channels,
    )
