"""BatchNorms and activations behind a concatenation go into the layers before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weebill
from tests.convert.foreign import foreign_model, settle
from tests.convert.test_convert import assert_near
from weebill.fusion.match import graph_of
from weebill.fusion.shuffles import concatenated
from weebill.fusion.split import Split


class Joined(nn.Module):
    """Convolutions of several sizes side by side, then what `behind` does with them."""

    def __init__(self, behind: Callable[[Any, Tensor], Tensor], dim: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, 2, 1)
        self.small = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.large = nn.Conv2d(11, 11, 5, padding=2, groups=11, bias=False)
        self.inner = nn.BatchNorm2d(11)
        self.point = nn.Conv2d(5, 7, 1)
        self.norm = nn.BatchNorm2d(26, eps=1e-3)
        self.plain = nn.BatchNorm2d(26, affine=False)
        self.drop = nn.Dropout()
        self.head = nn.Conv2d(26, 4, 1)
        self.behind, self.dim = behind, dim

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.stem(x).split([8, 11, 5], dim=1)
        parts = [self.small(a), self.inner(self.large(b)), self.point(c)]
        return self.behind(self, torch.cat(parts, self.dim))


def functional_norm(model: Any, y: Tensor) -> Tensor:
    n = model.norm
    y = F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, False, 0.1, n.eps)
    return y * torch.sigmoid(y)


MOVED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "norm": lambda m, y: m.head(m.norm(y)),
    "norm and activation": lambda m, y: m.head(F.hardswish(m.norm(y))),
    "activation": lambda m, y: m.head(F.relu(y)),
    "two norms, the first without weights": lambda m, y: F.relu6(m.norm(m.drop(m.plain(y)))),
    "a functional norm, a spelled out activation": functional_norm,
    "nothing behind the activation but the result": lambda m, y: F.silu(m.norm(y)),
}


def made(behind: Callable[[Any, Tensor], Tensor], dim: int = 1) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = settle(Joined(behind, dim), torch.randn(8, 3, 24, 20))
    with torch.no_grad():
        for norm in (model.norm, model.inner):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
    return model, weebill.convert(model)


def steps(model: Any) -> list[Any]:
    """The names of the modules and functions between the parts."""
    assert model.fusion.prepare(model), model.fusion.reason
    split = model.fusion.packed
    assert isinstance(split, Split)
    return [n.name for n in split.recipe.order if n not in split.recipe.parts]


def assert_right(fast: Any, model: Any, x: Tensor, path: Path) -> None:
    """Near the model, and from a file the same bits."""
    weebill.save(fast, path)
    with torch.inference_mode():
        y = fast(x)
        assert_near(y, model, x)
        assert torch.equal(torch.from_numpy(weebill.runtime.load(path)(x.numpy())), y)


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("dim", [1, -3])
def test_moved(name: str, dim: int, tmp_path: Path) -> None:
    model, fast = made(MOVED[name], dim)
    between = steps(fast)
    assert between[0] == "x"
    assert between[-1].startswith("cat")
    assert all(step.startswith(("split", "getitem")) for step in between[1:-1])
    x = torch.randn(2, 3, 21, 30)
    assert_right(fast, model, x, tmp_path / "a")
    assert list(fast.state_dict()) == list(model.state_dict())


def test_each_part_follows_the_norm() -> None:
    model, fast = made(MOVED["norm and activation"])
    x = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        fast(x)
    for change in (
        lambda m: m.norm.running_mean[20:].add_(1),
        lambda m: m.norm.weight[:3].mul_(2),
        lambda m: setattr(m.norm, "eps", 0.5),
        lambda m: m.inner.bias.sub_(1),
        lambda m: m.load_state_dict({k: v * 1.1 for k, v in m.state_dict().items()}),
    ):
        with torch.no_grad():
            change(model)
            change(fast)
        with torch.inference_mode():
            assert_near(fast(x), model, x)


def test_gradients_are_those_of_the_plain_forward() -> None:
    model, fast = made(MOVED["norm and activation"])
    x = torch.randn(2, 3, 16, 16)
    for network in (model, fast):
        network(x).square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), fast.parameters(), strict=True):
        if a.grad is not None:
            assert torch.allclose(
                a.grad, b.grad, rtol=1e-3, atol=1e-3 * float(a.grad.abs().max())
            ), name


class Other(nn.Module):
    """A concatenation behind which nothing may be moved."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 8, 1)
        self.b = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(16)
        self.pool = nn.MaxPool2d(1)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(self, x)
        return y


def used_elsewhere(m: Any, x: Tensor) -> Tensor:
    a = m.a(x)
    return torch.relu(torch.cat([a, m.b(x)], 1)) + torch.cat([a, a], 1)


def used_before(m: Any, x: Tensor) -> Tensor:
    y = torch.cat([m.a(x), m.b(x)], 1)
    z: Tensor = m.norm(y) + y
    return z


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.norm(torch.cat([m.a(x), x], 1)),
        lambda m, x: m.norm(torch.cat([m.a(x), m.pool(x)], 1)),
        lambda m, x: m.norm(torch.cat([F.relu(m.a(x)), m.b(x)], 1)),
        lambda m, x: F.relu(torch.cat([m.a(x), m.b(x)], 2)),
        lambda m, x: torch.cat([m.a(x), m.b(x)], 1).softmax(1),
        lambda m, x: torch.relu(torch.cat([m.a(m.b(x))] * 2, 1)),
        used_elsewhere,
        used_before,
    ],
)
def test_left_where_it_is(function: Callable[[Any, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = settle(Other(function), torch.randn(8, 8, 12, 12))
    graph = graph_of(model)
    for node in graph.nodes:
        for branch in concatenated(node):
            assert graph.module(branch) in (None, model.a, model.b, model.pool)
            assert branch.op in ("call_module", "placeholder") or branch.name.startswith("relu")
    x = torch.randn(2, 8, 9, 11)
    with torch.inference_mode():
        assert_near(weebill.convert(model)(x), model, x)


def test_a_hook_on_the_norm_keeps_it() -> None:
    model, fast = made(MOVED["norm"])
    seen = []
    for network in (model, fast):
        network.norm.register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(fast(x), model(x))
    assert len(seen) == 2


def test_a_network_of_timm(tmp_path: Path) -> None:
    model = settle(foreign_model("timm/mixnet_s"), torch.randn(4, 3, 96, 96))
    fast = weebill.convert(model)
    x = torch.randn(1, 3, 96, 80)
    assert_right(fast, model, x, tmp_path / "a")
    assert all(entry.fused for entry in weebill.report(fast).entries)
