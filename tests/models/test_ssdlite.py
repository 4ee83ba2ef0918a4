"""SSDLite against torchvision: keys, detections after suppression, losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import weebill
from tests.models.test_boxes import greedy
from weebill.models import (
    SSD,
    SSDLite320_MobileNet_V3_Large_Weights,
    SSDLiteBackbone,
    create_model,
    ssdlite,
    ssdlite320_mobilenet_v3_large,
)
from weebill.nn import unfused

SIZES = ((301, 333), (97, 450), (320, 320), (33, 20))


@pytest.fixture(scope="module")
def builder(torchvision: Any) -> Any:
    """torchvision's function. Its own suppression is native code that its wheel may lack."""
    boxes = torchvision.ops.boxes

    def reference(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        return torch.tensor(greedy(boxes, scores, threshold), dtype=torch.int64)

    before, boxes.nms = boxes.nms, reference
    yield torchvision.models.detection.ssdlite320_mobilenet_v3_large
    boxes.nms = before


@pytest.fixture(scope="module")
def model(spread: Any) -> SSD:
    torch.manual_seed(1)
    model = ssdlite320_mobilenet_v3_large(num_classes=6, topk_candidates=100)
    assert isinstance(spread(model), SSD)
    return model


@pytest.fixture(scope="module")
def theirs(model: SSD, builder: Any) -> Any:
    found = builder(weights=None, weights_backbone=None, num_classes=6, topk_candidates=100).eval()
    found.load_state_dict(model.state_dict())
    return found


def photos() -> list[Tensor]:
    """Blobs of colour on noise: features at several scales."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for height, width in SIZES:
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
        noise = torch.rand(3, height, width, generator=generator)
        found.append(0.7 * image + 0.3 * noise)
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], size: float) -> None:
    assert found["labels"].tolist() == expected["labels"].tolist()
    for key, scale in (("boxes", size), ("scores", 1.0)):
        assert found[key].shape == expected[key].shape
        difference = (found[key] - expected[key]).abs().max().item()
        assert difference <= 1e-5 * scale, key


@pytest.mark.parametrize("num_classes", [91, 3])
def test_keys_and_shapes_are_torchvisions(num_classes: int, builder: Any) -> None:
    with torch.device("meta"):
        ours = ssdlite320_mobilenet_v3_large(num_classes=num_classes)
        theirs = builder(weights=None, weights_backbone=None, num_classes=num_classes)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]


def test_initial_weights_are_torchvisions(builder: Any) -> None:
    torch.manual_seed(7)
    ours = ssdlite320_mobilenet_v3_large(num_classes=3)
    torch.manual_seed(7)
    theirs = builder(weights=None, weights_backbone=None, num_classes=3)
    for (key, value), expected in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), key


def test_head_and_detections_equal_torchvisions(model: SSD, theirs: Any) -> None:
    images = photos()
    with torch.inference_mode():
        expected = theirs(images)
        with unfused():
            plain = model(images)
        fused = weebill.convert(model)(images)
        batch = torch.stack([images[2]] * 2)
        with unfused():
            alone = model(batch)
    for k, size in enumerate(SIZES):
        # boxes of several classes, and scores that are neither 0 nor 1 only
        assert len(expected[k]["boxes"]) > 20
        assert len(expected[k]["labels"].unique()) >= 3
        assert expected[k]["scores"].std() > 0.01
        assert_same(plain[k], expected[k], max(size))
        assert_same(fused[k], expected[k], max(size))
    assert_same(alone[1], expected[2], 320)


def test_fused_head_equals_the_plain_one(model: SSD) -> None:
    x = model.transform(photos())
    fused = weebill.convert(model)
    with torch.inference_mode():
        with unfused():
            expected = model.head(model.backbone(x))
        found = fused.head(fused.backbone(x))
    for y, exact in zip(found, expected, strict=True):
        assert exact.std() > 0.1
        assert (y - exact).abs().max() <= 1e-5 * exact.abs().max()
    assert fused.backbone.features[0].fusion.records()
    assert fused.backbone.features[1].fusion.records()


def test_the_same_head_on_shufflenet_v2(torchvision: Any, spread: Any) -> None:
    network = torchvision.models.shufflenet_v2_x0_5(weights=None)
    backbone = SSDLiteBackbone.of_shufflenet_v2(network)
    assert backbone.out_channels == (96, 1024, 512, 256, 256, 128)
    model = spread(ssdlite(backbone, num_classes=4))
    x = model.transform(photos()[:2])
    fused = weebill.convert(model)
    with torch.inference_mode(), unfused():
        expected = model.head(model.backbone(x))
        # what the parts compute in the classifier
        middle = network.stage3(network.stage2(network.maxpool(network.conv1(x))))
        assert torch.equal(model.backbone(x)[0], middle)
        assert torch.equal(model.backbone(x)[1], network.conv5(network.stage4(middle)))
    with torch.inference_mode():
        found = fused.head(fused.backbone(x))
    for y, exact in zip(found, expected, strict=True):
        assert exact.std() > 0.1
        assert (y - exact).abs().max() <= 1e-5 * exact.abs().max()
    # 20 x 20 at 1/16 to 1 x 1 at the end, six anchors each
    assert found[0].shape == (2, 6 * (400 + 100 + 25 + 9 + 4 + 1), 4)
    with pytest.raises(TypeError, match="must be a ShuffleNetV2, got SSD without conv1"):
        SSDLiteBackbone.of_shufflenet_v2(model)


def test_shufflenet_v2_detector(spread: Any) -> None:
    model = spread(create_model("ssdlite320_shufflenet_v2_x1_0", num_classes=4))
    assert model.backbone.out_channels[:2] == (232, 1024)
    x = model.transform(photos()[:2])
    fused = weebill.convert(model)
    with torch.inference_mode():
        with unfused():
            expected = model.head(model.backbone(x))
        found = fused.head(fused.backbone(x))
        assert len(fused(photos()[:1])[0]["boxes"]) > 0
    for y, exact in zip(found, expected, strict=True):
        assert (y - exact).abs().max() <= 1e-5 * exact.abs().max()


def targets() -> list[dict[str, Tensor]]:
    boxes = [
        torch.tensor([[10.0, 20, 200, 250], [5, 5, 60, 50], [100, 90, 130, 200]]),
        torch.zeros(0, 4),
        torch.tensor([[3.0, 3, 300, 310]]),
    ]
    labels = [torch.tensor([1, 4, 2]), torch.zeros(0, dtype=torch.int64), torch.tensor([5])]
    return [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]


def test_losses_equal_torchvisions(model: SSD, theirs: Any) -> None:
    images = photos()[:3]
    losses = []
    try:
        for detector in (model.train(), theirs.train()):
            for module in detector.modules():  # statistics of three images are no matter here
                module.training = isinstance(module, SSD) or module is theirs
            losses.append(detector(images, targets()))
    finally:
        model.eval()
        theirs.eval()
    assert losses[0].keys() == losses[1].keys()
    for key, value in losses[1].items():
        torch.testing.assert_close(losses[0][key], value, rtol=1e-5, atol=1e-6)
        assert value > 0


def test_trains() -> None:
    model = ssdlite320_mobilenet_v3_large(num_classes=6).train()
    losses = model(photos()[:3], targets())
    assert isinstance(losses, dict)
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_weights_entry_and_counts(torchvision: Any) -> None:
    member = torchvision.models.get_model_weights("ssdlite320_mobilenet_v3_large").DEFAULT
    weights = SSDLite320_MobileNet_V3_Large_Weights.DEFAULT.weights
    assert weights.url == member.url
    assert f"-{weights.sha256}.pth" in member.url
    assert list(weights.meta["categories"]) == member.meta["categories"]
    assert weights.meta["recipe"] == member.meta["recipe"]
    assert weights.meta["box_map"] == member.meta["_metrics"]["COCO-val2017"]["box_map"]
    with torch.device("meta"):
        model = create_model("ssdlite320_mobilenet_v3_large").eval()
    assert sum(p.numel() for p in model.parameters()) == weights.meta["num_params"]
    with FlopCounterMode(display=False) as counter:
        model.head(model.backbone(torch.zeros(1, 3, 320, 320, device="meta")))
    multiply_adds = counter.get_total_flops() / 2
    assert multiply_adds == pytest.approx(weights.meta["multiply_adds"], rel=0.01)


def test_number_of_classes_comes_from_the_file(model: SSD, tmp_path: Any) -> None:
    path = tmp_path / "net.pth"
    torch.save(model.state_dict(), path)
    assert ssdlite320_mobilenet_v3_large(weights=path).num_classes == 6


def test_a_trained_backbone_keeps_its_width(tmp_path: Any) -> None:
    backbone = weebill.models.mobilenet_v3_large()
    path = tmp_path / "backbone.pth"
    torch.save(backbone.state_dict(), path)
    model = ssdlite320_mobilenet_v3_large(weights_backbone=path, num_classes=2)
    stem = model.backbone.features[0][0][0].weight
    assert torch.equal(stem, backbone.features[0][0].weight)
    assert model.backbone.out_channels[:2] == (672, 960)


def test_wrong_arguments(model: SSD) -> None:
    assert model([]) == []
    (single,) = model([torch.rand(3, 1, 1)])
    assert single["boxes"].isfinite().all()
    with pytest.raises(ValueError, match=r"images must be \(3, H, W\) each, got \(1, 8, 8\) at 1"):
        model([torch.rand(3, 8, 8), torch.rand(1, 8, 8)])
    with pytest.raises(TypeError, match="must be floating point in 0..1, got torch.uint8"):
        model([torch.zeros(3, 8, 8, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="num_classes must be positive, got 0"):
        ssdlite320_mobilenet_v3_large(num_classes=0)
    training = ssdlite320_mobilenet_v3_large(num_classes=2).train()
    image = torch.rand(3, 32, 32)
    with pytest.raises(ValueError, match="targets must be given in training"):
        training([image])
    bad = {"boxes": torch.tensor([[4.0, 4, 4, 8]]), "labels": torch.tensor([1])}
    with pytest.raises(ValueError, match="boxes with an area, got none at 1"):
        training([image, image], [targets()[0], bad])
    with pytest.raises(ValueError, match="one per image, got 1"):
        training([image, image], [bad])
    with pytest.raises(NotImplementedError, match="features_only must be False"):
        create_model("ssdlite320_mobilenet_v3_large", features_only=True)
