"""Gradients in evaluation are those of the plain forward as it was, whatever happens in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import weebill
from tests.convert.foreign import settle
from weebill.nn import FusedModule, unfused


def block(channels: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1),
    )


def made() -> Any:
    torch.manual_seed(0)
    return weebill.convert(settle(block(), torch.randn(4, 8, 9, 9)))


def gradients(model: Any, run: Callable[[Any, Tensor], Any]) -> list[Tensor | None]:
    """Of all parameters and of x, behind what `run` does with the model."""
    torch.manual_seed(1)
    x = torch.randn(2, 8, 9, 9).to(next(model.parameters()).dtype).requires_grad_()
    run(model, x)
    return [*(p.grad for p in model.parameters()), x.grad]


def twice(model: Any, x: Tensor) -> None:
    model(model(x)).square().sum().backward()


def own_input(model: Any, x: Tensor) -> None:
    model(x * model[3].weight.sum() + model[0].weight.sum()).square().sum().backward()


def statistics_in_between(model: Any, x: Tensor) -> None:
    y = model(x).square().sum()
    before = copy.deepcopy(model.state_dict())
    model.train()
    y.backward()
    model.eval()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def replaced_in_between(model: Any, x: Tensor) -> None:
    y = model(x).square().sum()
    own = dict(model.named_parameters())
    for name, parameter in own.items():
        holder = model.get_submodule(name.rpartition(".")[0])
        setattr(holder, name.rpartition(".")[2], nn.Parameter(torch.zeros_like(parameter)))
    y.backward()
    for name, parameter in own.items():
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], parameter)


def hooked(model: Any, x: Tensor) -> None:
    handles = [t.register_hook(lambda gradient: 2 * gradient) for t in (x, *model.parameters())]
    model(x).square().sum().backward()
    for handle in handles:
        handle.remove()


def hooks_in_between(model: Any, x: Tensor) -> None:
    y = model(x).square().sum()
    handle = model[1].register_forward_hook(lambda *_: pytest.fail("ran in the backward"))
    y.backward()
    handle.remove()


def second_order(model: Any, x: Tensor) -> None:
    (first,) = torch.autograd.grad(model(model(x)).square().sum(), x, create_graph=True)
    first.square().sum().backward()


def functional(model: Any, x: Tensor) -> None:
    weights = {name: p * 1.5 for name, p in model.named_parameters()}
    torch.func.functional_call(model, weights, (x,)).square().sum().backward()


@pytest.mark.parametrize(
    "run",
    [
        twice,
        own_input,
        statistics_in_between,
        replaced_in_between,
        hooked,
        hooks_in_between,
        second_order,
        functional,
    ],
)
def test_as_the_plain_forward(run: Callable[[Any, Tensor], Any]) -> None:
    fast = made()
    exact = copy.deepcopy(fast).double()
    with unfused():
        expected = gradients(exact, run)
    assert type(fast).__name__.startswith("Fused")
    found = gradients(fast, run)
    assert fast.fusion.program is not None
    for a, b in zip(found, expected, strict=True):
        assert a is not None
        assert b is not None
        scale = float(b.abs().max())
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * scale)


class LeadingBack(nn.Module):
    """Its forward reaches its layers in another way than by their names."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.features = block()
        self.head: Any = nn.Conv2d(8, 8, 1)
        if way == "list":
            self.run: Any = [self.features, self.head]
        elif way == "closure":
            self.run = [lambda x: self.head(self.features(x))]
        else:
            self.run = [self.in_turn]

    def in_turn(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.features(x))
        return y

    def forward(self, x: Tensor) -> Tensor:
        for function in self.run:
            x = function(x)
        return x


@pytest.mark.parametrize("way", ["list", "closure", "method"])
def test_layers_that_are_reached_past_their_names(way: str) -> None:
    def network() -> Any:  # each from its beginning: no copy has closures of its own
        torch.manual_seed(0)
        return LeadingBack(way).eval()

    model, fast = network(), weebill.convert(network(), inplace=True)
    other = weebill.convert(network(), inplace=True)
    x = torch.randn(2, 8, 9, 9)
    for run in (model, fast, torch.compile(other, backend="aot_eager")):
        run(x).square().sum().backward()
    for found in (fast, other):
        for a, b in zip(found.parameters(), model.parameters(), strict=True):
            assert a.grad is not None
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        model.head.weight = nn.Parameter(torch.ones_like(model.head.weight))
        fast.head.weight = nn.Parameter(torch.ones_like(model.head.weight))
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


class Circular(nn.Module):
    """Attributes that lead back to themselves, and a closure over what is not there yet."""

    def __init__(self) -> None:
        super().__init__()
        self.features = block()
        self.ring: list[Any] = []
        self.ring.append(self.ring)

        def countdown(n: int) -> int:
            return countdown(n - 1) if n else missing

        self.countdown = countdown
        if not self.ring:
            missing = 0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.features(x)
        return y


def test_attributes_that_lead_back_to_themselves() -> None:
    torch.manual_seed(0)
    fast: Any = weebill.convert(Circular().eval(), inplace=True)
    assert isinstance(fast, FusedModule)
    x = torch.randn(1, 8, 9, 9, requires_grad=True)
    (found,) = torch.autograd.grad(fast(x).sum(), x)
    with unfused():
        (expected,) = torch.autograd.grad(fast(x).sum(), x)
    torch.testing.assert_close(found, expected)


def test_tied_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()).eval()
    model[2].weight = model[0].weight
    fast = weebill.convert(model)
    x = torch.randn(2, 8, 9, 9)
    for network in (model, fast):
        network(x).square().sum().backward()
    for a, b in zip(fast.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_weights_frozen_in_between() -> None:
    fast = made()
    y = fast(torch.randn(2, 8, 9, 9)).square().sum()
    fast.requires_grad_(requires_grad=False)
    y.backward()
    assert all(p.grad is None for p in fast.parameters())


def test_a_change_in_between_raises_as_in_torch() -> None:
    fast = made()
    for frozen in (False, True):
        fast[0].weight.requires_grad_(not frozen)
        y = fast(torch.randn(2, 8, 9, 9, requires_grad=True)).sum()
        with torch.no_grad():
            fast[0].weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()


def test_backward_under_autocast() -> None:
    fast = made()
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    (expected,) = torch.autograd.grad(fast(x).square().sum(), x)
    y = fast(x).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(y, x)
    assert torch.equal(found, expected)


class Seen(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_the_backward_runs_the_plain_forward_once() -> None:
    fast = weebill.models.mobilenet_v3_small(num_classes=4).eval()
    with torch.no_grad():
        fast(torch.randn(1, 3, 64, 64))
    y = fast(torch.randn(1, 3, 64, 64)).sum()
    with Seen() as seen:
        y.backward()
    convolutions = sum(isinstance(module, nn.Conv2d) for module in fast.modules())
    assert sum(name.startswith("aten.convolution.") for name in seen.names) == convolutions
    assert not any(name.startswith("weebill") for name in seen.names)


def test_shared_modules_in_a_compiled_model() -> None:
    torch.manual_seed(0)
    shared = nn.Conv2d(8, 8, 1)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU()).eval()
    fast = weebill.convert(model)
    x = torch.randn(2, 8, 9, 9)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    compiled(x).square().sum().backward()
    model(x).square().sum().backward()
    assert type(fast[0].weight) is nn.Parameter
    torch.testing.assert_close(fast[0].weight.grad, model[0].weight.grad, rtol=1e-4, atol=1e-4)
