"""weebill.save: the file's network gives the model's results, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weebill
from tests.convert.foreign import foreign_model, settle
from weebill import runtime
from weebill.data import ImageClassification
from weebill.models import (
    efficientnet_lite0,
    mobilenet_v3_large,
    mobilenet_v3_small,
    shufflenet_v2_x0_5,
)
from weebill.runtime._container import Container, write


def saved(model: nn.Module, path: Path, **options: Any) -> runtime.Model:
    weebill.save(model, path, **options)
    return runtime.load(path)


def settled(model: nn.Module) -> nn.Module:
    return settle(model, torch.randn(4, 3, 64, 64))


def results(model: Callable[[Any], Any], x: Any) -> list[Any]:
    with torch.no_grad():
        y = model(x)
    if isinstance(y, dict):
        return list(y.values())
    return list(y) if isinstance(y, (tuple, list)) else [y]


def assert_equal(network: runtime.Model, model: nn.Module, x: Tensor) -> None:
    """Bit for bit what the converted model gives."""
    for found, expected in zip(
        results(network, x.numpy()), results(weebill.convert(model), x), strict=True
    ):
        assert found.shape == tuple(expected.shape)
        assert np.array_equal(found, expected.numpy())


def assert_near(network: runtime.Model, model: nn.Module, x: Tensor) -> None:
    for found, expected in zip(results(network, x.numpy()), results(model, x), strict=True):
        assert found.shape == tuple(expected.shape)
        assert np.abs(found - expected.numpy()).max() <= 1e-5 * expected.abs().max().item()


@pytest.mark.parametrize(
    "make", [mobilenet_v3_small, mobilenet_v3_large, efficientnet_lite0], ids=lambda f: f.__name__
)
def test_classifiers_are_bitwise_those_of_torch(make: Any, tmp_path: Path) -> None:
    model = settled(make(num_classes=10))
    network = saved(model, tmp_path / "a.weebill")
    assert network.input_shape == (1, 3, 224, 224)
    for shape in ((1, 3, 64, 64), (3, 3, 47, 33)):
        x = torch.randn(shape)
        assert_equal(network, model, x)
        assert_equal(network, model, x.contiguous(memory_format=torch.channels_last))
    plain = (tmp_path / "a.weebill").stat().st_size
    weights = sum(p.numel() for p in model.parameters()) * 4
    assert plain <= weights + (1 << 16)


@pytest.mark.parametrize(
    "name", ["torchvision/mobilenet_v2", "torchvision/shufflenet_v2_x0_5", "timm/mobilenetv1_100"]
)
def test_foreign_classifiers(name: str, tmp_path: Path) -> None:
    model = settled(foreign_model(name))
    assert_near(saved(model, tmp_path / "a"), model, torch.randn(2, 3, 70, 64))


def test_shuffle_units_are_bitwise_those_of_torch(tmp_path: Path) -> None:
    model = settled(shufflenet_v2_x0_5(num_classes=10))
    network = saved(model, tmp_path / "a.weebill")
    for shape in ((1, 3, 64, 64), (3, 3, 47, 33)):
        assert_equal(network, model, torch.randn(shape))
    with (tmp_path / "a.weebill").open("rb") as file:
        (program,) = json.loads(Container(file).metadata["weebill"])["programs"]
    kinds = [block["kind"] for block in program]
    assert kinds == ["conv2d", "max_pool2d"] + ["shuffle_unit"] * 16 + [
        *("conv2d", "global_avg_pool2d", "conv2d")
    ]
    weights = sum(p.numel() for p in model.parameters()) * 4
    assert (tmp_path / "a.weebill").stat().st_size <= weights + (1 << 16)


def test_feature_maps_are_bitwise_those_of_torch(tmp_path: Path) -> None:
    model = settled(weebill.models.FeatureExtractor(mobilenet_v3_small()))
    network = saved(model, tmp_path / "a", input_shape=(1, 3, 64, 64))
    assert isinstance(network.output_shapes(), tuple)
    assert_equal(network, model, torch.randn(2, 3, 64, 80))


class Segmenter(nn.Module):
    """Lite R-ASPP on two maps, as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = weebill.models.FeatureExtractor(mobilenet_v3_small(), [1, 4])
        low, high = (info.channels for info in self.backbone.feature_info)
        self.cbr = nn.Sequential(
            nn.Conv2d(high, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, 24, 1, bias=False), nn.Sigmoid()
        )
        self.low_classifier = nn.Conv2d(low, 5, 1)
        self.high_classifier = nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low, high = self.backbone(x)
        y = self.cbr(high) * self.scale(high)
        y = F.interpolate(y, size=low.shape[-2:], mode="bilinear", align_corners=False)
        y = self.low_classifier(low) + self.high_classifier(y)
        return {"out": F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)}


