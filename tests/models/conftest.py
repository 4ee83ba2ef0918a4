"""The peer that our models are compared with, and weights that make comparisons meaningful."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn


def import_torchvision() -> ModuleType:
    """torchvision's models. Its wheel may lack the native part, whose two ops are declared at the
    import of its Python part: declaring them here makes that work."""
    for op in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, op):
            torch.library.define(
                f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    return importlib.import_module("torchvision")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """These networks are small: threads that wait for each other on a busy machine cost more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def torchvision() -> Any:
    try:
        return import_torchvision()
    except ImportError as error:
        pytest.skip(f"torchvision cannot be imported: {error}")


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], nn.Module]:
    """A function that gives BatchNorm parameters and statistics as after training, then eval()."""

    def apply(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 1.5),
                ):
                    assert tensor is not None
                    tensor.data.uniform_(low, high, generator=generator)
        return model.eval()

    return apply


@pytest.fixture(scope="session")
def spread() -> Callable[[nn.Module], nn.Module]:
    """As `randomise`, and convolutions that keep values near 1 through all layers."""

    def apply(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                deviation = (1.4 / module.weight[0].numel()) ** 0.5
                module.weight.data.normal_(0, deviation, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.weight.data.uniform_(0.7, 1.3, generator=generator)
                module.bias.data.uniform_(-0.2, 0.2, generator=generator)
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        return model.eval()

    return apply
