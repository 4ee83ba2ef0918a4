"""What all classification networks here share: stem to head in `features`, pool, `classifier`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

StateDict: TypeAlias = dict[str, Tensor]


def make_divisible(value: float, divisor: int = 8) -> int:
    """Rounds a channel count to a multiple of `divisor`, losing no more than a tenth.

    Source: MobileNetV2's reference code and every network of the family since.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor


def check_sizes(op: str, **sizes: int) -> None:
    """Raises ValueError or TypeError unless every size is a positive int."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{op}: {name} must be an int, got {value!r}")
        if value < 1:
            raise ValueError(f"{op}: {name} must be positive, got {value}")


@dataclass(frozen=True)
class FeatureInfo:
    """One resolution of a backbone: the last layer that has it.

    Attributes:
        index: Position of that layer in `features`.
        channels: Its output channels.
        reduction: Input size divided by output size.
    """

    index: int
    channels: int
    reduction: int


class Classifier(nn.Module):
    """Base of the classification networks: `classifier(flatten(avgpool(features(x))))`.

    Subclasses build the three parts; the last layer of `classifier` is the linear one that has a
    row per class.

    Attributes:
        features: The backbone, one child per layer or block.
        classifier: The head; (N, num_features) in, (N, num_classes) out.
        num_features: Channels that leave the backbone.
        head_hidden_size: Width of the head before its last layer.
        feature_info: For each resolution, the last layer that has it; see `FeatureExtractor`.
    """

    #: Standard deviation of linear layers' first weights, their biases being 0; None: torch's own.
    linear_std: ClassVar[float | None] = None

    def __init__(
        self,
        features: Sequence[nn.Module],
        classifier: Sequence[nn.Module],
        *,
        num_features: int,
        feature_info: Sequence[FeatureInfo],
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(*classifier)
        self.num_features = num_features
        last = self.classifier[-1]
        assert isinstance(last, nn.Linear)
        self.head_hidden_size = last.in_features
        self.feature_info = tuple(feature_info)

    @property
    def num_classes(self) -> int:
        """Rows of the last linear layer, 0 where `reset_classifier(0)` removed it."""
        last = self.classifier[-1]
        return last.out_features if isinstance(last, nn.Linear) else 0

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the backbone's (N, num_features, H', W')."""
        y: Tensor = self.features(x)
        return y

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What follows the backbone: pool and head; with `pre_logits` all but the last layer."""
        x = torch.flatten(self.avgpool(x), 1)
        if not pre_logits:
            y: Tensor = self.classifier(x)
            return y
        for layer in list(self.classifier)[:-1]:
            x = layer(x)
        return x

    def get_classifier(self) -> nn.Module:
        """The last layer of the head."""
        return self.classifier[-1]

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the last layer by a freshly initialised one; 0 removes it.

        Raises:
            ValueError: `num_classes` is negative.
        """
        if num_classes < 0:
            raise ValueError(
                f"reset_classifier: num_classes must not be negative, got {num_classes}"
            )
        if num_classes == 0:
            self.classifier[-1] = nn.Identity()
            return
        like = next(self.parameters())
        self.classifier[-1] = nn.Linear(
            self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype
        )
        self.init_weights(self.classifier[-1])

    def init_weights(self, module: nn.Module) -> None:
        """Initialises one layer as the training recipe of the network wants it."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and self.linear_std is not None:
            nn.init.normal_(module.weight, 0, self.linear_std)
            nn.init.zeros_(module.bias)

    @classmethod
    def convert_state_dict(cls, state_dict: Mapping[str, Tensor]) -> StateDict:
        """Renames the keys of other published files of this network to ours.

        Keys that are ours already, or of no known file, are returned as they are.
        """
        return dict(state_dict)


class FeatureExtractor(nn.Module):
    """A backbone that returns feature maps of several resolutions, for dense heads.

    Args:
        model: A classification network; its `features` are shared, not copied.
        out_indices: Which entries of `model.feature_info`; negative ones count from the end.
            Default: all.

    Shapes: (N, C, H, W) -> a list of (N, info.channels, ~H / info.reduction, ~W / info.reduction).

    State dict: the keys of the network up to the last layer used, `features.0` ...

    Attributes:
        feature_info: Of the maps returned, in order.

    Raises:
        ValueError: `out_indices` is empty or not within `feature_info`.
    """

    def __init__(self, model: Classifier, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        count = len(model.feature_info)
        wanted = range(count) if out_indices is None else out_indices
        if not wanted or any(not -count <= i < count for i in wanted):
            raise ValueError(
                f"FeatureExtractor: out_indices must be within 0..{count - 1}, got {out_indices}"
            )
        chosen = sorted({i % count for i in wanted})
        self.feature_info = tuple(model.feature_info[i] for i in chosen)
        last = max(info.index for info in self.feature_info)
        self.features = nn.Sequential(*list(model.features)[: last + 1])
        self._indices = frozenset(info.index for info in self.feature_info)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._indices:
                maps.append(x)
        return maps
