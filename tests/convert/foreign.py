"""Networks of other libraries, with settled statistics. Their packages are optional."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


def settle(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Statistics that fit the weights: every BatchNorm sees what a batch really gives it."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def torchvision_model(name: str) -> nn.Module:
    # the wheel's compiled part needs another torch; these two schemas are all that it misses
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a) -> Tensor"):
        try:
            library.define(schema)
        except RuntimeError:
            break
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    make: Callable[..., nn.Module] = getattr(models, name)
    return make(weights=None)


def timm_model(name: str) -> nn.Module:
    torchvision_model("mobilenet_v2")  # timm imports torchvision
    timm = pytest.importorskip("timm", exc_type=ImportError)
    model: nn.Module = timm.create_model(name)
    return model


def foreign_model(name: str) -> nn.Module:
    """`torchvision/name` or `timm/name`; skips the test without the package."""
    library, _, model = name.partition("/")
    torch.manual_seed(0)
    return torchvision_model(model) if library == "torchvision" else timm_model(model)
