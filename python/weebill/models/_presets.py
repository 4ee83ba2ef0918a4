"""How the networks of the tasks beside classification want their images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from weebill.data import ImageClassification, ImageError, picture

if TYPE_CHECKING:
    import PIL.Image

Image: TypeAlias = "PIL.Image.Image | npt.NDArray[Any]"


def _channels_first(image: PIL.Image.Image) -> npt.NDArray[np.float32]:
    pixels = np.asarray(image, np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(255)


@dataclass(frozen=True)
class ObjectDetection:
    """Preprocessing for detection: pixels / 255. Detectors resize and normalise by themselves.

    Source: torchvision's preset of the same name.
    """

    def __call__(self, image: Image) -> torch.Tensor:
        """A Pillow image or pixels (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) -> (3, H, W).

        Raises:
            ImageError, TypeError: as `ImageClassification`.
        """
        return torch.from_numpy(_channels_first(picture("ObjectDetection", image, "RGB")))


@dataclass(frozen=True)
class SemanticSegmentation:
    """Preprocessing for segmentation: resize the short side, normalise.

        x = (pixels / 255 - mean) / std

    Args:
        resize_size: Length of the short side; None leaves the size as it is.
        mean, std: Per channel.

    Source: torchvision's preset of the same name.
    """

    resize_size: int | None = 520
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.resize_size is not None and self.resize_size < 1:
            raise ValueError(
                f"SemanticSegmentation: resize_size must be positive, got {self.resize_size}"
            )

    def __call__(self, image: Image) -> torch.Tensor:
        """A Pillow image or pixels as for `ObjectDetection` -> (3, H', W').

        Raises:
            ImageError, TypeError: as `ImageClassification`.
        """
        photo = picture("SemanticSegmentation", image, "RGB")
        if self.resize_size is not None:
            short, long = sorted((photo.width, photo.height))
            resized = int(self.resize_size * long / short)
            if self.resize_size * resized > 1 << 26:
                raise ImageError(
                    "SemanticSegmentation: image must be less elongated (its short side becomes "
                    f"{self.resize_size} pixels), got {photo.height} x {photo.width}"
                )
            upright = photo.width <= photo.height
            size = (self.resize_size, resized) if upright else (resized, self.resize_size)
            photo = photo.resize(size, 2)  # bilinear
        x = _channels_first(photo)
        x -= np.asarray(self.mean, np.float32).reshape(-1, 1, 1)
        x /= np.asarray(self.std, np.float32).reshape(-1, 1, 1)
        return torch.from_numpy(x)


Preset: TypeAlias = ImageClassification | ObjectDetection | SemanticSegmentation
