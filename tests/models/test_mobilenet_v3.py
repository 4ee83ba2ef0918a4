"""MobileNetV3 against torchvision: keys, shapes, initial weights, outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from weebill.models import (
    MobileNet_V3_Large_Weights,
    MobileNet_V3_Small_Weights,
    create_model,
    mobilenet_v3_large,
    mobilenet_v3_small,
)
from weebill.nn import InvertedResidual

KEYS = Path(__file__).parent / "keys"
VARIANTS = json.loads((KEYS / "variants.json").read_text())


def shapes(model: torch.nn.Module) -> list[tuple[str, list[int]]]:
    return [(key, list(value.shape)) for key, value in model.state_dict().items()]


def on_meta(name: str, **arguments: Any) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(name, **arguments)


@pytest.mark.parametrize("variant", VARIANTS)
def test_keys_and_shapes_are_torchvisions(variant: str) -> None:
    name, arguments = VARIANTS[variant]
    stored = json.loads((KEYS / f"{variant}.json").read_text())
    assert shapes(on_meta(name, **arguments)) == list(stored.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_stored_keys_are_up_to_date(variant: str, torchvision: Any) -> None:
    name, arguments = VARIANTS[variant]
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(**arguments)
    stored = json.loads((KEYS / f"{variant}.json").read_text())
    assert shapes(theirs) == list(stored.items())


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small"])
@pytest.mark.parametrize("width_mult", [0.35, 0.4, 0.6, 0.9, 1.1, 1.4])
def test_widths_are_rounded_as_torchvision_does(
    name: str, width_mult: float, torchvision: Any
) -> None:
    for reduced_tail in (False, True):
        arguments = {"width_mult": width_mult, "reduced_tail": reduced_tail}
        with torch.device("meta"):
            theirs = getattr(torchvision.models, name)(**arguments)
        assert shapes(on_meta(name, **arguments)) == shapes(theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_torchvisions(variant: str, torchvision: Any, randomise: Any) -> None:
    name, arguments = VARIANTS[variant]
    torch.manual_seed(1)
    ours = randomise(create_model(name, num_classes=11, **arguments))
    theirs = getattr(torchvision.models, name)(num_classes=11, **arguments).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 97, 64)
    with torch.inference_mode():
        expected = theirs(x)
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)


def test_training_equals_torchvisions(torchvision: Any, randomise: Any) -> None:
    torch.manual_seed(1)
    ours = randomise(mobilenet_v3_small(num_classes=5)).train()
    theirs = torchvision.models.mobilenet_v3_small(num_classes=5).train()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(4, 3, 64, 64)
    outputs = []
    for model in (ours, theirs):
        torch.manual_seed(2)  # of the dropout
        outputs.append(model(x))
        outputs[-1].square().mean().backward()
    torch.testing.assert_close(outputs[0], outputs[1])
    gradients = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key].grad, msg=key)
    for key, value in theirs.state_dict().items():  # BatchNorm's statistics too
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small"])
def test_initial_weights_are_torchvisions(name: str, torchvision: Any) -> None:
    torch.manual_seed(7)
    ours = create_model(name, num_classes=5).state_dict()
    torch.manual_seed(7)
    theirs = getattr(torchvision.models, name)(num_classes=5).state_dict()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


@pytest.mark.parametrize(
    ("name", "enum"),
    [
        ("mobilenet_v3_large", MobileNet_V3_Large_Weights),
        ("mobilenet_v3_small", MobileNet_V3_Small_Weights),
    ],
)
def test_metadata_agree_with_the_model_and_torchvision(
    name: str, enum: Any, torchvision: Any
) -> None:
    theirs = torchvision.models.get_model_weights(name)
    # Those without a URL are in the package.
    downloads = [name for name, member in enum.__members__.items() if member.url]
    assert downloads == list(theirs.__members__)
    model = on_meta(name).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    for member in theirs:
        weights = enum[member.name].weights
        assert weights.url == member.url
        assert f"-{weights.sha256}.pth" in member.url
        assert list(weights.meta["categories"]) == member.meta["categories"]
        assert weights.meta["recipe"] == member.meta["recipe"]
        assert weights.meta["num_params"] == sum(p.numel() for p in model.parameters())
        for key, value in member.meta["_metrics"]["ImageNet-1K"].items():
            assert weights.meta[key] == value
        assert counter.get_total_flops() / 2 == pytest.approx(
            weights.meta["multiply_adds"], rel=0.02
        )
        preset = member.transforms()
        assert weights.transforms().crop_size == preset.crop_size[0]
        assert weights.transforms().resize_size == preset.resize_size[0]
        assert list(weights.transforms().mean) == preset.mean
        assert list(weights.transforms().std) == preset.std
    assert enum.DEFAULT.name == theirs.DEFAULT.name


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small"])
def test_any_size_channels_and_classes(name: str) -> None:
    model = create_model(name, in_channels=1, num_classes=10, width_mult=0.35).eval()
    for size in ((1, 1), (7, 5), (33, 65)):
        with torch.inference_mode():
            y = model(torch.rand(2, 1, *size))
        assert y.shape == (2, 10)
        assert y.isfinite().all()
    with torch.inference_mode():
        assert model(torch.rand(0, 1, 32, 32)).shape == (0, 10)


def test_trains() -> None:
    torch.manual_seed(0)
    model = mobilenet_v3_small(num_classes=3, width_mult=0.35).train()
    loss = torch.nn.functional.cross_entropy(
        model(torch.rand(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0])
    )
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_stride_that_became_dilation_gets_no_residual() -> None:
    model = mobilenet_v3_small(reduced_tail=True, dilated=True, num_classes=2)
    block = model.features[9]
    assert isinstance(block, InvertedResidual)
    assert not block.residual  # 48 -> 48 at stride 1, but the table says stride 2
    with torch.inference_mode():
        assert model.eval().forward_features(torch.rand(1, 3, 64, 64)).shape[-2:] == (4, 4)


def test_is_traceable(randomise: Any) -> None:
    model = randomise(mobilenet_v3_small(num_classes=4, width_mult=0.35))
    traced = torch.fx.symbolic_trace(model)
    x = torch.rand(1, 3, 40, 40)
    with torch.inference_mode():
        torch.testing.assert_close(traced(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"width_mult": 0}, ValueError, "width_mult must be positive, got 0"),
        ({"width_mult": float("nan")}, ValueError, "width_mult must be positive, got nan"),
        ({"num_classes": 0}, ValueError, "num_classes must be positive, got 0"),
        ({"in_channels": -1}, ValueError, "in_channels must be positive, got -1"),
        ({"in_channels": 1.5}, TypeError, "in_channels must be an int, got 1.5"),
        ({"dropout": 2.0}, ValueError, "dropout"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mobilenet_v3_large(**arguments)
