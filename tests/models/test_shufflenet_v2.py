"""ShuffleNetV2 against torchvision: keys, shapes, initial weights, outputs; and fused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import weebill
from weebill.models import create_model, list_models, shufflenet_v2_x0_5

KEYS = Path(__file__).parent / "keys"
NAMES = ["shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"]


def shapes(model: torch.nn.Module) -> list[tuple[str, list[int]]]:
    return [(key, list(value.shape)) for key, value in model.state_dict().items()]


def on_meta(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(name)


@pytest.mark.parametrize("name", NAMES)
def test_keys_and_shapes_are_torchvisions(name: str) -> None:
    stored = json.loads((KEYS / f"{name}.json").read_text())
    assert shapes(on_meta(name)) == list(stored.items())


@pytest.mark.parametrize("name", NAMES)
def test_stored_keys_are_up_to_date(name: str, torchvision: Any) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
    stored = json.loads((KEYS / f"{name}.json").read_text())
    assert shapes(theirs) == list(stored.items())


@pytest.mark.parametrize("name", NAMES)
def test_fused_outputs_equal_torchvisions(name: str, torchvision: Any, randomise: Any) -> None:
    torch.manual_seed(1)
    ours = randomise(create_model(name, num_classes=11))
    theirs = getattr(torchvision.models, name)(num_classes=11).eval()
    theirs.load_state_dict(ours.state_dict())
    converted = (weebill.convert(ours), weebill.convert(theirs))
    for size in ((97, 64), (33, 47)):
        x = torch.rand(2, 3, *size)
        with torch.inference_mode():
            expected = theirs(x)
            assert expected.std() > 1e-3
            scale = expected.abs().max()
            for model in (ours, *converted):
                assert (model(x) - expected).abs().max() <= 1e-5 * scale
    for model in converted:
        found = weebill.report(model)
        assert found.calls == 1
        assert all(entry.fused for entry in found.entries)


@pytest.mark.parametrize("name", NAMES[:2])
def test_initial_weights_are_torchvisions(name: str, torchvision: Any) -> None:
    torch.manual_seed(7)
    ours = create_model(name, num_classes=5).state_dict()
    torch.manual_seed(7)
    theirs = getattr(torchvision.models, name)(num_classes=5).state_dict()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


@pytest.mark.parametrize("name", NAMES)
def test_metadata_agree_with_torchvision(name: str, torchvision: Any) -> None:
    theirs = torchvision.models.get_model_weights(name)
    enum = weebill.models.model_entry(name).weights
    assert enum is not None
    # Those without a URL are in the package.
    downloads = [key for key, member in enum.__members__.items() if member.url]
    assert downloads == list(theirs.__members__)
    model = on_meta(name)
    for member in theirs:
        weights = enum[member.name].weights
        assert weights.url == member.url
        assert f"-{weights.sha256}.pth" in member.url
        assert list(weights.meta["categories"]) == member.meta["categories"]
        assert weights.meta["recipe"] == member.meta["recipe"]
        assert weights.meta["num_params"] == sum(p.numel() for p in model.parameters())
        for key, value in member.meta["_metrics"]["ImageNet-1K"].items():
            assert weights.meta[key] == value
        assert weights.meta["multiply_adds"] == pytest.approx(member.meta["_ops"] * 1e9, rel=0.01)
        preset = member.transforms()
        assert weights.transforms().crop_size == preset.crop_size[0]
        assert weights.transforms().resize_size == preset.resize_size[0]


def test_is_listed() -> None:
    assert list_models("shufflenet_v2*") == NAMES


def test_any_size_channels_and_classes() -> None:
    model = shufflenet_v2_x0_5(in_channels=1, num_classes=10).eval()
    fused = weebill.convert(model)
    for size in ((1, 1), (7, 5), (33, 65)):
        x = torch.rand(2, 1, *size)
        with torch.inference_mode():
            torch.testing.assert_close(fused(x), model(x), rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        assert fused(torch.rand(0, 1, 32, 32)).shape == (0, 10)


def test_classifier_and_features() -> None:
    model = shufflenet_v2_x0_5(num_classes=4).eval()
    x = torch.rand(1, 3, 64, 64)
    assert model.num_classes == 4
    model.reset_classifier(7)
    assert model.get_classifier() is model.fc
    assert model(x).shape == (1, 7)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert torch.equal(model(x), model.forward_head(model.forward_features(x), pre_logits=True))
    with pytest.raises(ValueError, match="num_classes must not be negative, got -1"):
        model.reset_classifier(-1)
    maps = create_model("shufflenet_v2_x0_5", features_only=True).eval()
    for y, info in zip(maps(x), model.feature_info, strict=True):
        assert y.shape == (1, info.channels, 64 // info.reduction, 64 // info.reduction)


def test_trains(randomise: Any) -> None:
    model = shufflenet_v2_x0_5(num_classes=3).train()
    loss = torch.nn.functional.cross_entropy(
        model(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0])
    )
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_classes": 0}, "num_classes must be positive, got 0"),
        ({"in_channels": -1}, "in_channels must be positive, got -1"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        shufflenet_v2_x0_5(**arguments)
