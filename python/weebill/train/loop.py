"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from weebill.models import save_weights
from weebill.nn import keep_freed_memory
from weebill.train.augment import Augmentation
from weebill.train.callbacks import Callback, Epoch
from weebill.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from weebill.train.datasets import LabelledImages, collate
from weebill.train.distributed import World, parallel, process_group, sum_over_processes
from weebill.train.evaluation import evaluate
from weebill.train.optim import make_average, make_optimizer, make_scheduler
from weebill.train.recipe import Recipe

__all__ = ["fit"]

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "model.safetensors"


def fit(
    model: nn.Module,
    train: LabelledImages,
    test: LabelledImages,
    recipe: Recipe,
    *,
    output: str | Path,
    resume: bool = False,
    arguments: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    half: bool = False,
    workers: int = 0,
    callbacks: Sequence[Callback] = (),
) -> list[Epoch]:
    """Trains a classification network, and writes a checkpoint and weights after every epoch.

    A training that was killed goes on with `resume=True` after its last whole epoch, and ends with
    the same weights, bit for bit, on the same machine with the same number of threads. Started by
    `torchrun`, the processes share every batch (DistributedDataParallel over gloo).

    Args:
        model: Maps (N, C, H, W) to (N, classes), with float32 parameters on the CPU; it is trained
            in place; the weights' moving average, if the recipe has one, is in the file only.
        train, test: The images.
        recipe: What to do.
        output: A folder for `checkpoint.pt` and `model.safetensors`; it is made. The latter is for
            `weights=`: the moving average, if there is one, with arguments, preset and meta.
        resume: Go on from the folder's checkpoint.
        arguments: Of the model's function, to be stored with the weights.
        meta: To be stored with the weights, besides categories, accuracy and recipe.
        half: Store the weights in float16; see `weebill.models.save_weights`.
        workers: Processes that read images; 0 reads them in this one.
        callbacks: Called in the main process.

    Returns:
        What was measured, one entry per epoch, those before a resume too.

    Raises:
        ValueError: the datasets do not fit the recipe or each other, the folder has a checkpoint
            and `resume` is not set, the checkpoint is of another recipe, or the loss is no longer
            finite.
        FileNotFoundError: `resume` is set, and there is no checkpoint.
        OSError: the folder cannot be written to.
    """
    keep_freed_memory()
    with process_group() as world:
        _check(train, test, recipe, world)
        folder = Path(output)
        checkpoint = _start(folder, recipe, world, resume)
        _prepare(model, recipe)
        epochs_done = checkpoint.epoch if checkpoint else 0
        history = [Epoch(**entry) for entry in checkpoint.history] if checkpoint else []  # type: ignore[arg-type]
        listeners = callbacks if world.is_main else ()
        augment = Augmentation(
            recipe,
            mean=train.preset.mean,
            std=train.preset.std,
            num_classes=len(train.classes),
        )
        with (
            parallel(model, world) as network,
            _told(listeners, recipe, len(train) // recipe.batch_size, epochs_done),
        ):
            state = _State.make(model, network, recipe, len(train), world)
            if checkpoint is not None:
                state.restore(checkpoint)
            for number in range(epochs_done + 1, recipe.epochs + 1):
                start = time.perf_counter()
                _seed(recipe.seed, number, world.rank)
                loss, lr = _epoch(state, train, augment, number, workers, listeners)
                measured = evaluate(state.result, test, workers=workers, world=world)
                history.append(
                    Epoch(
                        epoch=number,
                        train_loss=loss,
                        lr=lr,
                        accuracy=measured.accuracy,
                        accuracy5=measured.accuracy5,
                        loss=measured.loss,
                        seconds=time.perf_counter() - start,
                    )
                )
                if world.is_main:
                    facts = {**(meta or {}), "recipe": dataclasses.asdict(recipe)}
                    _write(folder, state, history, train, arguments or {}, facts, half)
                for listener in listeners:
                    listener.on_epoch(history[-1])
    return history


def _check(train: LabelledImages, test: LabelledImages, recipe: Recipe, world: World) -> None:
    if train.classes != test.classes:
        raise ValueError("train: test must have the classes of train")
    if len(test) == 0:
        raise ValueError("train: test must hold images, got none")
    if recipe.batch_size % world.size:
        raise ValueError(
            f"train: batch_size must be a multiple of the {world.size} processes, "
            f"got {recipe.batch_size}"
        )
    if len(train) < recipe.batch_size:
        raise ValueError(
            f"train: batch_size must not exceed the {len(train)} training images, "
            f"got {recipe.batch_size}"
        )


def _start(folder: Path, recipe: Recipe, world: World, resume: bool) -> Checkpoint | None:
    """Makes the folder, or reads what is in it."""
    path = folder / CHECKPOINT
    if resume:
        if world.is_main:
            # What a run that was killed while it wrote has left.
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)
        return load_checkpoint(path, recipe, world.size)
    if path.exists():
        raise ValueError(
            f"train: output must have no checkpoint, got '{folder}'; resume it or take another"
        )
    if world.size > 1:
        # None may make the file before all have looked for it.
        torch.distributed.barrier()
    folder.mkdir(parents=True, exist_ok=True)
    return None


