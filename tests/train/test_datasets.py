"""Datasets: what is in the files, and files that are damaged or lie."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.data import write_fashion_mnist, write_idx
from weebill.data import ImageClassification
from weebill.train import FashionMNIST, ImageFolder, random_resized_crop, read_idx


@pytest.mark.parametrize("name", ["images.gz", "images"])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 28, 28)])
def test_idx_files_are_read(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(read_idx(write_idx(tmp_path / name, values)), values)


GOOD = struct.pack(">BBBBI", 0, 0, 8, 1, 3) + b"abc"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "idx file"),
        (b"\1\0\x08\1" + GOOD[4:], "idx file"),
        (b"\0\0\x08\0", "idx file"),
        (b"\0\0\x08\xff" + bytes(1020), "idx file"),
        (b"\0\0\x0d\1" + GOOD[4:], "type 13"),
        (GOOD[:6], "header is incomplete"),
        (GOOD[:-1], "3 bytes its header promises, got 2"),
        (GOOD + b"d", "3 bytes its header promises, got more"),
        (struct.pack(">BBBB4I", 0, 0, 8, 4, *[2**32 - 1] * 4), "at most"),
        (gzip.compress(GOOD, mtime=0)[:-6], "intact"),
        (gzip.compress(GOOD, mtime=0)[:-8] + bytes(8), "intact"),
        (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 8, "intact"),
        (b"\x1f\x8b", "intact"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="read_idx: path must") as error:
        read_idx(path)
    assert words in str(error.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(GOOD[:8] + bytes(1 << 24), mtime=0))
    with pytest.raises(ValueError, match="got more"):
        read_idx(path)


def test_fashion_mnist(tmp_path: Path) -> None:
    assert not FashionMNIST.found(tmp_path)
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        FashionMNIST(tmp_path, "train")
    write_fashion_mnist(tmp_path)
    assert FashionMNIST.found(tmp_path)
    data = FashionMNIST(tmp_path, "test")
    assert len(data) == 20
    image, label = data[13]
    assert (image.shape, image.dtype, label) == ((1, 28, 28), torch.uint8, 3)
    assert torch.equal(image, data.images[13])
    assert data.classes[9] == "ankle boot"


@pytest.mark.parametrize(
    ("images", "labels"),
    [((4, 28, 28), [1, 2, 3]), ((4, 28, 27), [1, 2, 3, 4]), ((4, 28, 28), [1, 2, 3, 10])],
)
def test_fashion_mnist_of_wrong_shape(
    tmp_path: Path, images: tuple[int, ...], labels: list[int]
) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros(images, np.uint8))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array(labels, np.uint8))
    with pytest.raises(ValueError, match="FashionMNIST: "):
        FashionMNIST(tmp_path, "train")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    for name, count in (("cat", 2), ("ant", 1)):
        for index in range(count):
            path = tmp_path / "photos" / name / f"{index}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (40, 50 + index, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    (tmp_path / "photos/cat/notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_image_folder(folder: Path) -> None:
    preset = ImageClassification(crop_size=16, resize_size=20)
    data = ImageFolder(folder, preset=preset)
    assert data.classes == ("ant", "cat")
    assert [label for _, label in (data[i] for i in range(len(data)))] == [0, 1, 1]
    image, _ = data[2]
    with Image.open(folder / "cat" / "1.PNG") as picture:
        expected = preset.numpy(picture)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preset.mean, preset.std))
    assert image.dtype == torch.uint8
    torch.testing.assert_close((image / 255 - mean) / std, torch.from_numpy(expected))


def test_image_folder_crops_and_makes_grey(folder: Path) -> None:
    preset = ImageClassification(crop_size=16, resize_size=20, mean=(0.5,), std=(0.25,))
    data = ImageFolder(folder, preset=preset, transform=random_resized_crop(16))
    assert data[0][0].shape == (1, 16, 16)
    torch.manual_seed(1)
    first = data[1][0]
    assert not torch.equal(first, data[1][0])
    torch.manual_seed(1)
    assert torch.equal(first, data[1][0])


def test_image_folder_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="existing folder"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(ValueError, match="a folder for each class"):
        ImageFolder(folder / "cat")
    with pytest.raises(ValueError, match="differs in ant"):
        ImageFolder(folder, classes=("cat",))
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(ValueError, match="hold images"):
        ImageFolder(tmp_path / "empty")


def test_random_resized_crop_of_every_shape() -> None:
    crop = random_resized_crop(8)
    for size in ((1, 1), (1, 200), (300, 2), (33, 77)):
        assert crop(Image.new("RGB", size)).size == (8, 8)
    # A crop of the whole image is a resize.
    whole = random_resized_crop(8, scale=(1, 1), ratio=(1, 1))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = picture.resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(whole(picture)), np.asarray(expected))
