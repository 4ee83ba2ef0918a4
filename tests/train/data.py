"""Small data that can be learned: pictures whose bright half tells the class."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from weebill.data import ImageClassification
from weebill.train import LabelledImages


class Halves(LabelledImages):
    """Grey 12 x 12 noise; class 0 is brighter above, class 1 below."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.classes = ("above", "below")
        self.preset = ImageClassification(12, 12, mean=(0.5,), std=(0.25,))
        self.labels = torch.arange(count) % 2
        images = torch.randint(0, 128, (count, 1, 12, 12), generator=generator)
        for index, label in enumerate(self.labels.tolist()):
            images[index, :, 6 * label : 6 * label + 6] += 100
        self.images = images.to(torch.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def small_network(*, norm: bool = True, seed: int = 0) -> nn.Module:
    """Two convolutions, average, linear layer; with BatchNorm and dropout if `norm`."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1, bias=not norm),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1 if norm else 0.0),
        nn.Linear(16 * 9, 2),
    )


def write_idx(path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Path:
    """An idx file, compressed where its name ends in .gz."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    content = header + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_fashion_mnist(folder: Path, *, train: int = 64, test: int = 20) -> Path:
    """Files like Fashion-MNIST's, of random pictures."""
    random = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder
