"""Forwards that do more than their graph shows are left alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weebill.fusion.layers import NotFusable
from weebill.fusion.match import graph_of
from weebill.fusion.trace import Graph

Forward = Callable[[Any, Tensor], Any]


class Watching(nn.Conv2d):
    """A convolution that keeps the largest value that it has seen."""

    largest: Tensor

    def __init__(self) -> None:
        super().__init__(8, 8, 1)
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.largest.copy_(torch.maximum(self.largest, x.abs().max()))
        return super().forward(x)


class Net(nn.Module):
    """Layers that forwards of the tests put together."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.steps = forward
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.norm = nn.BatchNorm2d(8)
        self.watching = Watching()
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("found", None)
        self.calls = 0
        self.log: list[Any] = []
        self.cache: dict[str, list[Any]] = {"shapes": []}
        self.offset = torch.zeros(1, 8, 1, 1)

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
    net = Net(lambda m, x: m.second(m.first(x))).eval()
    graph = graph_of(net)
    assert graph.owner is net
    with torch.no_grad():
        expected = net(graph.trial_input)
    torch.testing.assert_close(graph.trial_output, expected)
    assert not graph.trial_output.requires_grad


def test_a_result_without_gradients_by_nature() -> None:
    assert traced(lambda m, x: m.first(x).argmax(1)).trial_output.dtype == torch.int64
    with torch.no_grad():
        net = Net(lambda m, x: m.second(m.first(x))).eval().requires_grad_(False)
        graph_of(net)


def keeps_a_map(m: Any, x: Tensor) -> Tensor:
    m.map = m.first(x)
    return m.second(m.map)  # type: ignore[no-any-return]


def counts(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return m.second(m.first(x))  # type: ignore[no-any-return]


def logs(m: Any, x: Tensor) -> Tensor:
    m.log.append(x)
    return m.second(m.first(x))  # type: ignore[no-any-return]


def logs_deep(m: Any, x: Tensor) -> Tensor:
    m.cache["shapes"].append(x.shape)
    return m.second(m.first(x))  # type: ignore[no-any-return]


def logs_unseen(m: Any, x: Tensor) -> Tensor:
    if isinstance(x, Tensor):
        m.log.append(1)
        m.more = 1
    return m.second(m.first(x))  # type: ignore[no-any-return]


def sets_a_buffer(m: Any, x: Tensor) -> Tensor:
    m.found = torch.ones(1)
    return m.second(m.first(x))  # type: ignore[no-any-return]


def sets_an_inner_attribute(m: Any, x: Tensor) -> Tensor:
    m.second[1].inplace = True
    return m.second(m.first(x))  # type: ignore[no-any-return]


def trains(m: Any, x: Tensor) -> Tensor:
    m.norm.train()
    return m.second(m.norm(m.first(x)))  # type: ignore[no-any-return]


def moves_statistics(m: Any, x: Tensor) -> Tensor:
    n = m.norm
    x = F.batch_norm(m.first(x), n.running_mean, n.running_var, n.weight, n.bias, training=True)
    return m.second(x)  # type: ignore[no-any-return]


def adds_up(m: Any, x: Tensor) -> Tensor:
    y = m.second(m.first(x))
    return y + m.total.add_(1) * 0  # type: ignore[no-any-return]


def writes_an_attribute(m: Any, x: Tensor) -> Tensor:
    m.offset.add_(1)
    return m.second(m.first(x))  # type: ignore[no-any-return]


def watches(m: Any, x: Tensor) -> Tensor:
    return m.watching(m.first(x))  # type: ignore[no-any-return]


EFFECTS: dict[Forward, str] = {
    keeps_a_map: "changes map",
    counts: "changes calls",
    logs: "changes log",
    logs_deep: "changes cache",
    logs_unseen: "changes (log|more)",
    sets_a_buffer: "changes found",
    sets_an_inner_attribute: "changes second.1.inplace",
    trains: "changes norm.training",
    moves_statistics: "changes norm.running_(mean|var)",
    adds_up: "changes total",
    writes_an_attribute: "changes offset",
    watches: "changes watching.largest",
}


@pytest.mark.parametrize("forward", EFFECTS, ids=lambda f: f.__name__)
def test_what_a_forward_changes(forward: Forward) -> None:
    net = Net(forward).eval()
    net.log.append("before")
    before = copy.deepcopy(vars(net))
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad(), pytest.raises(NotFusable, match=EFFECTS[forward]):
        graph_of(net)
    assert vars(net).keys() == before.keys()
    assert (net.calls, net.log, net.cache) == (0, ["before"], {"shapes": []})
    assert net.offset.count_nonzero() == 0
    assert net.found is None
    assert not any(module.training for module in net.modules())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name])


def drawing(m: Any, x: Tensor) -> Tensor:
    noise = random.random() + np.random.rand() + torch.rand(()).item()
    return F.dropout(m.second(m.first(x)), 0.5, training=True) + noise


def test_random_numbers_are_not_drawn() -> None:
    net = Net(drawing).eval()

    def drawn_next() -> list[float]:
        return [random.random(), float(np.random.rand()), torch.rand(()).item()]

    for expected in (True, False):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        if expected:
            wanted = drawn_next()
        else:
            with pytest.raises(NotFusable, match="is not what was traced"):
                graph_of(net)
            assert drawn_next() == wanted


class Registered(nn.Module):
    """Keeps its subclasses, by names that they must give."""

    known: ClassVar[dict[str, type[nn.Module]]] = {}

    def __init_subclass__(cls, *, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        assert name not in cls.known
        cls.known[name] = cls


class Branch(Registered, name="branch"):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, groups=8)
        self.second = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())  # type: ignore[no-any-return]


def test_tracing_makes_no_classes_that_others_hear_of() -> None:
    assert graph_of(Branch().eval()).nodes
    assert Registered.known == {"branch": Branch}
