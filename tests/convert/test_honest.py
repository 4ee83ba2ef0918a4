"""A converted model does what the model did, also where that is more than its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weebill
from weebill.nn import FusedModule


def block() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
    )


class Net(nn.Module):
    """Two blocks that forwards of the tests put together."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.steps = forward
        self.first, self.second = block(), block()

    def forward(self, x: Tensor) -> Tensor:
        return self.steps(self, x)


def converted(forward: Callable[[Any, Tensor], Tensor]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = Net(forward).eval()
    return model, weebill.convert(model)


def fused(module: nn.Module) -> bool:
    return isinstance(module, FusedModule) and module.fusion.prepare(module)


def assert_same(fast: nn.Module, model: nn.Module, x: Tensor) -> None:
    found, expected = fast(x), model(x)
    assert found.dtype == expected.dtype
    assert found.requires_grad == expected.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def branch_on_class(m: Any, x: Tensor) -> Tensor:
    return m.first(m.second(x) if isinstance(x, Tensor) else x)  # type: ignore[no-any-return]


def teacher(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return m.second(m.first(x))  # type: ignore[no-any-return]


def half(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return m.second(m.first(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("forward", [branch_on_class, teacher, half], ids=lambda f: f.__name__)
def test_what_tracing_does_not_see_stays(forward: Any) -> None:
    model, fast = converted(forward)
    assert_same(fast, model, torch.randn(2, 8, 9, 9))
    assert not fused(fast)
    assert fused(fast.first)
    assert fused(fast.second)