def test_segmentation(tmp_path: Path) -> None:
    model = settle(Segmenter(), torch.randn(4, 3, 64, 64))
    network = saved(model, tmp_path / "a", input_shape=(1, 3, 64, 64))
    assert network.output_shapes((2, 3, 48, 80)) == {"out": (2, 5, 48, 80)}
    assert_near(network, model, torch.randn(2, 3, 48, 80))


def test_no_images_through_a_flatten(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Flatten())
    network = saved(model, tmp_path / "a", input_shape=(1, 3, 8, 8))
    found = network(np.zeros((0, 3, 8, 8), np.float32))
    assert found.shape == model(torch.zeros(0, 3, 8, 8)).shape == (0, 144)


def test_a_wrong_conversion_is_not_saved(tmp_path: Path) -> None:
    """The fused model and the file agree; the plain forward tells."""
    model = weebill.convert(nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 8, 1)))
    fusion: Any = model.fusion
    first, *rest = fusion.program.blocks
    wrong = replace(first, layer=replace(first.layer, activation="relu6"))
    fusion.program = replace(fusion.program, blocks=(wrong, *rest))
    with torch.no_grad():
        model[0].weight.mul_(100)
    with pytest.raises(NotImplementedError, match="depends on more than its steps"):
        weebill.save(model, tmp_path / "a", input_shape=(1, 3, 8, 8))
    assert not (tmp_path / "a").exists()


