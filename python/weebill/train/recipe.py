"""What a training does: every setting that changes its result, in one checked, storable object."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Recipe"]


def _setting(default: Any, text: str) -> Any:
    """A field and the sentence that the command line shows for it."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training.

    Together with the data, the model and the number of processes a recipe determines the result:
    random numbers start anew every epoch, from `seed` and the epoch's number.

    Learning rate of step t of T, W of them warm-up:

        lr * t / W                                        for t <= W
        lr / 2 * (1 + cos(pi * (t - W) / (T - W)))        after that

    Args:
        epochs: Passes over the training data.
        batch_size: Images per step, of all processes together.
        optimizer: "sgd" (Nesterov momentum) or "adamw".
        lr: Peak learning rate, for the whole batch.
        momentum: Of SGD.
        weight_decay: Of weights with more than one dimension; biases and normalisation have none.
        warmup_epochs: Epochs in which the learning rate rises; fractions are allowed.
        label_smoothing: Share of the target that is spread over all classes.
        ema_decay: Share of the weights' moving average that survives a step; 0 switches it off. It
            follows the weights exactly during warm-up.
        norm_momentum: New value for the momentum of BatchNorm; None keeps the model's. Networks
            made for long trainings (MobileNetV3: 0.01) need more in a short one.
        clip_grad_norm: Largest norm of the gradient; 0 does not clip.
        precision: "float32", or "bfloat16" for mixed precision (torch's autocast).
        crop_padding: Pixels of padding before a random crop of the same size; 0 does not crop.
        flip: Probability of a horizontal flip.
        colour: Strength of random changes of brightness, contrast and saturation.
        rand_augment: Operations of RandAugment per image; 0 is none.
        rand_magnitude: Their strength, above 0 and below 30.
        mixup, cutmix: Parameters of the beta distributions; 0 is off. Where both are on, each batch
            takes one of them at random.
        random_erasing: Probability that a rectangle is erased.
        seed: Of all random numbers.

    Raises:
        ValueError: a setting is out of its range.

    Sources: Loshchilov and Hutter, SGDR, arXiv:1608.03983 (cosine); Goyal et al.,
        arXiv:1706.02677 (warm-up); Szegedy et al., arXiv:1512.00567, section 7 (label smoothing);
        He et al., arXiv:1812.01187 (no weight decay of biases and normalisation).
    """

    epochs: int = _setting(10, "Passes over the training data.")
    batch_size: int = _setting(128, "Images per step, of all processes together.")
    optimizer: Literal["sgd", "adamw"] = _setting("adamw", "Optimizer.")
    lr: float = _setting(3e-3, "Peak learning rate, for the whole batch.")
    momentum: float = _setting(0.9, "Momentum of SGD.")
    weight_decay: float = _setting(0.05, "Weight decay; none for biases and normalisation.")
    warmup_epochs: float = _setting(1.0, "Epochs in which the learning rate rises.")
    label_smoothing: float = _setting(0.1, "Share of the target spread over all classes.")
    ema_decay: float = _setting(0.995, "Decay of the weights' moving average; 0: off.")
    norm_momentum: float | None = _setting(0.1, "Momentum of BatchNorm.")
    clip_grad_norm: float = _setting(0.0, "Largest norm of the gradient; 0: any.")
    precision: Literal["float32", "bfloat16"] = _setting(
        "float32", "Of the forward pass; bfloat16 is mixed precision."
    )
    crop_padding: int = _setting(0, "Pixels of padding before a random crop; 0: no crop.")
    flip: float = _setting(0.5, "Probability of a horizontal flip.")
    colour: float = _setting(0.0, "Strength of brightness, contrast and saturation changes.")
    rand_augment: int = _setting(0, "Operations of RandAugment per image; 0: none.")
    rand_magnitude: int = _setting(9, "Strength of RandAugment, 1 to 29.")
    mixup: float = _setting(0.0, "Alpha of mixup; 0: off.")
    cutmix: float = _setting(0.0, "Alpha of CutMix; 0: off.")
    random_erasing: float = _setting(0.0, "Probability that a rectangle is erased.")
    seed: int = _setting(0, "Seed of all random numbers.")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            self._check(name, getattr(self, name) >= 1, "be positive")
        for name in ("lr", "clip_grad_norm", "weight_decay", "colour", "mixup", "cutmix"):
            value = getattr(self, name)
            self._check(name, math.isfinite(value) and value >= 0, "be finite and not negative")
        for name in ("crop_padding", "rand_augment", "seed"):
            self._check(name, getattr(self, name) >= 0, "not be negative")
        for name in ("momentum", "label_smoothing", "ema_decay"):
            self._check(name, 0 <= getattr(self, name) < 1, "be within [0, 1)")
        for name in ("flip", "random_erasing"):
            self._check(name, 0 <= getattr(self, name) <= 1, "be within [0, 1]")
        self._check("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, "be below epochs")
        self._check("rand_magnitude", 0 < self.rand_magnitude < 30, "be within 1..29")
        self._check("optimizer", self.optimizer in ("sgd", "adamw"), "be 'sgd' or 'adamw'")
        self._check(
            "precision",
            self.precision in ("float32", "bfloat16"),
            "be 'float32' or 'bfloat16'",
        )
        self._check(
            "norm_momentum",
            self.norm_momentum is None or 0 < self.norm_momentum <= 1,
            "be within (0, 1] or None",
        )

    def _check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"Recipe: {name} must {rule}, got {getattr(self, name)!r}")
