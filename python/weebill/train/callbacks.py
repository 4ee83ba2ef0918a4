"""Who wants to know how a training goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from weebill.train.recipe import Recipe

__all__ = ["Callback", "Epoch", "TensorBoard"]


@dataclass(frozen=True)
class Epoch:
    """What was measured in and after an epoch.

    Attributes:
        epoch: Its number, from 1.
        train_loss: Mean of its steps, on augmented images with smoothed labels.
        lr: Learning rate of its last step.
        accuracy, accuracy5, loss: Of the converted network on the test images; of the moving
            average, where there is one.
        seconds: Wall-clock time with the evaluation.
    """

    epoch: int
    train_loss: float
    lr: float
    accuracy: float
    accuracy5: float
    loss: float
    seconds: float


class Callback:
    """Base of what listens to a training, in the main process; every method may be overridden."""

    def on_start(self, recipe: Recipe, *, steps: int, epochs_done: int) -> None:
        """Before the first step: steps per epoch, and epochs that were done before."""

    def on_step(self, step: int, loss: float, lr: float) -> None:
        """After every step, counted from 1 over the whole training."""

    def on_epoch(self, epoch: Epoch) -> None:
        """After every epoch's checkpoint is written."""

    def on_end(self) -> None:
        """At the end, whether it is reached or an error ends the training."""


class TensorBoard(Callback):
    """Writes scalars for TensorBoard.

    Args:
        folder: For its event files.
        interval: Steps between two values of the training loss.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, interval: int = 20) -> None:
        # The import itself, so that its absence is told before the training.
        from torch.utils.tensorboard import SummaryWriter

        self._make = SummaryWriter
        self._folder = folder
        self._interval = interval
        self._steps = 0

    def on_start(self, recipe: Recipe, *, steps: int, epochs_done: int) -> None:
        self._steps = steps
        # Hides what a killed run had written beyond its checkpoint.
        self._writer = self._make(str(self._folder), purge_step=epochs_done * steps + 1)

    def on_step(self, step: int, loss: float, lr: float) -> None:
        if step % self._interval == 0:
            self._writer.add_scalar("train/loss", loss, step)
            self._writer.add_scalar("train/lr", lr, step)

    def on_epoch(self, epoch: Epoch) -> None:
        step = epoch.epoch * self._steps
        for name in ("accuracy", "accuracy5", "loss"):
            self._writer.add_scalar(f"test/{name}", getattr(epoch, name), step)
        self._writer.add_scalar("train/epoch_loss", epoch.train_loss, step)
        self._writer.flush()

    def on_end(self) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()
