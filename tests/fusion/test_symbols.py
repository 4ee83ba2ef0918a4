"""Traced forwards: which tensors become symbols, and that nothing is computed with others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from weebill.fusion.symbols import NotTraceable
from weebill.fusion.trace import trace


class Owner(nn.Module):
    def __init__(self, forward: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.zeros(3))
        self.register_buffer("missing", None)
        self._body = (forward,)  # not an attribute that is called with self

    def forward(self, x: Tensor) -> Any:
        return self._body[0](self, x)


def attributes(forward: Callable[[Any, Any], Any]) -> list[str]:
    graph = fx.Graph()
    trace(Owner(forward), graph)
    return [str(node.target) for node in graph.nodes if node.op == "get_attr"]


def test_only_what_the_forward_asks_for() -> None:
    assert attributes(lambda m, x: m.layer(x)) == []
    assert attributes(lambda m, x: m.layer(x) * m.scale + m.shift) == ["scale", "shift"]
    assert attributes(lambda m, x: x * m.scale + m.scale) == ["scale"]
    assert attributes(lambda m, x: F.linear(x, m.layer.weight)) == ["layer.weight"]
    assert attributes(lambda m, x: x if m.missing is None else x + m.missing) == []
    assert attributes(lambda m, x: x * m._parameters.get("scale", 1)) == ["scale"]
    assert attributes(lambda m, x: x * m._parameters.get("none", 1)) == []
    assert set(attributes(lambda m, x: [x * p for p in m.parameters()])) == {
        "scale",
        "layer.weight",
        "layer.bias",
    }


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: x * {**m._parameters}["scale"],
        lambda m, x: x * m._parameters.copy()["scale"],
        lambda m, x: x * (m._parameters | {})["scale"],
        lambda m, x: x * m._parameters.pop("scale"),
    ],
)
def test_what_is_taken_out_in_other_ways_is_no_constant(forward: Callable[[Any, Any], Any]) -> None:
    graph = fx.Graph()
    try:
        trace(Owner(forward), graph)
    except NotTraceable:
        return
    assert [str(node.target) for node in graph.nodes if node.op == "get_attr"] == ["scale"]


def test_functions_and_methods_are_what_fx_makes_of_them() -> None:
    def forward(m: Any, x: Any) -> Any:
        y = torch.add(F.relu(x), torch.mul(x, other=x))
        return torch.cat([y, y.abs().T, torch.flatten(x, 1).shape[0] + y], dim=1)

    ours, theirs = fx.Graph(), fx.symbolic_trace(Owner(forward)).graph
    trace(Owner(forward), ours)
    kinds = [[(node.op, node.target) for node in graph.nodes] for graph in (ours, theirs)]
    assert kinds[0] == kinds[1]
