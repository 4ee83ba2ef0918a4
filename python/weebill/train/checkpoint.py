"""A training's state between two epochs: written whole or not at all, read without running code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from weebill.models._metadata import replace_file
from weebill.train.recipe import Recipe

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

_FORMAT = 1


@dataclasses.dataclass
class Checkpoint:
    """What the next epoch needs.

    Random numbers are no part of it: every epoch starts its generators from the recipe's seed and
    its own number.

    Attributes:
        recipe: The settings; a training is resumed with the same ones only.
        processes: How many there were; their number changes the result as well.
        epoch: Epochs that are done.
        model, optimizer, scheduler, average: State dicts; `average` is None without EMA.
        history: What was measured after every epoch.
    """

    recipe: dict[str, Any]
    processes: int
    epoch: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    average: dict[str, Any] | None
    history: list[dict[str, float]]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the file.

    Raises:
        OSError: it cannot be written; the file of the epoch before is still there.
    """
    content = {"format": _FORMAT, **vars(checkpoint)}
    replace_file(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path, recipe: Recipe, processes: int) -> Checkpoint:
    """Reads a checkpoint of this recipe.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no intact checkpoint, or of another recipe or number of processes;
            the message names the first difference.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        assert content.pop("format") == _FORMAT
        checkpoint = Checkpoint(**content)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"train: resume needs a checkpoint, and there is no '{path}'"
        ) from None
    # Damage shows as RuntimeError, EOFError, UnpicklingError, KeyError, TypeError ...
    except Exception:
        raise ValueError(f"train: checkpoint must be one of weebill's, got '{path}'") from None
    for name, value in dataclasses.asdict(recipe).items():
        if checkpoint.recipe.get(name) != value:
            raise ValueError(
                f"train: {name} must be {checkpoint.recipe.get(name)} to resume '{path}', "
                f"got {value}"
            )
    if checkpoint.processes != processes:
        raise ValueError(
            f"train: processes must be {checkpoint.processes} to resume '{path}', got {processes}"
        )
    return checkpoint
