"""Photos in, network input out: reading, resizing, cropping and normalising images.

The core is numpy and Pillow and imports no torch, so that a torch-free runtime can use it;
`ImageClassification.__call__` returns a torch tensor and imports torch when it is called.
Arrays of pixels are (H, W, C) uint8, network inputs are (C, H, W) float32.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import os

    import PIL.Image
    import torch

__all__ = [
    "FASHION_MNIST",
    "FASHION_MNIST_CATEGORIES",
    "ImageClassification",
    "ImageError",
    "imagenet_categories",
    "read_image",
]

Pixels = npt.NDArray[np.uint8]

# A strip of 1 x 100,000 pixels would grow to gigabytes when its short side is resized to 256.
_MAX_RESIZED_PIXELS = 1 << 26


class ImageError(ValueError):
    """A file or an array that cannot be used as an image; the message is one line."""


def read_image(path: str | os.PathLike[str], *, mode: Literal["RGB", "L"] = "RGB") -> Pixels:
    """Reads an image file upright, as 8-bit colour or grey.

    The EXIF orientation is applied, transparency is dropped (as Pillow's convert does), 16-bit
    grey is scaled to 8 bits (Pillow alone would clip it to white), of an animation the first
    frame is taken.

    Args:
        path: Any file that Pillow can read.
        mode: "RGB" gives three channels, "L" one.

    Returns:
        (H, W, 3) or (H, W, 1), uint8.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: there is no readable file.
        ImageError: the file is no image, is truncated, or holds pixels of an unsupported kind.
        ModuleNotFoundError: Pillow is not installed.
    """
    _need_pillow("read_image")
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"read_image: path must be a file, got the folder '{path}'")
    if not path.exists():
        raise FileNotFoundError(f"read_image: path must be an existing file, got '{path}'")
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except PermissionError:
        raise PermissionError(f"read_image: path must be a readable file, got '{path}'") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"read_image: path must be an image that Pillow can read, got '{path}'"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"read_image: '{path}' is refused: {_one_line(error)}") from None
    # Damaged files make Pillow's decoders raise OSError, SyntaxError, EOFError, struct.error ...
    except Exception as error:
        raise ImageError(
            f"read_image: path must be an intact image, got '{path}' ({_one_line(error)})"
        ) from None
    try:
        return _pixels(upright, mode)
    except ImageError as error:
        raise ImageError(f"read_image: '{path}': {error}") from None


@functools.cache
def imagenet_categories() -> tuple[str, ...]:
    """The names of the 1000 ImageNet-1k classes, in the order of the networks' outputs."""
    file = resources.files("weebill").joinpath("imagenet_categories.json")
    return tuple(json.loads(file.read_text("utf-8")))


@dataclass(frozen=True)
class ImageClassification:
    """Preprocessing for classification: resize the short side, crop the centre, normalise.

        x = (pixels / 255 - mean) / std

    Images and uint8 arrays are resized by Pillow, tensors by torch (anti-aliased), as
    torchvision's preset of the same name does. An image that is smaller than the crop is padded
    with black.

    Args:
        crop_size: Height and width of the result.
        resize_size: Length of the short side before the crop.
        mean, std: Per channel; one value each makes a one-channel (grey) input.
        interpolation: "bilinear" or "bicubic".

    Source: the evaluation transform of the models' training recipes (see `Weights.meta`).
    """

    crop_size: int = 224
    resize_size: int = 256
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        for name in ("crop_size", "resize_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"ImageClassification: {name} must be positive, got {getattr(self, name)}"
                )
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ValueError(
                "ImageClassification: mean and std must have one or three values each, "
                f"got {self.mean} and {self.std}"
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                "ImageClassification: interpolation must be 'bilinear' or 'bicubic', "
                f"got {self.interpolation!r}"
            )

    def numpy(self, image: PIL.Image.Image | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Prepares one image without torch.

        Args:
            image: A Pillow image, or pixels (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or
                uint16.

        Returns:
            (C, crop_size, crop_size), float32, contiguous; C is the length of `mean`.

        Raises:
            ImageError: the array has another shape, no pixels, or is far too elongated.
            TypeError: it is neither an image nor an integer array.
        """
        x = self.pixels(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        x -= np.asarray(self.mean, np.float32).reshape(-1, 1, 1)
        x /= np.asarray(self.std, np.float32).reshape(-1, 1, 1)
        return np.ascontiguousarray(x)

    def pixels(self, image: PIL.Image.Image | npt.NDArray[Any]) -> Pixels:
        """Resizes and crops one image, without normalising it.

        Args:
            image: As `numpy` takes it.

        Returns:
            (crop_size, crop_size, C), uint8; C is the length of `mean`.

        Raises:
            ImageError, TypeError: as `numpy`.
        """
        photo = picture("ImageClassification", image, "L" if len(self.mean) == 1 else "RGB")
        from PIL import Image

        height, width = self._resized_size(photo.height, photo.width)
        filters = {
            "bilinear": Image.Resampling.BILINEAR,
            "bicubic": Image.Resampling.BICUBIC,
        }
        photo = photo.resize((width, height), filters[self.interpolation])
        pixels = np.asarray(photo, dtype=np.uint8).reshape(height, width, -1)
        top, left, before, after = self._crop(height, width)
        pixels = np.pad(pixels, (*zip(before, after, strict=True), (0, 0)))
        return pixels[top : top + self.crop_size, left : left + self.crop_size]

    def __call__(self, image: PIL.Image.Image | npt.NDArray[Any] | torch.Tensor) -> torch.Tensor:
        """Prepares an image as a tensor.

        Args:
            image: What `numpy` takes, or a tensor (..., C, H, W), uint8 or floating point in
                [0, 1].

        Returns:
            (C, crop_size, crop_size) for an image or array, (..., C, crop_size, crop_size) for
            a tensor; float32.

        Raises:
            ImageError, TypeError: as `numpy`.
        """
        import torch

        if isinstance(image, torch.Tensor):
            return self._tensor(image)
        return torch.from_numpy(self.numpy(image))

    def _tensor(self, image: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn import functional as F

        if image.ndim < 3 or image.shape[-3] != len(self.mean):
            raise ImageError(
                f"ImageClassification: image must be (..., {len(self.mean)}, H, W) as a tensor, "
                f"got {tuple(image.shape)}"
            )
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise TypeError(
                "ImageClassification: image must be uint8 or floating point as a tensor, "
                f"got {image.dtype}"
            )
        size = self._resized_size(*image.shape[-2:])
        x = F.interpolate(
            image.reshape(-1, *image.shape[-3:]).float(),
            size=size,
            mode=self.interpolation,
            align_corners=False,
            antialias=True,
        )
        if image.dtype == torch.uint8:
            # Eight-bit images stay eight-bit after resizing, as with Pillow.
            x = x.clamp(0, 255).round() / 255
        top, left, before, after = self._crop(*size)
        x = F.pad(x, (before[1], after[1], before[0], after[0]))
        x = x[..., top : top + self.crop_size, left : left + self.crop_size]
        mean = torch.tensor(self.mean, device=x.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=x.device).view(-1, 1, 1)
        x = (x - mean) / std
        return x.reshape(*image.shape[:-2], self.crop_size, self.crop_size)

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """The size whose short side is `resize_size`, the long one rounded down."""
        short, long = sorted((height, width))
        if short < 1:
            raise ImageError(f"ImageClassification: image must have pixels, got {height} x {width}")
        resized = int(self.resize_size * long / short)
        if self.resize_size * resized > _MAX_RESIZED_PIXELS:
            raise ImageError(
                "ImageClassification: image must be less elongated (its short side becomes "
                f"{self.resize_size} pixels), got {height} x {width}"
            )
        if height <= width:
            return self.resize_size, resized
        return resized, self.resize_size

    def _crop(self, height: int, width: int) -> tuple[int, int, tuple[int, int], tuple[int, int]]:
        """(top, left) of the crop, and padding (rows, columns) before and after."""
        before, after, start = [], [], []
        for length in (height, width):
            missing = max(self.crop_size - length, 0)
            before.append(missing // 2)
            after.append(missing - missing // 2)
            start.append(round((length + missing - self.crop_size) / 2))
        return start[0], start[1], (before[0], before[1]), (after[0], after[1])


# Preprocessing of Fashion-MNIST, white on black; mean and deviation are of its training images.
FASHION_MNIST = ImageClassification(crop_size=28, resize_size=28, mean=(0.2860,), std=(0.3530,))

# Its classes in the order of their numbers: Xiao et al., arXiv:1708.07747, table 2.
FASHION_MNIST_CATEGORIES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def picture(
    op: str, image: PIL.Image.Image | npt.NDArray[Any], mode: Literal["RGB", "L"]
) -> PIL.Image.Image:
    """A Pillow image of the wanted mode; `op` is who wants it, for errors."""
    _need_pillow(op)
    from PIL import Image

    if isinstance(image, Image.Image):
        pixels = _pixels(image, mode)
        return Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels)
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"{op}: image must be a Pillow image, an array or a tensor, got {type(image).__name__}"
        )
    if image.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"{op}: image must be uint8 or uint16 as an array, got {image.dtype}")
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))):
        raise ImageError(
            f"{op}: image must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as an "
            f"array, got {image.shape}"
        )
    if image.size == 0:
        raise ImageError(f"{op}: image must have pixels, got {image.shape}")
    if image.dtype == np.uint16:
        image = _eight_bits(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(image)).convert(mode)


def _pixels(image: PIL.Image.Image, mode: Literal["RGB", "L"]) -> Pixels:
    """(H, W, C) of a decoded image."""
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ImageError("pixels must be within 16 bits, got 32-bit integers; scale them")
        image = Image.fromarray(_eight_bits(values))
    elif image.mode == "F":
        raise ImageError("pixels must be integers, got floating point; scale them to 8 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    pixels = np.array(image.convert(mode), dtype=np.uint8)
    return pixels.reshape(image.height, image.width, -1)


def _eight_bits(values: npt.NDArray[Any]) -> Pixels:
    """0..65535 to 0..255, rounded: white stays white."""
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _need_pillow(op: str) -> None:
    if importlib.util.find_spec("PIL") is None:
        raise ModuleNotFoundError(f"{op}: Pillow must be installed; pip install pillow", name="PIL")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
