"""Segmentation networks against torchvision: keys, logits, masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import weebill
from weebill.models import (
    create_model,
    deeplabv3_mobilenet_v3_large,
    get_model_weights,
    lraspp_mobilenet_v3_large,
)
from weebill.nn import unfused

NAMES = ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"]


def build_theirs(torchvision: Any, name: str, **arguments: Any) -> Any:
    builder = getattr(torchvision.models.segmentation, name)
    return builder(weights=None, weights_backbone=None, **arguments)


def scene(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(2, 3, 5, 7, generator=generator) * 4 - 2
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def balanced(model: nn.Module, spread: Any) -> nn.Module:
    """With biases that give every class a part of the image."""
    spread(model)
    last = [m for m in model.classifier.modules() if isinstance(m, nn.Conv2d)][-1]
    with torch.inference_mode():
        mean = model(scene(64, 64))["out"].mean(dim=(0, 2, 3))
    last.bias.data -= mean.clone()
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_classes", [21, 4])
def test_keys_and_shapes_are_torchvisions(name: str, num_classes: int, torchvision: Any) -> None:
    arguments: dict[str, Any] = {"num_classes": num_classes}
    if name.startswith("deeplab"):
        arguments["aux_loss"] = num_classes == 4
    with torch.device("meta"):
        ours = create_model(name, **arguments)
        theirs = build_theirs(torchvision, name, **arguments)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]


@pytest.mark.parametrize(
    ("name", "size"),
    [(NAMES[0], (65, 83)), (NAMES[0], (96, 64)), (NAMES[0], (1, 1)), (NAMES[1], (65, 83))],
)
def test_masks_equal_torchvisions(
    name: str, size: tuple[int, int], torchvision: Any, spread: Any
) -> None:
    torch.manual_seed(1)
    arguments: dict[str, Any] = {"aux_loss": True} if name.startswith("deeplab") else {}
    ours = balanced(create_model(name, num_classes=5, **arguments), spread)
    theirs = build_theirs(torchvision, name, num_classes=5, **arguments).eval()
    theirs.load_state_dict(ours.state_dict())
    x = scene(*size)
    with torch.inference_mode():
        expected = theirs(x)
        with unfused():
            plain = ours(x)
        results = {
            "plain": plain,
            "fused": weebill.convert(ours)(x),
            "theirs, fused": weebill.convert(theirs)(x),
        }
    if size != (1, 1):
        assert expected["out"].std() > 0.01
        assert len(expected["out"].argmax(dim=1).unique()) >= 3
    for which, found in results.items():
        assert list(found) == list(expected)
        for key, exact in expected.items():
            assert found[key].shape == exact.shape == (2, 5, *size)
            error = (found[key] - exact).abs().max() / exact.abs().max()
            assert error <= 1e-5, (which, key)
        # Where the two best classes are further apart than the error, the mask is the same.
        first, second = expected["out"].topk(2, dim=1).values.unbind(dim=1)
        clear = first - second > 2e-5 * expected["out"].abs().max()
        assert clear.float().mean() > 0.99
        same = found["out"].argmax(dim=1) == expected["out"].argmax(dim=1)
        assert same[clear].all()


def test_blocks_run_fused_on_every_isa(isa: str, spread: Any) -> None:
    model = spread(lraspp_mobilenet_v3_large(num_classes=3))
    fused = weebill.convert(model)
    x = scene(33, 47)
    with torch.inference_mode():
        with unfused():
            expected = model(x)["out"]
        assert (fused(x)["out"] - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert all(layer.fusion.records() for layer in fused.backbone)


@pytest.mark.parametrize("name", NAMES)
def test_weights_entry_and_counts(name: str, torchvision: Any) -> None:
    member = torchvision.models.get_model_weights(name).DEFAULT
    (weights,) = (entry.weights for entry in get_model_weights(name))
    assert weights.url == member.url
    assert f"-{weights.sha256}.pth" in member.url
    assert list(weights.meta["categories"]) == member.meta["categories"]
    assert weights.meta["recipe"] == member.meta["recipe"]
    for key, value in member.meta["_metrics"]["COCO-val2017-VOC-labels"].items():
        assert weights.meta[key] == value
    assert weights.transforms().resize_size == member.transforms().resize_size[0]
    arguments: dict[str, Any] = {"aux_loss": True} if name.startswith("deeplab") else {}
    with torch.device("meta"):
        model = create_model(name, **arguments).eval()
    assert sum(p.numel() for p in model.parameters()) == weights.meta["num_params"]
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 520, 520, device="meta"))
    multiply_adds = counter.get_total_flops() / 2
    assert multiply_adds == pytest.approx(weights.meta["multiply_adds"], rel=0.01)


def test_files_with_and_without_the_auxiliary_part(tmp_path: Any) -> None:
    path = tmp_path / "net.pth"
    with torch.device("meta"):
        shapes = deeplabv3_mobilenet_v3_large(num_classes=3, aux_loss=True).state_dict()
    state = {key: torch.full(value.shape, 0.5) for key, value in shapes.items()}
    torch.save(state, path)
    without = deeplabv3_mobilenet_v3_large(weights=path, aux_loss=False)
    assert without.aux_classifier is None
    assert without.classifier[4].bias.tolist() == [0.5] * 3
    state.pop("aux_classifier.0.weight")
    torch.save(state, path)
    with pytest.raises(ValueError, match="aux_classifier.0.weight is missing"):
        deeplabv3_mobilenet_v3_large(weights=path)


def test_trains() -> None:
    model = lraspp_mobilenet_v3_large(num_classes=3).train()
    loss = nn.functional.cross_entropy(model(scene(33, 47))["out"], torch.randint(3, (2, 33, 47)))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="num_classes must be positive, got 0"):
        lraspp_mobilenet_v3_large(num_classes=0)
    with pytest.raises(TypeError, match="num_classes must be an int, got 2.5"):
        deeplabv3_mobilenet_v3_large(num_classes=2.5)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="features_only must be False"):
        create_model("lraspp_mobilenet_v3_large", features_only=True)
