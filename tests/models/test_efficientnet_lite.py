"""EfficientNet-Lite0: its trained weights recognise photos; names, padding, metadata."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from weebill.data import imagenet_categories, read_image
from weebill.models import EfficientNet_Lite0_Weights, EfficientNetLite, efficientnet_lite0
from weebill.nn import Conv2dSame

PHOTOS = Path(skimage.__file__).parent / "data"
WEIGHTS = EfficientNet_Lite0_Weights.IMAGENET1K_V1


@functools.cache
def trained() -> EfficientNetLite:
    return efficientnet_lite0(weights=WEIGHTS).eval()


def classify(photo: str) -> dict[str, float]:
    x = WEIGHTS.transforms()(read_image(PHOTOS / photo)).unsqueeze(0)
    with torch.inference_mode():
        probabilities = trained()(x).softmax(1)[0]
    top = probabilities.topk(3)
    names = imagenet_categories()
    return {names[i]: float(p) for p, i in zip(top.values, top.indices.tolist(), strict=True)}


@pytest.mark.parametrize(
    ("photo", "name", "probability"),
    [
        ("coffee.png", "espresso", 0.9),
        ("camera.png", "tripod", 0.9),
        ("motorcycle_left.png", "moped", 0.5),
        ("rocket.jpg", "missile", 0.3),
    ],
)
def test_recognises_photos(photo: str, name: str, probability: float) -> None:
    found = classify(photo)
    assert next(iter(found)) == name
    assert found[name] > probability


def test_recognises_a_cat() -> None:
    # A tabby: the network hesitates between three kinds of cat, Egyptian first by a hair.
    found = classify("chelsea.png")
    assert set(found) == {"Egyptian cat", "tiger cat", "tabby"}
    assert found["Egyptian cat"] > 0.35
    assert sum(found.values()) > 0.9


def test_preset_matches_what_the_weights_were_trained_with() -> None:
    """BatchNorm's running statistics of the stem tell the normalisation; it is not documented."""
    stem = trained().features[0]
    assert isinstance(stem, nn.Sequential)
    norm = stem[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    photos = ["coffee.png", "chelsea.png", "motorcycle_left.png", "rocket.jpg", "astronaut.png"]
    divergence = {}
    for name, preset in {
        "ours": WEIGHTS.transforms(),
        "imagenet": WEIGHTS.transforms(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    }.items():
        x = torch.stack([preset(read_image(PHOTOS / photo)) for photo in photos])
        with torch.inference_mode():
            y = stem[0](x)
        mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3))
        ratio = (var + 1e-9) / (norm.running_var + 1e-9)
        shift = (mean - norm.running_mean) ** 2 / (norm.running_var + 1e-6)
        divergence[name] = float((0.5 * (ratio + shift - 1 - ratio.log())).median())
    assert divergence["ours"] < 0.15
    assert divergence["imagenet"] > 4 * divergence["ours"]


def test_metadata_agree_with_the_model() -> None:
    meta = WEIGHTS.meta
    with torch.device("meta"):
        model = efficientnet_lite0().eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(meta["multiply_adds"], rel=0.02)
    assert meta["num_params"] == sum(p.numel() for p in trained().parameters())
    assert len(meta["categories"]) == trained().num_classes


def test_keys_of_the_file_are_mapped_one_to_one() -> None:
    raw = WEIGHTS.get_state_dict()
    converted = EfficientNetLite.convert_state_dict(raw)
    assert len(converted) == len(raw)
    assert {k: v.shape for k, v in converted.items()} == {
        k: v.shape for k, v in trained().state_dict().items()
    }
    assert torch.equal(
        converted["features.1.block.0.0.weight"], raw["_blocks.0._depthwise_conv.weight"]
    )
    assert torch.equal(converted["features.5.block.2.1.bias"], raw["_blocks.4._bn2.bias"])


def test_our_keys_stay() -> None:
    own = trained().state_dict()
    assert list(EfficientNetLite.convert_state_dict(own)) == list(own)


@pytest.mark.usefixtures("torchvision")  # timm imports it
def test_agrees_with_timm(randomise: Any) -> None:
    """The same layers in another implementation, fed with the same weights in order."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=9).eval()
    ours = randomise(efficientnet_lite0(num_classes=9))
    values = [v for k, v in ours.state_dict().items()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    for size in ((64, 64), (97, 75)):
        x = torch.rand(2, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (31, 64), (50, 47)])
def test_padding_is_tensorflows(size: tuple[int, int]) -> None:
    stem = efficientnet_lite0(num_classes=2).features[0]
    assert isinstance(stem, nn.Sequential)
    weight = stem[0].weight
    assert isinstance(weight, torch.Tensor)
    x = torch.rand(1, 3, *size)
    total = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in size]
    padded = F.pad(
        x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
    )
    with torch.inference_mode():
        y = stem[0](x)
        assert y.shape[-2:] == (-(-size[0] // 2), -(-size[1] // 2))
        torch.testing.assert_close(y, F.conv2d(padded, weight, stride=2))


def test_other_channels_and_classes() -> None:
    model = efficientnet_lite0(in_channels=1, num_classes=10).eval()
    with torch.inference_mode():
        assert model(torch.rand(3, 1, 45, 33)).shape == (3, 10)


class Tracer(torch.fx.Tracer):
    """Keeps SAME convolutions whole: their padding is computed from the size of the input."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Conv2dSame) or super().is_leaf_module(m, module_qualified_name)


def test_is_traceable(randomise: Any) -> None:
    model = randomise(efficientnet_lite0(num_classes=4))
    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    for size in (32, 45):
        x = torch.rand(1, 3, size, size)
        with torch.inference_mode():
            torch.testing.assert_close(traced(x), model(x), rtol=1e-5, atol=1e-5)
