"""Reading photos and preparing them: against torchvision, and with files that are no photos."""

from __future__ import annotations

import importlib.util
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from tests.models.conftest import import_torchvision
from weebill.data import ImageClassification, ImageError, imagenet_categories, read_image

PHOTOS = Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="session")
def presets() -> Any:
    try:
        import_torchvision()
        from torchvision.transforms import _presets
    except ImportError as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    return _presets


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    generator = np.random.default_rng(height * 1000 + width)
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    return Image.fromarray(generator.integers(0, 256, (height, width, *channels), np.uint8))


SIZES = [(224, 224), (256, 300), (300, 256), (97, 450), (451, 98), (31, 17), (1, 1), (600, 601)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (224, 232), (64, 50), (33, 48)])
def test_images_are_prepared_as_by_torchvision(
    size: tuple[int, int], crop: int, resize: int, presets: Any
) -> None:
    image = picture(*size)
    ours = ImageClassification(crop_size=crop, resize_size=resize)
    theirs = presets.ImageClassification(crop_size=crop, resize_size=resize)
    x = ours(image)
    assert x.shape == (3, crop, crop)
    assert x.is_contiguous()
    torch.testing.assert_close(x, theirs(image), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ours.numpy(np.asarray(image)), x.numpy())


def test_bicubic_is_torchvisions(presets: Any) -> None:
    from torchvision.transforms import InterpolationMode

    image = picture(300, 200)
    ours = ImageClassification(interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)
    theirs = presets.ImageClassification(
        crop_size=224,
        interpolation=InterpolationMode.BICUBIC,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-6)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    torch.testing.assert_close(ours(tensor), theirs(tensor), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(300, 256), (97, 450), (31, 17), (256, 256)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tensors_are_prepared_as_by_torchvision(
    size: tuple[int, int], dtype: torch.dtype, presets: Any
) -> None:
    x = torch.from_numpy(np.array(picture(*size))).permute(2, 0, 1).expand(2, -1, -1, -1)
    if dtype == torch.float32:
        x = x / 255
    for resize in (256, 40):
        ours = ImageClassification(crop_size=224, resize_size=resize)
        theirs = presets.ImageClassification(crop_size=224, resize_size=resize)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    assert ours(x[0]).shape == (3, 224, 224)
    assert ours(x[None]).shape == (1, 2, 3, 224, 224)


def test_values() -> None:
    pixels = np.full((8, 8, 3), 255, np.uint8)
    pixels[..., 2] = 0
    preset = ImageClassification(crop_size=4, resize_size=8, mean=(0.5, 0, 0.5), std=(0.5, 2, 0.1))
    x = preset.numpy(pixels)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[:, 0, 0], [1, 0.5, -5], rtol=1e-6)


def test_small_images_are_padded_with_black_in_the_middle() -> None:
    preset = ImageClassification(crop_size=7, resize_size=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    x = preset.numpy(np.full((4, 4, 3), 255, np.uint8))
    assert x[0].sum() == 16
    assert x[0, 1:5, 1:5].all()


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4)])
@pytest.mark.parametrize("mean", [(0.5,), (0.5, 0.4, 0.3)])
def test_arrays_of_other_channel_counts(shape: tuple[int, ...], mean: tuple[float, ...]) -> None:
    preset = ImageClassification(crop_size=16, resize_size=16, mean=mean, std=mean)
    x = preset.numpy(np.full(shape, 200, np.uint8))
    assert x.shape == (len(mean), 16, 16)
    assert x.max() < 2


