"""`weebill train`: trains a classification network on a folder of images or on Fashion-MNIST."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json as json_format
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weebill.cli._output import print_json, print_line
from weebill.data import ImageClassification

if TYPE_CHECKING:
    from weebill.train import Callback, Epoch, LabelledImages, Recipe

__all__ = ["train"]


def _train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder with train/CLASS/IMAGE and val/CLASS/IMAGE, or with the four files of "
            "Fashion-MNIST.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for checkpoint, weights and log.")],
    model: Annotated[
        str, typer.Option(help="A network; 'weebill models' lists them.")
    ] = "mobilenet_v3_small",
    model_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Argument of the network: width_mult=0.5 ..."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Start from these; a file, or a name from 'weebill models'."),
    ] = None,
    image_size: Annotated[
        int, typer.Option(min=1, help="Height and width of the input, for folders of images.")
    ] = 224,
    grey: Annotated[bool, typer.Option("--grey", help="One channel, for folders.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the output folder.")
    ] = False,
    half: Annotated[
        bool, typer.Option("--half", help="Store the weights in float16: half the size.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that read images; 0: none besides this.")
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; if not given, as many as torch takes.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option(help="Write a log for TensorBoard into the output folder.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the epochs as JSON.")] = False,
    **settings: Any,
) -> None:
    """Train a network; `torchrun --nproc-per-node N -m weebill.cli train ...` takes N processes."""
    import torch

    from weebill.models import Classifier, create_model, get_weights
    from weebill.train import Recipe, TensorBoard, fit

    recipe = Recipe(**settings)
    train_data, test_data = _datasets(data, image_size, grey)
    arguments = dict(map(_parse_option, model_option or ()))
    if len(train_data.preset.mean) == 1:
        arguments.setdefault("in_channels", 1)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    classes = len(train_data.classes)
    if weights is None:
        network = create_model(model, num_classes=classes, **arguments)
    else:
        chosen = get_weights(model, weights)
        network = create_model(model, weights=chosen, **arguments)
        arguments = {**chosen.arguments, **arguments}
        if isinstance(network, Classifier) and network.num_classes != classes:
            network.reset_classifier(classes)
    callbacks: list[Callback] = []
    if int(os.environ.get("RANK", "0")) == 0:
        callbacks.append(_progress(quiet=json))
        if tensorboard:
            callbacks.append(TensorBoard(output / "tensorboard"))
    history = fit(
        network,
        train_data,
        test_data,
        recipe,
        output=output,
        resume=resume,
        arguments=arguments,
        meta={"model": model},
        half=half,
        workers=workers,
        callbacks=callbacks,
    )
    if json and callbacks:
        print_json([dataclasses.asdict(epoch) for epoch in history])


def _command() -> Callable[..., None]:
    """`_train` with an option for every setting of a recipe, which says it once for all."""
    from weebill.train.recipe import Recipe

    hints = typing.get_type_hints(Recipe)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[hints[field.name], typer.Option(help=field.metadata["help"])],
        )
        for field in dataclasses.fields(Recipe)
    ]
    signature = inspect.signature(_train, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]

    @functools.wraps(_train)
    def command(*args: Any, **kwargs: Any) -> None:
        _train(*args, **kwargs)

    command.__name__ = "train"
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*own, *options]}
    return command


train = _command()


def _datasets(data: Path, size: int, grey: bool) -> tuple[LabelledImages, LabelledImages]:
    """The training and the test images."""
    from weebill.train import FashionMNIST, ImageFolder, random_resized_crop

    if FashionMNIST.found(data):
        return FashionMNIST(data, "train"), FashionMNIST(data, "test")
    if not data.is_dir():
        raise FileNotFoundError(f"train: DATA must be an existing folder, got '{data}'")
    if not (data / "train").is_dir() or not (data / "val").is_dir():
        raise ValueError(
            f"train: DATA must hold the folders train and val, or Fashion-MNIST, got '{data}'"
        )
    # 256 to 224, as is usual.
    preset = ImageClassification(crop_size=size, resize_size=round(size * 8 / 7))
    if grey:
        preset = dataclasses.replace(preset, mean=_GREY_MEAN, std=_GREY_STD)
    training = ImageFolder(data / "train", preset=preset, transform=random_resized_crop(size))
    return training, ImageFolder(data / "val", preset=preset, classes=training.classes)


# The means over the channels of ImageNet's.
_GREY_MEAN, _GREY_STD = (0.449,), (0.226,)


def _parse_option(text: str) -> tuple[str, Any]:
    """NAME=VALUE; a value that is JSON (0.5, true) is what it says, any other a text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"train: --model-option must be NAME=VALUE, got {text!r}")
    try:
        return name, json_format.loads(value)
    except json_format.JSONDecodeError:
        return name, value


def _progress(quiet: bool) -> Callback:
    """A bar for the steps, on stderr where that is a terminal, and a line for every epoch."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from weebill.train import Callback

    class Shown(Callback):
        def on_start(self, recipe: Recipe, *, steps: int, epochs_done: int) -> None:
            console = Console(stderr=True)
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("loss {task.fields[loss]:.3f}"),
                console=console,
                disable=not console.is_terminal,
            )
            total = recipe.epochs * steps
            self._task = self._bar.add_task(
                "training", total=total, completed=epochs_done * steps, loss=0.0
            )
            self._bar.start()

        def on_step(self, step: int, loss: float, lr: float) -> None:
            self._bar.update(self._task, completed=step, loss=loss)

        def on_epoch(self, epoch: Epoch) -> None:
            if not quiet:
                print_line(
                    f"epoch {epoch.epoch}: top-1 {epoch.accuracy:.2%}, "
                    f"top-5 {epoch.accuracy5:.2%}, loss {epoch.loss:.4f}, "
                    f"training loss {epoch.train_loss:.4f}, lr {epoch.lr:.2e}, "
                    f"{epoch.seconds:.1f} s"
                )

        def on_end(self) -> None:
            if hasattr(self, "_bar"):
                self._bar.stop()

    return Shown()
