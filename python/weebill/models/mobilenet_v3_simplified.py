"""MobileNetV3-Small in the simplified form that tutorials build with Keras.

It is no network of the paper: every block has the expansion 6, a 3 x 3 depthwise convolution, a
squeeze-excite with a sigmoid gate, and ReLU; convolutions have biases and no BatchNorm; padding is
TensorFlow's SAME. `load_keras_weights` brings over what was trained in Keras.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from weebill.models._base import Classifier, FeatureInfo, check_sizes
from weebill.models._build import build
from weebill.models._registry import register_model
from weebill.models._weights import WeightsLike
from weebill.nn import Conv2dNormActivation, DepthwisePointwise, InvertedResidual, SqueezeExcite

__all__ = ["MobileNetV3Simplified", "mobilenet_v3_small_simplified"]

_STEM, _EXPANSION, _SQUEEZE = 16, 6, 4
# output channels, stride
_BLOCKS = (
    (24, 2),
    (24, 1),
    (40, 2),
    (40, 1),
    (40, 1),
    (48, 1),
    (48, 1),
    (96, 2),
    (96, 1),
    (96, 1),
)
_FEATURES, _HIDDEN = 576, 1280


class MobileNetV3Simplified(Classifier):
    """Stem, depthwise separable convolution, ten inverted residuals, 1 x 1, pool, two layers.

    Args:
        num_classes: Of the output.
        input_shape: (height, width, channels), Keras' order. Height and width are kept for those
            who ask (`model.input_shape`); the network takes images of any size.
        classifier_activation: "softmax", or None for logits, as a loss wants them.

    Shapes: (N, channels, H, W) -> (N, num_classes), any H and W >= 1; with softmax the rows sum to
    1.

    State dict: `features.0` the stem, `features.1` the separable convolution, `features.2` to
    `features.11` the inverted residuals, `features.12` the last convolution, `classifier.0` and
    `classifier.2` the head.

    Raises:
        ValueError, TypeError: an argument is out of range or of the wrong kind.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        input_shape: Sequence[int] = (224, 224, 3),
        classifier_activation: str | None = "softmax",
    ) -> None:
        op = "MobileNetV3Simplified"
        if isinstance(input_shape, str) or len(input_shape) != 3:
            raise ValueError(
                f"{op}: input_shape must be (height, width, channels), got {input_shape!r}"
            )
        height, width, channels = input_shape
        check_sizes(op, num_classes=num_classes, height=height, width=width, channels=channels)
        if classifier_activation not in ("softmax", None):
            raise ValueError(
                f"{op}: classifier_activation must be 'softmax' or None, "
                f"got {classifier_activation!r}"
            )
        layers: list[nn.Module] = [
            Conv2dNormActivation(channels, _STEM, stride=2, padding="same", norm_layer=None),
            DepthwisePointwise(_STEM, _STEM, padding="same", norm_layer=None),
        ]
        info: list[FeatureInfo] = []
        channels, reduction = _STEM, 2
        for out, stride in _BLOCKS:
            if stride > 1:
                info.append(FeatureInfo(len(layers) - 1, channels, reduction))
            expanded = channels * _EXPANSION
            layers.append(
                InvertedResidual(
                    channels,
                    expanded,
                    out,
                    stride=stride,
                    padding="same",
                    norm_layer=None,
                    squeeze_channels=expanded // _SQUEEZE,
                    se_layer=SqueezeExcite,
                )
            )
            channels, reduction = out, reduction * stride
        layers.append(Conv2dNormActivation(channels, _FEATURES, 1, norm_layer=None))
        info.append(FeatureInfo(len(layers) - 1, _FEATURES, reduction))
        head = [nn.Linear(_FEATURES, _HIDDEN), nn.ReLU(inplace=True)]
        super().__init__(
            layers,
            [*head, nn.Linear(_HIDDEN, num_classes)],
            num_features=_FEATURES,
            feature_info=info,
        )
        self.input_shape = (height, width, input_shape[2])
        self.classifier_activation = classifier_activation
        for module in self.modules():
            self.init_weights(module)

    def init_weights(self, module: nn.Module) -> None:
        """Keras' defaults: Glorot's uniform distribution, biases 0."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        y = super().forward_head(x, pre_logits)
        return y if pre_logits or self.classifier_activation is None else y.softmax(dim=1)

    def keras_layers(self) -> tuple[tuple[str, str], ...]:
        """(Keras class, module path) of each layer with weights, in the order of Keras' model."""
        found = [
            ("Conv2D", "features.0.0"),
            ("DepthwiseConv2D", "features.1.depthwise.0"),
            ("Conv2D", "features.1.pointwise.0"),
        ]
        for index in range(len(_BLOCKS)):
            block = f"features.{2 + index}.block"
            found += [
                ("Conv2D", f"{block}.0.0"),
                ("DepthwiseConv2D", f"{block}.1.0"),
                ("Dense", f"{block}.2.fc1"),
                ("Dense", f"{block}.2.fc2"),
                ("Conv2D", f"{block}.3.0"),
            ]
        last = f"features.{2 + len(_BLOCKS)}.0"
        return (
            *found,
            ("Conv2D", last),
            ("Conv2D", "classifier.0"),
            ("Conv2D", "classifier.2"),
        )


@register_model()
def mobilenet_v3_small_simplified(
    num_classes: int | None = None,
    input_shape: Sequence[int] = (224, 224, 3),
    *,
    weights: WeightsLike = None,
    progress: bool = True,
    classifier_activation: str | None = "softmax",
) -> MobileNetV3Simplified:
    """Simplified MobileNetV3-Small of Keras tutorials, 3.0 M parameters and 233 M multiply-adds.

    The multiply-adds are for one 224 x 224 image and 1000 classes.

    Args:
        num_classes: Default: what the weights have, or 1000.
        input_shape: (height, width, channels), Keras' order. Default: (224, 224, 3).
        weights: `Weights` or the path of a file with our keys; for Keras' files see
            `load_keras_weights`. Default: random, as Keras initialises.
        progress: Show a bar while downloading.
        classifier_activation: "softmax", or None for logits, as a loss wants them.

    Raises:
        ValueError, TypeError: an argument is out of range, or the weights are not of this network.
        OSError: there is no such file.

    Example:
        >>> model = mobilenet_v3_small_simplified(10, (96, 96, 1)).eval()
        >>> model(torch.rand(1, 1, 96, 96)).sum()  # probabilities
    """

    def make(classes: int) -> MobileNetV3Simplified:
        return MobileNetV3Simplified(
            num_classes=classes,
            input_shape=input_shape,
            classifier_activation=classifier_activation,
        )

    return build(make, None, weights, num_classes, progress)
