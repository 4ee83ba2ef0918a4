"""The summary against published totals, hand-counted layers and torch's counter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import weebill
from weebill.models import (
    SSD,
    SeparableComparison,
    create_model,
    list_models,
    mobilenet_v3_small,
    summary,
)
from weebill.nn import FusedModule, InvertedResidual, unfused


# Millions of multiply-adds at 224 x 224: the papers' tables.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("mobilenet_v3_large", 217),
        ("mobilenet_v3_small", 57),
        ("mobilenet_v2", 301),
        ("mobilenet_v1", 569),
    ],
)
def test_totals_are_the_published_ones(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = create_model(name)
    costs = summary(model, (1, 3, 224, 224))
    assert costs.total.multiply_adds / 1e6 == pytest.approx(millions, abs=0.6)
    assert costs.total.parameters == sum(p.numel() for p in model.parameters())
    for part in ("parameters", "multiply_adds", "activation_bytes"):
        total = getattr(costs.total, part)
        assert sum(getattr(row, part) for row in costs.blocks) == total
        assert sum(getattr(row, part) for row in costs.layers) == total


def test_a_block_counted_by_hand() -> None:
    block = InvertedResidual(8, 24, 12, 5, 2, squeeze_channels=6)
    costs = summary(nn.Sequential(block, nn.Flatten(), nn.Dropout()), (2, 8, 9, 7))
    before, after = 2 * 9 * 7, 2 * 5 * 4
    expected = before * 8 * 24 + after * 24 * 25 + 2 * (24 * 6 + 6 * 24) + after * 24 * 12
    row, flatten, dropout = costs.blocks
    assert (row.name, row.kind, row.output) == ("0", "InvertedResidual", (2, 12, 5, 4))
    assert row.multiply_adds == expected
    # expansion and depthwise (convolution, norm, activation), squeeze-excite, projection
    small = 2 * (24 + 6 + 6 + 24 + 24)
    assert row.activation_bytes == 4 * (3 * before * 24 + 3 * after * 24 + small + 2 * after * 12)
    assert flatten.activation_bytes == dropout.activation_bytes == 0
    assert costs.separable == (SeparableComparison(5, 4, 24, 12, 25),)


def test_comparison_is_the_articles() -> None:
    pair = SeparableComparison(14, 14, 512, 256)
    assert pair.standard == 14 * 14 * 512 * 9 * 256
    assert pair.separable == 14 * 14 * 512 * 9 + 14 * 14 * 512 * 256
    assert 1 / pair.ratio == pytest.approx(1 / 256 + 1 / 9)


def test_table() -> None:
    costs = summary(mobilenet_v3_small(width_mult=0.35), (1, 3, 32, 32))
    lines = str(costs).splitlines()
    columns = "kind output parameters multiply-adds activation bytes"
    assert lines[0].split() == columns.split()
    both = sum(row in costs.layers for row in costs.blocks)
    rows = len(costs.blocks) + len(costs.layers) - both
    assert len(lines) == 1 + rows + 2
    assert lines[-2].startswith("total ")
    assert f"{costs.total.multiply_adds:,}" in lines[-2]
    assert lines[-1].startswith("11 separable convolutions: ")
    assert len(costs.table(layers=False).splitlines()) == 1 + len(costs.blocks) + 2


def test_the_model_is_left_as_it_was() -> None:
    model = mobilenet_v3_small(width_mult=0.35).train()
    model.features[0].eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    plain = summary(model, torch.rand(1, 3, 32, 32))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    fused = weebill.convert(model)
    assert [row.multiply_adds for row in summary(fused, (1, 3, 32, 32)).layers] == [
        row.multiply_adds for row in plain.layers
    ]
    with torch.inference_mode():
        fused(torch.rand(1, 3, 32, 32))
    assert fused.fusion.records()


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v2"])
def test_fused_networks_count_the_same(name: str) -> None:
    model = weebill.convert(create_model(name, num_classes=10))
    assert isinstance(model, FusedModule)
    x = torch.rand(2, 3, 65, 40)
    counts = []
    for plain in (False, True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            if plain:
                with unfused():
                    model(x)
            else:
                model(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * summary(model, x).total.multiply_adds


GUIDE = Path(__file__).parents[2] / "docs/choosing.md"
#: Name, width, image size, millions of parameters and of multiply-adds, and the rest of the row.
ROW = r"^\| `(\w+)`(?:, `width_mult=([\d.]+)`)? \| (\d+) \| ([\d.]+) M \| (\d+) M \|(.*)$"


def test_the_guides_tables_are_what_is_counted() -> None:
    rows = re.findall(ROW, GUIDE.read_text(), re.MULTILINE)
    assert len(rows) >= 12
    assert {row[0] for row in rows} <= set(list_models())
    for name, width, size, parameters, multiply_adds, rest in rows:
        arguments: dict[str, Any] = {"width_mult": float(width)} if width else {}
        with torch.device("meta"):
            model = create_model(name, **arguments)
            image = torch.zeros(1, 3, int(size), int(size))
        if isinstance(model, SSD):  # counted without the anchors, which meta tensors have none of
            model = nn.Sequential(model.backbone, model.head)
        total = summary(model, image).total
        assert f"{total.parameters / 1e6:.1f}" == parameters, name
        assert total.multiply_adds / 1e6 == pytest.approx(float(multiply_adds), abs=1), name
        if "MB" in rest:
            assert rest.split()[0] == f"{total.activation_bytes / 1e6:.0f}", name


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got str"):
        summary("mobilenet", (1, 3, 32, 32))  # type: ignore[arg-type]
    for wrong in ("224", 224, (), (1, 3.0)):
        with pytest.raises(TypeError, match="input must be a tensor, a shape or"):
            summary(nn.Linear(1, 1), wrong)
