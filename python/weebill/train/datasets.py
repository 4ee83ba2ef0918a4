"""Labelled images: a folder with a subfolder per class, and Fashion-MNIST's files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from weebill.data import (
    FASHION_MNIST,
    FASHION_MNIST_CATEGORIES,
    ImageClassification,
    read_image,
)

if TYPE_CHECKING:
    import os

    import PIL.Image

__all__ = ["FashionMNIST", "ImageFolder", "LabelledImages", "random_resized_crop", "read_idx"]

# The kinds of a file's magic number that hold bytes: unsigned, with 1 and 3 dimensions.
_UNSIGNED_BYTE = 0x08
# More than any set of this format has; a hostile header must not ask for terabytes.
_MAX_BYTES = 1 << 30


def read_idx(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Reads an idx file of unsigned bytes, gzip-compressed or not.

    The header is 0, 0, type, number of dimensions, and every dimension as four bytes, big end
    first. No more is read than it says.

    Raises:
        FileNotFoundError, PermissionError: there is no readable file.
        ValueError: the file is of another kind, of another type, too large, truncated, damaged, or
            holds more than its header says.

    Source: the description at the end of http://yann.lecun.com/exdb/mnist/.
    """
    path = Path(path)
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            header = file.read(4)
            if len(header) < 4 or header[:2] != b"\0\0" or not 1 <= header[3] <= 4:
                raise ValueError(f"read_idx: path must be an idx file, got '{path}'")
            if header[2] != _UNSIGNED_BYTE:
                raise ValueError(
                    f"read_idx: path must hold unsigned bytes (type 8), got type {header[2]} in "
                    f"'{path}'"
                )
            sizes = file.read(4 * header[3])
            if len(sizes) < 4 * header[3]:
                raise EOFError("its header is incomplete")
            shape = struct.unpack(f">{header[3]}I", sizes)
            count = math.prod(shape)
            if count > _MAX_BYTES:
                raise ValueError(
                    f"read_idx: path must hold at most {_MAX_BYTES} bytes, got {count} in '{path}'"
                )
            # One byte more than there should be, to see that there is none; reading to the end
            # also makes gzip check its checksum.
            content = file.read(count + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"read_idx: path must be an intact idx file, got '{path}' ({error})"
        ) from None
    if len(content) != count:
        found = "more" if len(content) > count else f"{len(content)}"
        raise ValueError(
            f"read_idx: path must hold the {count} bytes its header promises, got {found} in "
            f"'{path}'"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Base of the datasets: item i is (uint8 image (C, H, W), class).

    Attributes:
        classes: Their names, in the order of the labels.
        preset: How an image of the set becomes input of a network at inference.
    """

    classes: tuple[str, ...]
    preset: ImageClassification

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise NotImplementedError


class FashionMNIST(LabelledImages):
    """Fashion-MNIST: 60,000 and 10,000 grey 28 x 28 pictures of ten kinds of clothing, white on
    black.

    Args:
        root: The folder with the four files `train-images-idx3-ubyte.gz` ..., or without .gz.
            Debian puts them into /usr/share/datasets/fashion-mnist.
        split: "train" or "test".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or of something else.

    Source: Xiao et al., arXiv:1708.07747; licence MIT.
    """

    _PREFIXES: ClassVar[dict[str, str]] = {"train": "train", "test": "t10k"}

    def __init__(self, root: str | os.PathLike[str], split: Literal["train", "test"]) -> None:
        if split not in self._PREFIXES:
            raise ValueError(f"FashionMNIST: split must be 'train' or 'test', got {split!r}")
        prefix = self._PREFIXES[split]
        images = read_idx(self._file(root, f"{prefix}-images-idx3-ubyte"))
        labels = read_idx(self._file(root, f"{prefix}-labels-idx1-ubyte"))
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise ValueError(
                "FashionMNIST: files must hold N images of 28 x 28 and N labels, got "
                f"{images.shape} and {labels.shape}"
            )
        if labels.size and labels.max() >= len(FASHION_MNIST_CATEGORIES):
            raise ValueError(f"FashionMNIST: labels must be below 10, got {labels.max()}")
        self.classes = FASHION_MNIST_CATEGORIES
        self.preset = FASHION_MNIST
        self.images = torch.from_numpy(images.copy()).unsqueeze(1)
        self.labels = torch.from_numpy(labels.astype(np.int64))

    @classmethod
    def found(cls, root: str | os.PathLike[str]) -> bool:
        """Whether the folder holds the training images."""
        return any((Path(root) / f"train-images-idx3-ubyte{end}").is_file() for end in ("", ".gz"))

    @staticmethod
    def _file(root: str | os.PathLike[str], name: str) -> Path:
        for end in (".gz", ""):
            if (path := Path(root) / f"{name}{end}").is_file():
                return path
        raise FileNotFoundError(f"FashionMNIST: root must hold {name}.gz, got '{root}'")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class ImageFolder(LabelledImages):
    """A folder with a subfolder of image files for every class; the names in order are the classes.

    Args:
        root: The folder.
        preset: Size, and normalisation, of the input; one mean makes grey images.
        transform: Makes a `preset.crop_size` square of a Pillow image, such as
            `random_resized_crop`. Default: what `preset` does, resize and centre crop.
        classes: Names that must be the subfolders', such as the training set's for a test set.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: there are no subfolders or no images, or other classes than wanted. A damaged
            image raises `ImageError` when it is read.
    """

    SUFFIXES: ClassVar[frozenset[str]] = frozenset(
        {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
    )

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        preset: ImageClassification | None = None,
        transform: Callable[[PIL.Image.Image], PIL.Image.Image] | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        root = Path(root)
        if not root.exists():
            raise FileNotFoundError(f"ImageFolder: root must be an existing folder, got '{root}'")
        names = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
        if not names:
            raise ValueError(f"ImageFolder: root must hold a folder for each class, got '{root}'")
        if classes is not None and names != classes:
            different = sorted(set(names) ^ set(classes))
            raise ValueError(
                f"ImageFolder: root must hold the same classes as the training set, got '{root}', "
                f"which differs in {', '.join(different[:5])}"
            )
        self.classes = names
        self.preset = preset or ImageClassification()
        self.files = [
            (path, label)
            for label, name in enumerate(names)
            for path in sorted((root / name).rglob("*"))
            if path.suffix.lower() in self.SUFFIXES and path.is_file()
        ]
        if not self.files:
            raise ValueError(f"ImageFolder: root must hold images, got none in '{root}'")
        self._transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        pixels = read_image(path, mode="L" if len(self.preset.mean) == 1 else "RGB")
        if self._transform is None:
            return torch.from_numpy(self.preset.pixels(pixels).transpose(2, 0, 1).copy()), label
        from PIL import Image

        picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        cropped = np.array(self._transform(picture), dtype=np.uint8)
        cropped = cropped.reshape(*cropped.shape[:2], -1)
        return torch.from_numpy(cropped.transpose(2, 0, 1).copy()), label


def random_resized_crop(
    size: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Callable[[PIL.Image.Image], PIL.Image.Image]:
    """A random part of an image, resized to a square, anti-aliased.

    The part's share of the area is uniform within `scale`, the logarithm of width / height uniform
    within `ratio`; where ten draws do not fit into the image, its largest centred square.

    It is Pillow's, one image at a time, because images of a folder differ in size and because
    kornia resizes without anti-aliasing here. Random numbers come from torch's global generator.

    Source: Szegedy et al., Going deeper with convolutions, arXiv:1409.4842, section 6.
    """

    def crop(image: PIL.Image.Image) -> PIL.Image.Image:
        from PIL import Image

        width, height = image.size
        left, top, crop_width, crop_height = _crop_box(width, height, scale, ratio)
        box = (left, top, left + crop_width, top + crop_height)
        return image.resize((size, size), Image.Resampling.BILINEAR, box=box)

    return crop


def _crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(left, top, width, height)"""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(()))

    for _ in range(10):
        area = width * height * uniform(*scale)
        aspect = math.exp(uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(torch.randint(width - crop_width + 1, ()))
            top = int(torch.randint(height - crop_height + 1, ()))
            return left, top, crop_width, crop_height
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def collate(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """(images (N, C, H, W), labels (N,)) of a list of items."""
    images, labels = zip(*items, strict=True)
    return torch.stack(images), torch.tensor(labels)
