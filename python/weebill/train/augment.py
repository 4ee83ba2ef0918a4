"""Augmentation of whole batches: kornia's transforms, and mixup and CutMix.

kornia is the library because it is kept up, runs on batches of tensors, and imports beside any
torch (torchvision's transforms need its native part, which fits one torch only). Its mixup draws
from a uniform distribution only; the published ones draw from a beta distribution: both are here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from weebill.train.recipe import Recipe

__all__ = ["Augmentation", "cutmix", "mixup"]

# kornia's RandAugment draws its operations once per call, for all images of it.
_RAND_AUGMENT_GROUP = 8


class Augmentation:
    """Changes a batch of training images, and makes their targets.

    Args:
        recipe: What to do.
        mean, std: Per channel, of the normalisation that follows.
        num_classes: Length of a target.

    Shapes: uint8 images (N, C, H, W) and labels (N,) -> normalised float32 images (N, C, H, W) and
        targets (N, num_classes), each a distribution over the classes.

    Random numbers come from torch's global generator.

    Raises:
        ModuleNotFoundError: the recipe needs kornia, and it is not installed.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        num_classes: int,
    ) -> None:
        self._mixes: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
        if recipe.mixup > 0:
            self._mixes.append(lambda x, y: mixup(x, y, alpha=recipe.mixup))
        if recipe.cutmix > 0:
            self._mixes.append(lambda x, y: cutmix(x, y, alpha=recipe.cutmix))
        self._num_classes = num_classes
        self._mean = torch.tensor(mean).view(-1, 1, 1)
        self._std = torch.tensor(std).view(-1, 1, 1)
        self._crop_padding = recipe.crop_padding
        self._pixels = _pixel_transforms(recipe, channels=len(mean))
        self._erase = _erasing(recipe)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        x = images.float() / 255
        for transform in self._pixels:
            x = transform(x)
        x = (x - self._mean) / self._std
        # Erased is what the mean is: 0 after normalisation.
        x = self._erase(x)
        y = F.one_hot(labels, self._num_classes).to(x.dtype)
        if self._mixes:
            chosen = int(torch.randint(len(self._mixes), ()))
            x, y = self._mixes[chosen](x, y)
        return x, y


def _pixel_transforms(recipe: Recipe, *, channels: int) -> list[Callable[[Tensor], Tensor]]:
    """What is done to images in [0, 1], in order."""
    transforms: list[Callable[[Tensor], Tensor]] = []
    wanted = recipe.crop_padding or recipe.flip or recipe.colour or recipe.rand_augment
    if not wanted:
        return transforms
    from kornia import augmentation as kornia

    if recipe.crop_padding:
        transforms.append(_random_crop(recipe.crop_padding))
    if recipe.flip:
        transforms.append(kornia.RandomHorizontalFlip(p=recipe.flip))
    if recipe.colour:
        # Saturation means nothing in a grey image, and kornia's wants three channels.
        saturation = recipe.colour if channels == 3 else 0.0
        strength = recipe.colour
        transforms.append(kornia.ColorJiggle(strength, strength, saturation, 0.0))
    if recipe.rand_augment:
        from kornia.augmentation.auto import RandAugment

        augment = RandAugment(n=recipe.rand_augment, m=recipe.rand_magnitude)
        transforms.append(
            lambda x: torch.cat([augment(group) for group in torch.split(x, _RAND_AUGMENT_GROUP)])
        )
    return transforms


def _random_crop(padding: int) -> Callable[[Tensor], Tensor]:
    """A crop of the images' own size, at a place of its own for each, from padded images."""
    from kornia.augmentation import RandomCrop

    crops: dict[tuple[int, int], RandomCrop] = {}

    def crop(x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        if size not in crops:
            crops[size] = RandomCrop(size, padding=padding, cropping_mode="slice")
        y: Tensor = crops[size](x)
        return y

    return crop


def _erasing(recipe: Recipe) -> Callable[[Tensor], Tensor]:
    if not recipe.random_erasing:
        return lambda x: x
    from kornia.augmentation import RandomErasing

    erase: Callable[[Tensor], Tensor] = RandomErasing(p=recipe.random_erasing, value=0.0)
    return erase


def mixup(x: Tensor, y: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
    """Blends every image and target with another one of the batch.

        x' = l x + (1 - l) x[p],  y' = l y + (1 - l) y[p],  l ~ Beta(alpha, alpha)

    with one l and one permutation p per batch.

    Source: Zhang et al., mixup, arXiv:1710.09412, section 2.
    """
    share = _beta(alpha)
    other = torch.randperm(len(x))
    return x.lerp(x[other], 1 - share), y.lerp(y[other], 1 - share)


def cutmix(x: Tensor, y: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
    """Puts a rectangle of another image of the batch into every image.

    The rectangle has the shape of the image, its centre is uniform, its area 1 - l of the image
    with l ~ Beta(alpha, alpha) where it is not cut at an edge; the targets are blended by the areas
    that are there.

    Source: Yun et al., CutMix, arXiv:1905.04899, section 3.1.
    """
    height, width = x.shape[-2:]
    side = (1 - _beta(alpha)) ** 0.5
    centre_y, centre_x = (int(torch.randint(size, ())) for size in (height, width))
    half_y, half_x = round(height * side / 2), round(width * side / 2)
    rows = slice(max(centre_y - half_y, 0), min(centre_y + half_y, height))
    columns = slice(max(centre_x - half_x, 0), min(centre_x + half_x, width))
    other = torch.randperm(len(x))
    mixed = x.clone()
    mixed[..., rows, columns] = x[other][..., rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, y.lerp(y[other], area / (height * width))


def _beta(alpha: float) -> float:
    return float(torch.distributions.Beta(alpha, alpha).sample())
