"""Run by `torchrun` and by tests as a process of its own: trains a small network on small data.

python processes.py OUTPUT plain|norm [--resume] [--kill-at STEP]

`plain` has nothing random or per process (BatchNorm, dropout), so that any number of processes must
end with the same weights but for rounding; `norm` has both.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import torch

from tests.train.data import Halves, small_network
from weebill.train import Callback, Epoch, Recipe, fit


class Killer(Callback):
    """Ends this process as a power cut would, after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, step: int, loss: float, lr: float) -> None:
        if step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(
    output: Path, kind: str, *, resume: bool = False, kill_at: int = 0, epochs: int = 4
) -> list[Epoch]:
    """Six steps an epoch."""
    recipe = Recipe(
        epochs=epochs,
        batch_size=16,
        flip=0.0,
        lr=0.01,
        mixup=0.3 if kind == "norm" else 0.0,
        seed=5,
    )
    return fit(
        small_network(norm=kind == "norm"),
        Halves(96 + 7),
        Halves(41, seed=1),
        recipe,
        output=output,
        resume=resume,
        callbacks=[Killer(kill_at)],
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("kind", choices=["plain", "norm"])
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at", type=int, default=0)
    options = parser.parse_args()
    train(options.output, options.kind, resume=options.resume, kill_at=options.kill_at)
