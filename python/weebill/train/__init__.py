"""Training classification networks: one recipe, on a CPU, in one process or several.

Names are imported when they are first used: `Recipe` is only settings, and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weebill.train.augment import Augmentation, cutmix, mixup
    from weebill.train.callbacks import Callback, Epoch, TensorBoard
    from weebill.train.datasets import (
        FashionMNIST,
        ImageFolder,
        LabelledImages,
        random_resized_crop,
        read_idx,
    )
    from weebill.train.evaluation import Evaluation, evaluate
    from weebill.train.loop import fit
    from weebill.train.recipe import Recipe

__all__ = [
    "Augmentation",
    "Callback",
    "Epoch",
    "Evaluation",
    "FashionMNIST",
    "ImageFolder",
    "LabelledImages",
    "Recipe",
    "TensorBoard",
    "cutmix",
    "evaluate",
    "fit",
    "mixup",
    "random_resized_crop",
    "read_idx",
]

_MODULES = {
    "augment": ("Augmentation", "cutmix", "mixup"),
    "callbacks": ("Callback", "Epoch", "TensorBoard"),
    "datasets": (
        "FashionMNIST",
        "ImageFolder",
        "LabelledImages",
        "random_resized_crop",
        "read_idx",
    ),
    "evaluation": ("Evaluation", "evaluate"),
    "loop": ("fit",),
    "recipe": ("Recipe",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'weebill.train' has no attribute {name!r}")
    return getattr(importlib.import_module(f"weebill.train.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
