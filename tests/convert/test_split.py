"""Forwards that are no chain: their chains run fused, the steps between them as they are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weebill
from tests.convert.foreign import settle
from tests.convert.test_convert import assert_near, distance
from weebill import _C
from weebill.fusion import cost
from weebill.fusion.split import Split
from weebill.nn import FusedModule, unfused


def norm_act(c_in: int, c_out: int, kernel: int = 1, groups: int = 1, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


class Mixed(nn.Module):
    """Channels go through windows of different sizes and are joined; a sum of all is normed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = norm_act(3, 12, 3, stride=2)
        self.small = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.large = nn.Conv2d(6, 6, 5, padding=2, groups=6)
        self.norm = nn.BatchNorm2d(12)
        self.scale = nn.Parameter(torch.full((1, 12, 1, 1), 0.5))
        self.dense = norm_act(12, 40, 3)
        self.wide = norm_act(40, 40, 3)
        self.head = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        a, b = y.split([6, 6], dim=1)
        z = F.silu(torch.cat([self.small(a), self.large(b)], dim=1)) * self.scale
        z = self.norm(torch.add(z, y, alpha=2))
        w = self.dense(F.max_pool2d(z, 2))
        n = w.shape[0]
        w = w + self.wide(w)
        return self.head(F.adaptive_avg_pool2d(w, 1).view(n, -1))  # type: ignore[no-any-return]


def made() -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = settle(Mixed(), torch.randn(8, 3, 33, 40))
    return model, weebill.convert(model)


def packed(model: Any) -> Split:
    assert isinstance(model, FusedModule)
    assert model.fusion.prepare(model)
    found = model.fusion.packed
    assert isinstance(found, Split)
    return found


@pytest.fixture(params=["kernels", "torch"])
def _dense(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense convolutions run on the kernels, or are torch's."""
    monkeypatch.setattr(cost, "FAST_DENSE", (_C.isa(),) if request.param == "kernels" else ())


@pytest.mark.usefixtures("_dense")
def test_result_in_every_layout_and_size() -> None:
    model, fast = made()
    packed(fast)
    for shape in ((1, 3, 33, 40), (3, 3, 64, 17), (2, 3, 8, 8)):
        x = torch.randn(shape)
        for image in (x, x.to(memory_format=torch.channels_last)):
            with torch.inference_mode():
                before = image.clone()
                assert_near(fast(image), model, image)
                assert torch.equal(image, before)


def test_report_names_parts_and_steps() -> None:
    model, fast = made()
    found = weebill.report(fast, (1, 3, 32, 32))
    left = {entry.path: entry for entry in found.entries if not entry.fused}
    assert "norm" in left
    assert all(entry.reason for entry in left.values())
    assert found.calls == len(packed(fast).packed)
    assert 0.5 < (found.fused_share or 0) <= 1
    plain = weebill.report(model, (1, 3, 32, 32))
    total = sum(entry.multiply_adds or 0 for entry in found.entries)
    assert total == sum(entry.multiply_adds or 0 for entry in plain.entries)


def change_folded(model: Any) -> None:
    model.dense[0].weight.mul_(1.5)


def change_step(model: Any) -> None:
    model.norm.running_mean.add_(1)


def change_attribute(model: Any) -> None:
    model.scale.mul_(3)


def new_attribute(model: Any) -> None:
    model.scale = nn.Parameter(torch.full((1, 12, 1, 1), -2.0))


def new_step(model: Any) -> None:
    model.norm = nn.Identity()


def new_part(model: Any) -> None:
    model.dense = norm_act(12, 40, 1).eval()


@pytest.mark.parametrize(
    "change",
    [change_folded, change_step, change_attribute, new_attribute, new_step, new_part],
    ids=lambda f: f.__name__,
)
def test_changes_are_seen(change: Any) -> None:
    model, fast = made()
    x = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        before = fast(x)
        torch.manual_seed(1)
        change(fast)
        after = fast(x)
        assert not torch.allclose(after, before)
        torch.manual_seed(1)
        change(model)
        assert_near(after, model, x)


def test_copies_pickles_and_training() -> None:
    model, fast = made()
    x = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        expected = fast(x)
        for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert torch.equal(twin(x), expected)
            packed(twin)
    assert list(fast.state_dict()) == list(model.state_dict())
    assert torch.equal(fast.train()(x), model.train()(x))
    with torch.no_grad():
        assert distance(fast.eval()(x), model.eval()(x)) <= 1e-5


def test_gradients_are_those_of_the_plain_forward() -> None:
    model, fast = made()
    x, x_plain = (torch.ones(2, 3, 20, 20).requires_grad_() for _ in range(2))
    fast(x).square().sum().backward()
    model(x_plain).square().sum().backward()
    pairs = zip((x, *fast.parameters()), (x_plain, *model.parameters()), strict=True)
    for found, wanted in pairs:
        assert wanted.grad is not None
        assert found.grad is not None
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-3)


def test_hooks_and_modes_inside_run_plain() -> None:
    model, fast = made()
    x = torch.randn(2, 3, 20, 20)
    calls: list[int] = []
    handle = fast.norm.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert distance(fast(x), model(x)) <= 1e-5
        assert calls == [1]
        handle.remove()
        assert distance(fast(x), model(x)) <= 1e-5
        with unfused():
            assert torch.equal(fast(x), model(x))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_compiled_without_a_graph_break() -> None:
    _, fast = made()
    x = torch.randn(2, 3, 20, 20)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert distance(compiled(x), fast(x)) <= 1e-5


def test_nothing_to_gain_stays_as_it_is() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x).cumsum(1))
            return y.flip(2)

    model = Bare().eval()
    fast = weebill.convert(model)
    assert type(fast) is Bare
    x = torch.randn(1, 3, 9, 9)
    with torch.inference_mode():
        assert torch.equal(fast(x), model(x))


class Viewing(nn.Module):
    """Takes for granted that an image lies channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(norm_act(3, 8), nn.Conv2d(8, 8, 3, padding=1, groups=8))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), norm_act(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        size = y.shape[0], y.shape[1], y.shape[2], y.shape[3]
        z = y.view(size[0], -1).view(size)
        return self.second(z)  # type: ignore[no-any-return]


def test_views_that_channels_last_has_not() -> None:
    model = settle(Viewing(), torch.randn(4, 3, 12, 10))
    fused = weebill.convert(model)
    assert isinstance(fused, FusedModule)
    assert weebill.report(fused).calls == 2
    x = torch.randn(2, 3, 9, 7)
    with torch.inference_mode():
        y = fused(x)
    assert_near(y, model, x)
