"""Units of ShuffleNetV1 are found by what they compute, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import weebill
from tests.convert.foreign import settle
from weebill import runtime
from weebill.fusion.spec import BlockSpec, Layer, Window
from weebill.nn import ShuffleUnitV1, unfused


class Foreign(nn.Module):
    """A down-sampling unit and a basic one, as others write them."""

    def __init__(self, pool: nn.Module, groups: int = 3) -> None:
        super().__init__()
        self.groups = groups
        self.pool = pool
        self.stem = nn.Conv2d(3, 24, 3, 2, 1)
        self.down = self._layers(24, 36, 24 + 12, stride=2, groups=1)
        self.basic = self._layers(60, 15, 60, stride=1, groups=3)

    def _layers(self, c: int, mid: int, out: int, *, stride: int, groups: int) -> nn.ModuleList:
        return nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(c, mid, 1, groups=groups), nn.BatchNorm2d(mid), nn.ReLU()),
                nn.Sequential(
                    nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False), nn.BatchNorm2d(mid)
                ),
                nn.Sequential(nn.Conv2d(mid, out, 1, groups=3, bias=False), nn.BatchNorm2d(out)),
            ]
        )

    def _branch(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        expand, depthwise, project = layers
        x = expand(x)
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w).permute(0, 2, 1, 3, 4).contiguous()
        y: Tensor = project(depthwise(x.view(n, -1, h, w)))
        return y

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(torch.cat([self.pool(x), self._branch(self.down, x)], 1))
        y = self._branch(self.basic, x)
        y += x
        return y.relu_()


def check(model: nn.Module, x: Tensor) -> nn.Module:
    fast = weebill.convert(model)
    with torch.inference_mode():
        expected, y = model(x), fast(x)
    assert (y - expected).abs().max() <= 1e-5 * expected.abs().max()
    return fast


def foreign(pool: nn.Module) -> nn.Module:
    return settle(Foreign(pool), torch.randn(4, 3, 32, 32)).eval()


def test_units_of_others_are_one_call(tmp_path: Path) -> None:
    model = foreign(nn.AvgPool2d(3, 2, 1))
    x = torch.randn(2, 3, 31, 26)
    fast = check(model, x)
    assert weebill.report(fast).calls == 1
    text = str(weebill.report(fast))
    assert "shuffle unit v1 24-36-36, 3x3, stride 2, 3 groups, concat, relu" in text
    assert "shuffle unit v1 60-15-60, 3x3, 3 groups, residual, relu" in text
    weebill.save(model, tmp_path / "a", input_shape=(1, 3, 32, 32))
    with torch.inference_mode():
        assert np.array_equal(runtime.load(tmp_path / "a")(x.numpy()), fast(x).numpy())


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, divisor_override=5),
        nn.AvgPool2d(1, 2),
        nn.AvgPool2d(5, 2, 2),
        nn.MaxPool2d(3, 2, 1),
    ],
    ids=str,
)
def test_other_pools_are_not_taken_for_its(pool: nn.Module) -> None:
    model = foreign(pool)
    assert "groups, concat" not in str(weebill.report(check(model, torch.randn(2, 3, 32, 32))))


class Variant(nn.Module):
    """What looks like a basic unit."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.branch = ShuffleUnitV1(48, 48).branch

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        if self.kind == "activation before":
            return x + F.relu(y)
        if self.kind == "difference":
            return F.relu(y - x)
        if self.kind == "alpha":
            return F.relu(torch.add(x, y, alpha=2))
        if self.kind == "alone":
            return F.relu(y)
        return x + y  # linear


@pytest.mark.parametrize("kind", ["activation before", "difference", "alpha", "alone", "linear"])
def test_variants_give_their_own_results(kind: str) -> None:
    model = settle(Variant(kind), torch.randn(4, 48, 9, 9)).eval()
    calls = weebill.report(check(model, torch.randn(2, 48, 8, 5))).calls
    if kind in ("alone", "linear"):
        assert calls == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"residual": True, "concat": True}, "both a residual and concat"),
        ({"expand": Layer("e", 6, 6, window=Window((3, 3)))}, "must be 1 x 1"),
        ({"project": Layer("p", 6, 6, activation="relu")}, "must have no activation, got relu"),
        ({"project": None}, "shuffle_unit_v1 must have depthwise, expand, project"),
        ({"kind": "separable", "concat": True}, "separable must not have concat or activation"),
    ],
)
def test_blocks_that_are_none(changes: dict[str, Any], text: str) -> None:
    block = BlockSpec(
        "shuffle_unit_v1",
        expand=Layer("e", 6, 6, 3),
        depthwise=Layer("d", 6, 6, 6, Window((3, 3), (1, 1), (1, 1, 1, 1))),
        project=Layer("p", 6, 6, 3),
        groups=3,
        activation="relu",
    )
    block.check()
    with pytest.raises(ValueError, match=text):
        replace(block, **changes).check()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_unit_is_exported_and_counted(stride: int) -> None:
    unit = ShuffleUnitV1(48 // stride, 48, stride=stride).eval()
    x = torch.randn(2, 48 // stride, 7, 5)
    with torch.no_grad():
        exported = torch.export.export(unit, (x,)).module()
        assert torch.equal(exported(x), unit(x))
        with unfused(), FlopCounterMode(display=False) as plain:
            unit(x)
        with FlopCounterMode(display=False) as fused:
            unit(x)
    assert fused.get_total_flops() == plain.get_total_flops() > 0