class Detector(nn.Module):
    """SSD heads (shared over the maps) before NMS, as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = weebill.models.FeatureExtractor(mobilenet_v3_small(), [2, 3])
        widths = [info.channels for info in self.backbone.feature_info]
        self.lateral = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in widths)
        self.scores, self.boxes = self._head(3 * 7), self._head(3 * 4)

    def _head(self, channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(inplace=True),
            nn.Conv2d(16, channels, 1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = [layer(x) for layer, x in zip(self.lateral, self.backbone(x), strict=True)]
        top = F.interpolate(maps[1], scale_factor=2.0, mode="nearest")
        maps[0] = maps[0] + top
        return self._rows(self.scores, maps, 7), self._rows(self.boxes, maps, 4)

    def _rows(self, head: nn.Module, maps: list[Tensor], k: int) -> Tensor:
        rows = []
        for level in maps:
            y = head(level)
            n, _, h, w = y.shape
            y = y.view(n, -1, k, h, w).permute(0, 3, 4, 1, 2)
            rows.append(y.reshape(n, -1, k))
        return torch.cat(rows, dim=1)


def test_detection(tmp_path: Path) -> None:
    model = settle(Detector(), torch.randn(4, 3, 64, 64))
    network = saved(model, tmp_path / "a", input_shape=(1, 3, 64, 64))
    assert network.output_shapes() == ((1, 240, 7), (1, 240, 4))
    assert_near(network, model, torch.randn(2, 3, 64, 96))


class Glue(nn.Module):
    """What may stand between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.norm = nn.BatchNorm2d(16)
        self.block = weebill.nn.DepthwisePointwise(8, 8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.average = nn.AvgPool2d(2)
        self.up = nn.Upsample(scale_factor=2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.stem(x)))
        a, b = x.chunk(2, dim=1)
        c = self.block(b)
        x = torch.cat([a, c], 1)
        n, channels, h, w = x.size()
        x = x.view(n, 2, channels // 2, h, w).transpose(1, 2).contiguous().view(n, channels, h, w)
        x = self.up(self.average(self.pool(x))) + x[:, :, :, :].mean([2, 3], keepdim=True)
        x = F.relu(x) * torch.sigmoid(x)
        y: Tensor = self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return y


def test_glue(tmp_path: Path) -> None:
    model = settle(Glue(), torch.randn(4, 3, 32, 32))
    assert_near(saved(model, tmp_path / "a"), model, torch.randn(2, 3, 40, 24))


class Inner(nn.Module):
    """Runs in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(2))
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        y = self.norm(torch.cat([layer(x) for layer in self.layers], 1))
        return F.hardswish(self.last(y))


class Outer(nn.Module):
    """What the inner module begins with is used outside as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.inner = Inner()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.first(x)
        z = self.inner(y)
        return {"sum": z + y, "first": y, "twice": self.inner(z)}


def test_modules_inside_that_run_in_parts(tmp_path: Path) -> None:
    model = settle(Outer(), torch.randn(4, 3, 24, 24))
    assert_near(saved(model, tmp_path / "a"), model, torch.randn(2, 3, 21, 30))


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_own_segmentation_networks(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = settle(weebill.models.create_model(name), torch.randn(2, 3, 64, 64))
    assert_near(saved(model, tmp_path / "a"), model, torch.randn(1, 3, 64, 96))


def test_own_detection_network_before_the_suppression(tmp_path: Path) -> None:
    model: Any = weebill.models.create_model("ssdlite320_mobilenet_v3_large").eval()
    network = nn.Sequential(model.backbone, model.head)
    settle(network, torch.randn(2, 3, 320, 320))
    shape = (1, 3, 320, 320)
    assert_near(saved(network, tmp_path / "a", input_shape=shape), network, torch.randn(shape))


class Lambda(nn.Module):
    def __init__(self, function: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv, x)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda conv, x: torch.cumsum(conv(x), 1), "cumsum"),
        (lambda conv, x: conv(x) * 2.0, "mul of a tensor and a number"),
        (lambda conv, x: conv(x) + conv.weight.sum(), "weight"),
        (lambda conv, x: conv(x) if x.sum() > 0 else x, "cannot be traced"),
        (lambda conv, x: F.interpolate(conv(x), scale_factor=2, mode="bicubic"), "bicubic"),
        (lambda conv, x: (conv(x), 3), "returns more than tensors"),
        (lambda conv, x: [[conv(x)]], "returns more than tensors"),
        (lambda conv, x: conv(x)[:, ::2], "a slice with a step"),
        (lambda conv, x: x.mul_(2), "mul"),
        (lambda conv, x: (x.relu_(), conv(x)), "changes a tensor in place"),
    ],
)
def test_what_a_file_can_not_hold(function: Any, text: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(NotImplementedError, match=f"^save: .*{text}"):
        weebill.save(Lambda(function), path)
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments(tmp_path: Path) -> None:
    model = Lambda(lambda conv, x: conv(x))
    with pytest.raises(TypeError, match="^save: model must be a torch.nn.Module, got int"):
        weebill.save(3, tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^save: input_shape must be .N, C, H, W. or .N, C."):
        weebill.save(model, tmp_path / "a", input_shape=(1, 3, 0, 5))
    with pytest.raises(ValueError, match="^save: input_shape must be one that the model takes"):
        weebill.save(model, tmp_path / "a", input_shape=(1, 5, 8, 8))
    with pytest.raises(FileNotFoundError):
        weebill.save(model, tmp_path / "missing" / "a")
    assert list(tmp_path.iterdir()) == []


def test_what_is_known_about_photos(tmp_path: Path) -> None:
    preset = ImageClassification(crop_size=64, resize_size=70, interpolation="bicubic")
    names = [f"class {i}" for i in range(10)]
    model = mobilenet_v3_small(num_classes=10)
    network = saved(model, tmp_path / "a", preprocessing=preset, categories=names)
    assert network.input_shape == (1, 3, 64, 64)
    assert network.preprocessing == preset
    assert network.categories == tuple(names)
    pixels = np.random.default_rng(0).integers(0, 255, (90, 100, 3), np.uint8)
    assert np.array_equal(network.preprocess(pixels)[0], preset.numpy(pixels))
    weebill.save(model, tmp_path / "a")
    with pytest.raises(ValueError, match="^preprocess: "):
        runtime.load(tmp_path / "a").preprocess(pixels)


def test_files_are_reproducible_and_the_model_is_untouched(tmp_path: Path) -> None:
    model = mobilenet_v3_small(num_classes=3).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weebill.save(model, tmp_path / "a")
    weebill.save(model, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_it_runs_without_torch(tmp_path: Path) -> None:
    model = settled(mobilenet_v3_small(num_classes=10)).eval()
    weebill.save(model, tmp_path / "a")
    x = torch.randn(1, 3, 64, 64)
    np.save(tmp_path / "x.npy", x.numpy())
    code = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import numpy, weebill
y = weebill.runtime.load("a")(numpy.load("x.npy"))
numpy.save("y.npy", y)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with torch.no_grad():
        expected = weebill.convert(model)(x)
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected.numpy())


@pytest.mark.parametrize("dtype", ["float16", torch.float16])
def test_half_precision_rounds_the_weights_and_nothing_else(tmp_path: Path, dtype: Any) -> None:
    model = settled(shufflenet_v2_x0_5(num_classes=7)).eval()
    weebill.save(model, tmp_path / "full.weebill", input_shape=(1, 3, 64, 64))
    half = saved(model, tmp_path / "half.weebill", input_shape=(1, 3, 64, 64), dtype=dtype)
    size = {name: (tmp_path / f"{name}.weebill").stat().st_size for name in ("full", "half")}
    assert size["half"] < 0.6 * size["full"]

    rounded = {}
    with open(tmp_path / "full.weebill", "rb") as full, open(tmp_path / "half.weebill", "rb") as f:
        container, halves = Container(full), Container(f)
        assert set(container.entries) == set(halves.entries)
        for name, entry in container.entries.items():
            tensor = container.read(name, np.empty(np.prod(entry.shape), np.float32))
            is_weight = name.endswith(".weight")
            assert halves.entries[name].dtype == ("F16" if is_weight else "F32")
            rounded[name] = tensor.astype(np.float16).astype(np.float32) if is_weight else tensor
            found = halves.read(name, np.empty(np.prod(entry.shape), np.float32))
            assert np.array_equal(found, rounded[name])
            error = np.abs(found - tensor)
            assert np.all(error <= np.maximum(2.0**-11 * np.abs(tensor), 2.0**-25))
        metadata = container.metadata
    write(tmp_path / "rounded.weebill", metadata, rounded)
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    assert np.array_equal(half(x), runtime.load(tmp_path / "rounded.weebill")(x))


def test_what_half_precision_refuses(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    for dtype in ("float64", "half", torch.bfloat16):
        with pytest.raises(ValueError, match=r"^save: dtype must be float32 or float16, got "):
            weebill.save(model, tmp_path / "a.weebill", dtype=dtype)
    with pytest.raises(TypeError, match=r"^save: dtype must be a string or a torch.dtype, got 16"):
        weebill.save(model, tmp_path / "a.weebill", dtype=16)  # type: ignore[arg-type]
    with torch.no_grad():
        model[0].weight[1, 2] = 7e4
    with pytest.raises(ValueError, match=r"^save: dtype must be float32 .* got 70000 in 0"):
        weebill.save(model, tmp_path / "a.weebill", dtype="float16")
    assert not list(tmp_path.iterdir())
