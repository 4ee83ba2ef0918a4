"""ShuffleNetV1: the paper's sizes and counts, fused and plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import weebill
from weebill import runtime
from weebill.models import FeatureExtractor, ShuffleNetV1, create_model, shufflenet_v1_x1_0, summary


# Multiply-adds: table 2 of the paper, in millions; its figures leave something out, by at most 1 %.
# Parameters: as other implementations of the table have.
@pytest.mark.parametrize(
    ("groups", "millions", "parameters"),
    [
        (1, 143, 1531936),
        (2, 140, 1733848),
        (3, 137, 1865728),
        (4, 133, 1968344),
        (8, 137, 2434768),
    ],
)
def test_counts_are_the_papers(groups: int, millions: float, parameters: int) -> None:
    with torch.device("meta"):
        model = shufflenet_v1_x1_0(groups=groups)
    total = summary(model, (1, 3, 224, 224)).total
    assert total.multiply_adds / 1e6 == pytest.approx(millions, rel=0.0101)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("groups", [1, 3, 8])
def test_runs_fused(groups: int, randomise: Any) -> None:
    torch.manual_seed(1)
    model = randomise(shufflenet_v1_x1_0(num_classes=7, groups=groups, in_channels=2))
    fused = weebill.convert(model)
    found = weebill.report(fused)
    assert found.calls == 1
    assert all(entry.fused for entry in found.entries)
    for size in ((64, 64), (33, 50), (1, 1)):
        x = torch.rand(2, 2, *size)
        with torch.inference_mode():
            expected = model(x)
            assert expected.std() > 1e-9
            assert (fused(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    with torch.inference_mode():
        assert fused(torch.rand(0, 2, 32, 32)).shape == (0, 7)


def test_is_saved_and_loaded(tmp_path: Path, randomise: Any) -> None:
    torch.manual_seed(2)
    model = randomise(create_model("shufflenet_v1_x1_0", num_classes=5))
    fused = weebill.convert(model)
    x = torch.rand(1, 3, 64, 64)
    path = tmp_path / "shufflenet_v1.weebill"
    weebill.save(model, path)
    with torch.inference_mode():
        assert (runtime.load(path)(x.numpy()) == fused(x).numpy()).all()


def test_the_first_product_is_not_grouped() -> None:
    with torch.device("meta"):
        model = shufflenet_v1_x1_0(groups=8)
    units = [layer for layer in model.features if isinstance(layer, weebill.nn.ShuffleUnitV1)]
    assert len(units) == 16
    first = [unit.branch[0].groups for unit in units]
    assert first == [1] + [8] * 15


def test_features() -> None:
    with torch.device("meta"):
        backbone = create_model("shufflenet_v1_x1_0", features_only=True)
        assert isinstance(backbone, FeatureExtractor)
        maps = backbone(torch.zeros(1, 3, 64, 96))
    for info, found in zip(backbone.feature_info, maps, strict=True):
        assert found.shape == (1, info.channels, 64 // info.reduction, 96 // info.reduction)
    assert [i.reduction for i in backbone.feature_info] == [2, 4, 8, 16, 32]
    assert [i.channels for i in backbone.feature_info] == [24, 24, 240, 480, 960]


def test_small_images_and_classes() -> None:
    model = ShuffleNetV1(num_classes=4, in_channels=1, stem_stride=1).eval()
    x = torch.rand(1, 1, 28, 28)
    assert model.forward_features(x).shape == (1, 960, 2, 2)
    model.reset_classifier(3)
    assert model(x).shape == (1, 3)


def test_trains() -> None:
    model = shufflenet_v1_x1_0(num_classes=3, groups=2).train()
    loss = torch.nn.functional.cross_entropy(
        model(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0])
    )
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"groups": 5}, ValueError, r"groups must be one of \[1, 2, 3, 4, 8\], got 5"),
        ({"groups": 0}, ValueError, "groups must be positive, got 0"),
        ({"num_classes": 0}, ValueError, "num_classes must be positive, got 0"),
        ({"stem_stride": 1.5}, TypeError, "stem_stride must be an int, got 1.5"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        shufflenet_v1_x1_0(**arguments)
