"""Accuracy of the network that will run: the converted one."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

import weebill
from weebill.data import ImageClassification
from weebill.train.datasets import LabelledImages, collate
from weebill.train.distributed import World, sum_over_processes

__all__ = ["Evaluation", "evaluate", "normalise"]


@dataclass(frozen=True)
class Evaluation:
    """How well a network does.

    Attributes:
        accuracy: Share of images whose first class is right.
        accuracy5: Share of images whose class is among the first five.
        loss: Mean cross-entropy, without label smoothing.
        images: How many there were.
    """

    accuracy: float
    accuracy5: float
    loss: float
    images: int


def normalise(images: Tensor, preset: ImageClassification) -> Tensor:
    """uint8 (N, C, H, W) to the network's input."""
    mean = torch.tensor(preset.mean).view(-1, 1, 1)
    std = torch.tensor(preset.std).view(-1, 1, 1)
    return (images.float() / 255 - mean) / std


def evaluate(
    model: nn.Module,
    data: LabelledImages,
    *,
    fused: bool = True,
    batch_size: int = 100,
    workers: int = 0,
    world: World | None = None,
) -> Evaluation:
    """Measures a network on labelled images.

    Args:
        model: Maps (N, C, H, W) to (N, classes); it is not changed.
        data: The images; each process takes its share.
        fused: Measure `weebill.convert(model)`, else the model in evaluation mode as it is.
        batch_size: Images at a time.
        workers: Processes that read images.
        world: The processes that work on it together.

    Raises:
        ValueError: there are no images.
    """
    world = world or World()
    if len(data) == 0:
        raise ValueError("evaluate: data must hold images, got none")
    was_training = model.training
    model.eval()
    network = weebill.convert(model) if fused else model
    share = Subset(cast(Dataset[Any], data), range(world.rank, len(data), world.size))
    loader = DataLoader(share, batch_size=batch_size, num_workers=workers, collate_fn=collate)
    right = right5 = loss = 0.0
    with torch.inference_mode():
        for images, labels in loader:
            logits = network(normalise(images, data.preset))
            top = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hits = top == labels[:, None]
            right += float(hits[:, 0].sum())
            right5 += float(hits.any(dim=1).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    model.train(was_training)
    right, right5, loss, count = sum_over_processes(
        [right, right5, loss, len(cast(Sized, share))], world
    )
    return Evaluation(right / count, right5 / count, loss / count, int(count))
