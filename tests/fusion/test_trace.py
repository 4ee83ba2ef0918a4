"""Forwards that do more than their graph shows are left alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weebill.fusion.layers import NotFusable
from weebill.fusion.match import graph_of
from weebill.fusion.trace import Graph

Forward = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """Layers that forwards of the tests put together."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.steps = forward
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Any:
        return self.steps(self, x)


def traced(forward: Forward) -> Graph:
    torch.manual_seed(0)
    return graph_of(Net(forward).eval())


def by_class(m: Any, x: Tensor) -> Tensor:
    if isinstance(x, Tensor):
        x = m.second(x)
    return m.first(x)  # type: ignore[no-any-return]


def by_kind(m: Any, x: Tensor) -> Tensor:
    return m.first(m.second(x) if torch.is_tensor(x) else x)  # type: ignore[no-any-return]


def by_failure(m: Any, x: Tensor) -> Tensor:
    try:
        if x.mean() > 1e9:
            return x
        x = m.second(x)
    except Exception:
        pass
    return m.first(x)  # type: ignore[no-any-return]


def by_grad_mode(m: Any, x: Tensor) -> Tensor:
    return m.first(m.second(x) if torch.is_grad_enabled() else x)  # type: ignore[no-any-return]


def drawn(m: Any, x: Tensor) -> Tensor:
    return m.first(x) * random.random()  # type: ignore[no-any-return]


def in_half_precision(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return m.second(x)  # type: ignore[no-any-return]


def in_half_precision_inside(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        x = m.second(x)
    return m.first(x.float())  # type: ignore[no-any-return]


def a_pair(m: Any, x: Tensor) -> Any:
    y = m.second(m.first(x))
    return (y, y) if isinstance(x, Tensor) else y


def without_gradients(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return m.second(m.first(x))  # type: ignore[no-any-return]


def without_gradients_inside(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = m.first(x)
    return m.second(x)  # type: ignore[no-any-return]


def in_inference_mode(m: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return m.second(m.first(x))  # type: ignore[no-any-return]


def detached(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(x)).detach()  # type: ignore[no-any-return]


def detached_inside(m: Any, x: Tensor) -> Tensor:
    return m.second(m.first(x).detach() + x)  # type: ignore[no-any-return]


HIDDEN: dict[Forward, str] = {
    by_class: "is not what was traced",
    by_kind: "is not what was traced",
    by_failure: "is not what was traced",
    by_grad_mode: "is not what was traced",
    drawn: "is not what was traced",
    in_half_precision: "which gives float32, not bfloat16",
    in_half_precision_inside: "which gives values that differ by",
    a_pair: "does not return one tensor",
    without_gradients: "stops gradients",
    without_gradients_inside: "stops gradients",
    in_inference_mode: "stops gradients",
    detached: "stops gradients",
    detached_inside: "stops gradients",
}


@pytest.mark.parametrize("forward", HIDDEN, ids=lambda f: f.__name__)
def test_what_tracing_does_not_see(forward: Forward) -> None:
    with torch.no_grad(), pytest.raises(NotFusable, match=HIDDEN[forward]):
        traced(forward)


def test_the_expected_result_is_the_forwards_own() -> None:
    graph = traced(lambda m, x: m.second(m.first(x)))
    assert isinstance(graph.owner, Net)
    with torch.no_grad():
        expected = graph.owner(graph.trial_input)
    torch.testing.assert_close(graph.trial_output, expected)
    assert not graph.trial_output.requires_grad


def test_a_result_without_gradients_by_nature() -> None:
    assert traced(lambda m, x: m.first(x).argmax(1)).trial_output.dtype == torch.int64
    with torch.no_grad():
        net = Net(lambda m, x: m.second(m.first(x))).eval().requires_grad_(False)
        graph_of(net)
