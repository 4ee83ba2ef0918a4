"""What the commands that draw on a photo have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import weebill
from weebill.models import Weights, create_model, get_weights, list_models, model_entry

__all__ = ["Task", "load", "output_path"]


@dataclass(frozen=True)
class Task:
    """A fused network that is ready for photos."""

    network: nn.Module
    weights: Weights
    name: str

    def prepare(self, pixels: Any) -> torch.Tensor:
        """The network's input for a photo."""
        return self.weights.transforms()(pixels)

    def label(self, index: int) -> str:
        """The name of a class."""
        known = self.weights.meta.get("categories") or ()
        return str(known[index]) if index < len(known) else f"class {index}"

    def facts(self) -> dict[str, Any]:
        """What ran, for the command's answer."""
        return {
            "model": self.name,
            "weights": str(self.weights),
            "isa": weebill.config.isa(),
            "threads": torch.get_num_threads(),
        }


def load(
    command: str,
    name: str,
    weights: str,
    classes: tuple[type[nn.Module], ...],
    threads: int | None,
) -> Task:
    """The fused network of that name.

    Args:
        command: Who asks, for errors.
        name, weights, threads: The command's options.
        classes: What networks of the task are.

    Raises:
        ValueError: it is a network for another task; weights do not fit.
        OSError: there are no such weights.
    """

    def fits(candidate: str) -> bool:
        with torch.device("meta"):
            try:
                return isinstance(model_entry(candidate).builder(), classes)
            except TypeError:  # a builder of other arguments
                return False

    model_entry(name)
    if not fits(name):
        known = ", ".join(filter(fits, list_models()))
        raise ValueError(f"{command}: model must be one of {known}, got {name!r}")
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = get_weights(name, weights)
    network = weebill.convert(create_model(name, weights=chosen), inplace=True)
    return Task(network, chosen, name)


def output_path(image: Path, out: Path | None, what: str) -> Path:
    """Where the picture goes: what the user says, or NAME-what.png in the current folder."""
    return out if out is not None else Path(f"{image.stem}-{what}.png")
