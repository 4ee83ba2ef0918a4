"""Augmentation: formulas, targets, and that randomness is the seed's."""

from __future__ import annotations

import pytest
import torch

from weebill.train import Augmentation, Recipe, cutmix, mixup

PLAIN = {"flip": 0.0}


def batch(count: int = 16, channels: int = 3, size: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8)
    return images, torch.arange(count) % 4


def make(channels: int = 3, **settings: object) -> Augmentation:
    recipe = Recipe(**{**PLAIN, **settings})  # type: ignore[arg-type]
    return Augmentation(recipe, mean=(0.5,) * channels, std=(0.25,) * channels, num_classes=4)


def test_nothing_is_only_normalised() -> None:
    images, labels = batch()
    x, y = make()(images, labels)
    torch.testing.assert_close(x, (images / 255 - 0.5) / 0.25)
    assert torch.equal(y.argmax(1), labels)
    assert torch.equal(y.sum(1), torch.ones(16))


def test_mixup_blends_images_and_targets_alike() -> None:
    # Images that are their targets show whether both were mixed alike.
    y = torch.eye(8)
    x = y.view(8, 8, 1, 1).expand(8, 8, 5, 5)
    mixed, targets = mixup(x, y, alpha=1.0)
    torch.testing.assert_close(mixed, targets.view(8, 8, 1, 1).expand_as(mixed))
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert (mixed != x).any()


def test_cutmix_targets_are_the_shares_of_pixels() -> None:
    y = torch.eye(8)
    x = y.view(8, 8, 1, 1).expand(8, 8, 9, 13)
    changed = 0
    for _ in range(40):
        mixed, targets = cutmix(x, y, alpha=1.0)
        torch.testing.assert_close(mixed.mean((2, 3)), targets)
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}
        changed += int((mixed != x).any())
    assert changed > 10
    assert torch.equal(x.amax((2, 3)), y)


def test_mixup_and_cutmix_take_turns() -> None:
    images = torch.zeros(8, 3, 10, 10, dtype=torch.uint8)
    images[4:] = 255
    augment = make(mixup=1.0, cutmix=1.0)
    blended = set()
    for _ in range(40):
        x, _ = augment(images, torch.arange(8) % 4)
        if len(x.unique()) > 1:
            blended.add(bool((x.abs() < 2 - 1e-3).any()))
    assert blended == {True, False}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"crop_padding": 3},
        {"flip": 1.0},
        {"colour": 0.4},
        {"rand_augment": 2},
        {"random_erasing": 1.0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_transforms_follow_the_seed(channels: int, settings: dict[str, float]) -> None:
    pytest.importorskip("kornia")
    images, labels = batch(channels=channels)
    augment = make(channels, **settings)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        x, y = augment(images, labels)
        assert x.shape == images.shape
        assert x.dtype == torch.float32
        assert torch.isfinite(x).all()
        assert torch.equal(y.argmax(1), labels)
        results.append(x)
    assert torch.equal(results[0], results[1])
    if "flip" not in settings:
        assert not torch.equal(results[0], results[2])
    plain, _ = make(channels)(images, labels)
    assert not torch.allclose(results[0], plain)


def test_flip_mirrors() -> None:
    pytest.importorskip("kornia")
    images, labels = batch()
    x, _ = make(flip=1.0)(images, labels)
    torch.testing.assert_close(x, ((images / 255 - 0.5) / 0.25).flip(-1))


def test_a_crop_moves_every_image_by_itself() -> None:
    pytest.importorskip("kornia")
    images = torch.zeros(64, 1, 11, 11, dtype=torch.uint8)
    images[:, :, 5, 5] = 255
    x, _ = make(1, crop_padding=2)(images, torch.zeros(64, dtype=torch.int64))
    places = [tuple((image[0] > 1).nonzero()[0].tolist()) for image in x]
    assert len(set(places)) > 5
    assert all(3 <= row <= 7 and 3 <= column <= 7 for row, column in places)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("label_smoothing", 1.0),
        ("ema_decay", -0.1),
        ("warmup_epochs", 10.0),
        ("flip", 1.5),
        ("rand_magnitude", 30),
        ("norm_momentum", 0.0),
        ("optimizer", "lamb"),
        ("precision", "float16"),
        ("mixup", float("inf")),
        ("seed", -1),
    ],
)
def test_settings_out_of_range(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"Recipe: {setting} must .*, got"):
        Recipe(**{setting: value})  # type: ignore[arg-type]