def _prepare(model: nn.Module, recipe: Recipe) -> None:
    """What must be before the processes agree on the parameters."""
    if recipe.norm_momentum is not None:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = recipe.norm_momentum
    # Depthwise convolutions train faster in this layout.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclasses.dataclass
class _State:
    """What changes from step to step."""

    recipe: Recipe
    world: World
    steps: int
    model: nn.Module
    parallel: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    average: AveragedModel | None

    @classmethod
    def make(
        cls, model: nn.Module, network: nn.Module, recipe: Recipe, images: int, world: World
    ) -> _State:
        steps = images // recipe.batch_size
        optimizer = make_optimizer(model, recipe)
        return cls(
            recipe=recipe,
            world=world,
            steps=steps,
            model=model,
            parallel=network,
            optimizer=optimizer,
            scheduler=make_scheduler(
                optimizer,
                warmup_steps=round(recipe.warmup_epochs * steps),
                total_steps=recipe.epochs * steps,
            ),
            average=make_average(model, recipe),
        )

    @property
    def result(self) -> nn.Module:
        """The network that is measured and written."""
        return self.average.module if self.average is not None else self.model

    def restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.scheduler.load_state_dict(checkpoint.scheduler)
        if self.average is not None and checkpoint.average is not None:
            self.average.load_state_dict(checkpoint.average)

    def step(self, images: Tensor, targets: Tensor) -> float:
        """One step; returns the loss."""
        recipe = self.recipe
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            logits = self.parallel(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise ValueError(
                f"train: loss must be finite, got {value} at learning rate "
                f"{self.optimizer.param_groups[0]['lr']:.2g}; lower lr or set clip_grad_norm"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip_grad_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_grad_norm)
        self.optimizer.step()
        if self.average is not None:
            if self.scheduler.last_epoch < recipe.warmup_epochs * self.steps:
                # An average that has seen nothing takes the weights as they are.
                self.average.n_averaged.zero_()
            self.average.update_parameters(self.model)
        self.scheduler.step()
        return value


def _epoch(
    state: _State,
    data: LabelledImages,
    augment: Augmentation,
    number: int,
    workers: int,
    listeners: Sequence[Callback],
) -> tuple[float, float]:
    """All steps of one epoch; (mean loss over all processes, last learning rate)."""
    recipe, world = state.recipe, state.world
    sampler: DistributedSampler[Any] = DistributedSampler(
        data, num_replicas=world.size, rank=world.rank, seed=recipe.seed, drop_last=True
    )
    sampler.set_epoch(number)
    loader = DataLoader(
        data,
        batch_size=recipe.batch_size // world.size,
        sampler=sampler,
        num_workers=workers,
        drop_last=True,
        collate_fn=collate,
    )
    state.parallel.train()
    total, lr = 0.0, 0.0
    for step, (images, labels) in zip(range(1, state.steps + 1), loader, strict=False):
        lr = float(state.optimizer.param_groups[0]["lr"])
        loss = state.step(*augment(images, labels))
        total += loss
        for listener in listeners:
            listener.on_step((number - 1) * state.steps + step, loss, lr)
    (total,) = sum_over_processes([total], world)
    return total / (state.steps * world.size), lr


def _seed(seed: int, epoch: int, rank: int) -> None:
    """Starts all generators anew; the streams of epochs and processes have nothing in common."""
    streams = np.random.SeedSequence([seed, epoch, rank]).generate_state(3)
    torch.manual_seed(int(streams[0]))
    np.random.seed(int(streams[1]))
    random.seed(int(streams[2]))


def _write(
    folder: Path,
    state: _State,
    history: Sequence[Epoch],
    data: LabelledImages,
    arguments: Mapping[str, Any],
    meta: Mapping[str, Any],
    half: bool,
) -> None:
    """The weights, then the checkpoint: a resumed training writes newer weights in any case."""
    last = history[-1]
    facts = {
        **meta,
        "categories": list(data.classes),
        "acc@1": round(100 * last.accuracy, 3),
        "acc@5": round(100 * last.accuracy5, 3),
        "num_params": sum(p.numel() for p in state.model.parameters()),
        "epoch": last.epoch,
    }
    save_weights(
        folder / WEIGHTS,
        state.result.state_dict(),
        arguments=arguments,
        preset=data.preset,
        meta=facts,
        half=half,
    )
    save_checkpoint(
        folder / CHECKPOINT,
        Checkpoint(
            recipe=dataclasses.asdict(state.recipe),
            processes=state.world.size,
            epoch=last.epoch,
            model=state.model.state_dict(),
            optimizer=state.optimizer.state_dict(),
            scheduler=state.scheduler.state_dict(),
            average=state.average.state_dict() if state.average is not None else None,
            history=[dataclasses.asdict(entry) for entry in history],
        ),
    )


@contextlib.contextmanager
def _told(
    listeners: Sequence[Callback], recipe: Recipe, steps: int, epochs_done: int
) -> Iterator[None]:
    try:
        for listener in listeners:
            listener.on_start(recipe, steps=steps, epochs_done=epochs_done)
        yield
    finally:
        for listener in listeners:
            listener.on_end()
