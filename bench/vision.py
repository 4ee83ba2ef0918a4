"""Imports torchvision and timm beside a torch that torchvision was not built for.

Installed with ``--no-deps`` beside a CPU-only torch, torchvision's compiled operators do not
load, and its Python part refuses to import unless the schemas of two of them exist.  None of
the networks measured here calls either.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_vision(name: str) -> ModuleType:
    """Import ``torchvision`` or ``timm`` (or a submodule of either)."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for half_imported in [key for key in sys.modules if key.split(".")[0] == "torchvision"]:
            del sys.modules[half_imported]
        for op, schema in _SCHEMAS.items():
            with contextlib.suppress(RuntimeError):  # defined already
                torch.library.define(f"torchvision::{op}", schema)
    return importlib.import_module(name)