def test_uint16_is_scaled() -> None:
    preset = ImageClassification(crop_size=4, resize_size=4, mean=(0.0,), std=(1.0,))
    assert preset.numpy(np.full((4, 4), 65535, np.uint16)).min() == 1
    assert preset.numpy(np.full((4, 4), 257 * 51, np.uint16)).max() == np.float32(51 / 255)


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (np.zeros((4, 4, 2), np.uint8), ImageError, r"must be \(H, W\), .*got \(4, 4, 2\)"),
        (np.zeros((4,), np.uint8), ImageError, r"got \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), ImageError, r"must have pixels, got \(0, 4, 3\)"),
        (np.zeros((4, 4, 3)), TypeError, "must be uint8 or uint16 as an array, got float64"),
        ("photo.jpg", TypeError, "must be a Pillow image, an array or a tensor, got str"),
        (torch.zeros(4, 4), ImageError, r"must be \(..., 3, H, W\) as a tensor, got \(4, 4\)"),
        (torch.zeros(4, 5, 5), ImageError, r"got \(4, 5, 5\)"),
        (torch.zeros(3, 0, 5), ImageError, "must have pixels, got 0 x 5"),
        (torch.zeros(3, 5, 5, dtype=torch.int64), TypeError, "got torch.int64"),
        (np.zeros((1, 3000, 3), np.uint8), ImageError, "must be less elongated"),
    ],
)
def test_wrong_images(image: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ImageClassification()(image)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"crop_size": 0}, "crop_size must be positive, got 0"),
        ({"resize_size": -1}, "resize_size must be positive, got -1"),
        ({"mean": (0.1, 0.2)}, "one or three values each"),
        ({"std": (0.1,)}, "one or three values each"),
        ({"interpolation": "nearest"}, "must be 'bilinear' or 'bicubic', got 'nearest'"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ImageClassification(**arguments)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tif"])
def test_reads_lossless_files(tmp_path: Path, mode: str, suffix: str) -> None:
    image = picture(13, 17, mode)
    path = saved(
        image, tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {})
    )
    pixels = read_image(path)
    assert pixels.shape == (13, 17, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert read_image(str(path), mode="L").shape == (13, 17, 1)


def test_reads_photos() -> None:
    assert read_image(PHOTOS / "coffee.png").shape == (400, 600, 3)
    assert read_image(PHOTOS / "camera.png").shape == (512, 512, 3)
    assert read_image(PHOTOS / "rocket.jpg").shape == (427, 640, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # a white corner, at the top left of the upright picture
    steps = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(steps[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(stored, tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path), upright)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    image = picture(9, 8, "RGBA")
    np.testing.assert_array_equal(
        read_image(saved(image, tmp_path / "a.png")), np.asarray(image)[:, :, :3]
    )
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    path = saved(palette, tmp_path / "p.png", transparency=b"\x00\x80")
    np.testing.assert_array_equal(read_image(path)[0, 0], [10, 20, 30])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    for suffix in ("png", "tif"):
        pixels = read_image(saved(Image.fromarray(values), tmp_path / f"a.{suffix}"))
        np.testing.assert_array_equal(pixels[0, :, 0], [0, 1, 128, 255])
        np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_other_kinds_of_pixels(tmp_path: Path) -> None:
    bits = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(read_image(saved(bits, tmp_path / "a.png"))[0, :, 0], [255, 0])
    cmyk = saved(picture(8, 8).convert("CMYK"), tmp_path / "a.jpg")
    assert read_image(cmyk).shape == (8, 8, 3)
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_image(path).max() == 10
    floats = saved(Image.fromarray(np.zeros((2, 2), np.float32)), tmp_path / "f.tif")
    with pytest.raises(ImageError, match="f.tif': pixels must be integers, got floating point"):
        read_image(floats)
    large = saved(Image.fromarray(np.array([[70000]], np.int32)), tmp_path / "i.tif")
    with pytest.raises(ImageError, match="i.tif': pixels must be within 16 bits"):
        read_image(large)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="path must be an existing file, got '.*no.png'"):
        read_image(tmp_path / "no.png")
    with pytest.raises(IsADirectoryError, match="path must be a file, got the folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello\nworld\n", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_files_that_are_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"^read_image: path must be an i.*a\.png") as error:
        read_image(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif"])
def test_truncated_and_damaged_images_raise_nothing_else(tmp_path: Path, suffix: str) -> None:
    buffer = io.BytesIO()
    picture(48, 64).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    data = buffer.getvalue()
    path = tmp_path / f"a.{suffix}"
    messages = []
    generator = np.random.default_rng(5)
    cuts = [data[:n] for n in (1, 10, 30, 100, len(data) // 2, len(data) - 30)]
    for _ in range(60):
        flipped = bytearray(data)
        for position in generator.integers(0, min(len(data), 400), 4):
            flipped[position] = generator.integers(0, 256)
        cuts.append(bytes(flipped))
    for index, content in enumerate(cuts):
        path.write_bytes(content)
        try:
            read_image(path)
        except ImageError as error:
            messages.append(str(error))
        else:
            assert index > 5, "a truncated image was accepted"
    assert len(messages) > 5
    assert not any("\n" in message for message in messages)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.bmp"
    size = 40_000
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, size, size, 1, 24, *[0] * 6)
    path.write_bytes(header)
    with pytest.raises(ImageError, match=r"bomb\.bmp' is refused: Image size"):
        read_image(path)


def test_without_pillow_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="Pillow must be installed; pip install pillow"):
        read_image(PHOTOS / "coffee.png")
    with pytest.raises(ModuleNotFoundError, match="pip install pillow"):
        ImageClassification().numpy(np.zeros((4, 4), np.uint8))


def test_categories() -> None:
    names = imagenet_categories()
    assert len(names) == 1000
    assert (names[0], names[285], names[967], names[999]) == (
        "tench",
        "Egyptian cat",
        "espresso",
        "toilet tissue",
    )
