"""MobileNetV1: the paper's sizes and counts, fused and plain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import weebill
from weebill.models import FeatureExtractor, create_model, mobilenet_v1
from weebill.nn import unfused


# Tables 4 and 6 of the paper: multiply-adds and parameters, in millions.
@pytest.mark.parametrize(
    ("width_mult", "multiply_adds", "parameters"),
    [(1.0, 569, 4.2), (0.75, 325, 2.6), (0.5, 149, 1.3), (0.25, 41, 0.5)],
)
def test_counts_are_the_papers(width_mult: float, multiply_adds: float, parameters: float) -> None:
    with torch.device("meta"):
        model = mobilenet_v1(width_mult=width_mult).eval()
    with FlopCounterMode(display=False) as counter, unfused():
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(multiply_adds, abs=0.6)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, abs=0.05)


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (1, 1)])
def test_runs_fused(size: tuple[int, int], randomise: Any) -> None:
    torch.manual_seed(1)
    model = randomise(mobilenet_v1(num_classes=7, width_mult=0.25, in_channels=2))
    fused = weebill.convert(model)
    assert fused.fusion.records()
    x = torch.rand(2, 2, *size)
    with torch.inference_mode():
        with unfused():
            expected = model(x)
        assert expected.std() > 1e-9
        assert (fused(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert model(torch.rand(0, 2, 32, 32)).shape == (0, 7)


def test_features() -> None:
    with torch.device("meta"):
        backbone = create_model("mobilenet_v1", features_only=True)
        assert isinstance(backbone, FeatureExtractor)
        maps = backbone(torch.zeros(1, 3, 64, 96))
    for info, found in zip(backbone.feature_info, maps, strict=True):
        assert found.shape == (1, info.channels, 64 // info.reduction, 96 // info.reduction)
    assert [i.reduction for i in backbone.feature_info] == [2, 4, 8, 16, 32]


def test_trains() -> None:
    model = mobilenet_v1(num_classes=3, width_mult=0.25).train()
    loss = torch.nn.functional.cross_entropy(
        model(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0])
    )
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"width_mult": 0}, ValueError, "width_mult must be positive, got 0"),
        ({"num_classes": 0}, ValueError, "num_classes must be positive, got 0"),
        ({"in_channels": 1.5}, TypeError, "in_channels must be an int, got 1.5"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mobilenet_v1(**arguments)
