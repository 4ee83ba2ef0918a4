"""A program's call: who sees it without computing is told the geometry that the records have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import weebill
from tests.fusion.networks import Net
from weebill.fusion.packed import Packed


class Seeing(TorchDispatchMode):
    """Keeps the geometry of the last call that was made in it."""

    geometry: list[int]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.weebill.run.default:
            self.geometry = args[2]
        return func(*args, **(kwargs or {}))


@pytest.fixture(name="packed")
def fixture_packed() -> Packed:
    model = weebill.convert(Net().eval())
    packed = model.fusion.packed
    assert isinstance(packed, Packed)
    return packed


X = torch.randn(2, 3, 12, 10)


def test_modes_see_the_geometry(packed: Packed) -> None:
    with Seeing() as mode:
        packed.run(X)
    assert mode.geometry == packed.geometry
    assert packed.geometry


def test_fake_results_have_the_shape(packed: Packed) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = [packed.run(X), packed.run(mode.from_tensor(X))]
    for fake in found:
        assert isinstance(fake, FakeTensor)
        assert fake.shape == (2, 5)


def test_tensors_of_other_types_see_the_geometry(packed: Packed) -> None:
    class Own(Tensor):
        seen: list[int]

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            cls.seen = args[2]
            return super().__torch_function__(func, types, args, kwargs)

    packed.run(X.as_subclass(Own))
    assert Own.seen == packed.geometry


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_traces_hold_the_geometry(packed: Packed) -> None:
    def run(x: Tensor) -> Tensor:
        return packed.run(x)

    graph = make_fx(run)(X)
    (call,) = [node for node in graph.graph.nodes if "weebill" in str(node.target)]
    assert call.args[2] == packed.geometry
    assert torch.equal(graph(X), run(X))
    traced = torch.jit.trace(run, X)
    (node,) = traced.graph.findAllNodes("weebill::run")
    assert len(list(list(node.inputs())[2].node().inputs())) == len(packed.geometry)
    assert torch.equal(traced(X), run(X))
