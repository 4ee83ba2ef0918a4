"""MobileNetV2 against torchvision: keys, shapes, initial weights, outputs, metadata."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import weebill
from weebill.models import FeatureExtractor, MobileNet_V2_Weights, create_model, mobilenet_v2
from weebill.nn import unfused


def shapes(model: torch.nn.Module) -> list[tuple[str, list[int]]]:
    return [(key, list(value.shape)) for key, value in model.state_dict().items()]


@pytest.mark.parametrize("width_mult", [1.0, 1.4, 0.75, 0.35])
def test_keys_and_shapes_are_torchvisions(width_mult: float, torchvision: Any) -> None:
    with torch.device("meta"):
        ours = mobilenet_v2(width_mult=width_mult)
        theirs = torchvision.models.mobilenet_v2(width_mult=width_mult)
    assert shapes(ours) == shapes(theirs)


@pytest.mark.parametrize("size", [(97, 64), (33, 50), (1, 1)])
def test_outputs_equal_torchvisions(
    size: tuple[int, int], torchvision: Any, randomise: Any
) -> None:
    torch.manual_seed(1)
    ours = randomise(mobilenet_v2(num_classes=11, width_mult=0.5))
    theirs = torchvision.models.mobilenet_v2(num_classes=11, width_mult=0.5).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, *size)
    fused = weebill.convert(ours)
    assert fused.fusion.records()
    with torch.inference_mode():
        expected = theirs(x)
        assert expected.std() > 1e-7
        with unfused():
            torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-9)
        assert (fused(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_initial_weights_are_torchvisions(torchvision: Any) -> None:
    torch.manual_seed(7)
    ours = mobilenet_v2(num_classes=5).state_dict()
    torch.manual_seed(7)
    theirs = torchvision.models.mobilenet_v2(num_classes=5).state_dict()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_metadata_agree_with_the_model_and_torchvision(torchvision: Any) -> None:
    theirs = torchvision.models.get_model_weights("mobilenet_v2")
    assert list(MobileNet_V2_Weights.__members__) == list(theirs.__members__)
    with torch.device("meta"):
        model = mobilenet_v2().eval()
    with FlopCounterMode(display=False) as counter, unfused():
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    for member in theirs:
        weights = MobileNet_V2_Weights[member.name].weights
        assert weights.url == member.url
        assert f"-{weights.sha256}.pth" in member.url
        assert list(weights.meta["categories"]) == member.meta["categories"]
        assert weights.meta["recipe"] == member.meta["recipe"]
        assert weights.meta["num_params"] == sum(p.numel() for p in model.parameters())
        for key, value in member.meta["_metrics"]["ImageNet-1K"].items():
            assert weights.meta[key] == value
        assert counter.get_total_flops() / 2 == pytest.approx(
            weights.meta["multiply_adds"], rel=0.002
        )
        assert weights.transforms().crop_size == member.transforms().crop_size[0]
        assert weights.transforms().resize_size == member.transforms().resize_size[0]
    assert MobileNet_V2_Weights.DEFAULT.name == theirs.DEFAULT.name


def test_features() -> None:
    with torch.device("meta"):
        backbone = create_model("mobilenet_v2", features_only=True)
        assert isinstance(backbone, FeatureExtractor)
        maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [(i.channels, i.reduction) for i in backbone.feature_info] == [
        (16, 2),
        (24, 4),
        (32, 8),
        (96, 16),
        (1280, 32),
    ]
    for info, found in zip(backbone.feature_info, maps, strict=True):
        assert found.shape == (1, info.channels, 64 // info.reduction, 96 // info.reduction)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"width_mult": -1.0}, ValueError, "width_mult must be positive, got -1"),
        ({"num_classes": 0}, ValueError, "num_classes must be positive, got 0"),
        ({"in_channels": True}, TypeError, "in_channels must be an int, got True"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mobilenet_v2(**arguments)
