"""Preprocessing of detection and segmentation against torchvision's presets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from weebill.data import ImageError
from weebill.models import ObjectDetection, SemanticSegmentation


@pytest.fixture(params=[(50, 80), (81, 33), (1, 3)])
def pixels(request: pytest.FixtureRequest) -> Any:
    return np.random.default_rng(0).integers(0, 256, (*request.param, 3), dtype=np.uint8)


def test_detection(pixels: Any, torchvision: Any) -> None:
    image = Image.fromarray(pixels)
    expected = torchvision.transforms._presets.ObjectDetection()(image)
    for source in (image, pixels):
        assert torch.equal(ObjectDetection()(source), expected)


@pytest.mark.parametrize("size", [64, 520, None])
def test_segmentation(size: int | None, pixels: Any, torchvision: Any) -> None:
    image = Image.fromarray(pixels)
    expected = torchvision.transforms._presets.SemanticSegmentation(resize_size=size)(image)
    for source in (image, pixels):
        torch.testing.assert_close(SemanticSegmentation(size)(source), expected)


def test_grey_and_transparent_images() -> None:
    grey = np.full((4, 6), 51, np.uint8)
    assert torch.equal(ObjectDetection()(grey), torch.full((3, 4, 6), 0.2))
    clear = np.full((4, 6, 4), 51, np.uint8)
    assert torch.equal(ObjectDetection()(clear), torch.full((3, 4, 6), 0.2))


def test_wrong_arguments() -> None:
    with pytest.raises(ImageError, match="^ObjectDetection: image must be .* got \\(2, 2, 2\\)"):
        ObjectDetection()(np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(ImageError, match="^SemanticSegmentation: image must have pixels"):
        SemanticSegmentation()(np.zeros((0, 2, 3), np.uint8))
    with pytest.raises(ImageError, match="less elongated"):
        SemanticSegmentation()(np.zeros((1, 400_000, 3), np.uint8))
    with pytest.raises(TypeError, match="uint8 or uint16 as an array, got float64"):
        ObjectDetection()(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="resize_size must be positive, got 0"):
        SemanticSegmentation(0)
