"""Weight files that say what they are: safetensors with a JSON description in the header."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weebill.data import ImageClassification

__all__ = ["read_description", "replace_file", "save_weights"]

# Of the header's text values.
_KEY = "weebill"
# No argument and no size is larger; a hostile file must not ask for a network that fills memory.
_LARGEST = 10_000


def save_weights(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    *,
    arguments: Mapping[str, Any] | None = None,
    preset: ImageClassification | None = None,
    meta: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Writes weights with what is needed to use them; `weights=path` then takes all of it.

    The file is whole or not there at any moment: it is written under another name and renamed.

    Args:
        path: The file, by custom `.safetensors`.
        state_dict: The tensors.
        arguments: Of the model's function, where they are not its defaults: `width_mult` ...
        preset: How to prepare the input.
        meta: What `Weights.meta` may have: categories, acc@1, license ...; JSON values.
        half: Store what has more than one dimension in float16, which halves the file. Models
            load it into float32. Biases and BatchNorm's statistics, whose range is wide, stay.

    Raises:
        OSError: the file cannot be written.
        ModuleNotFoundError: safetensors is not installed.
    """
    from safetensors.torch import save

    description = {
        "arguments": dict(arguments or {}),
        "preset": dataclasses.asdict(preset or ImageClassification()),
        "meta": dict(meta or {}),
    }
    tensors = {
        key: value.detach().to(torch.float16 if half and value.ndim > 1 else value.dtype)
        for key, value in state_dict.items()
    }
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    content = save(tensors, {_KEY: json.dumps(description, sort_keys=True)})
    replace_file(path, lambda file: file.write(content))


def replace_file(path: str | os.PathLike[str], write: Any) -> None:
    """Replaces a file by what `write(file)` writes, so that it is the old or the new one, whole,
    even if the process or the machine dies in between.

    Raises:
        OSError: the folder cannot be written to, or is full.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's files are private; these are files like any other.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_description(
    path: Path,
) -> tuple[dict[str, Any], ImageClassification, dict[str, Any]] | None:
    """(arguments, preset, meta) of a file that `save_weights` wrote; None for any other file.

    Raises:
        ValueError: there is a description, and it is damaged.
    """
    # What is wrong with the file, or with the installation, is told when the tensors are read.
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        return None
    try:
        with safe_open(path, "pt") as opened:
            text = (opened.metadata() or {}).get(_KEY)
    except (OSError, SafetensorError):
        return None
    if text is None:
        return None
    try:
        description = json.loads(text)
        arguments, meta = dict(description["arguments"]), dict(description["meta"])
        preset = description["preset"]
        preset = ImageClassification(
            **{
                **preset,
                "mean": tuple(map(float, preset["mean"])),
                "std": tuple(map(float, preset["std"])),
            }
        )
        numbers = [*arguments.values(), preset.crop_size, preset.resize_size]
        if not all(isinstance(value, int | float) and 0 <= value <= _LARGEST for value in numbers):
            raise TypeError(f"arguments and sizes must be numbers up to {_LARGEST}")
        names = meta.get("categories", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("categories must be names")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"weights: the description in '{path}' must be one that weebill wrote ({error})"
        ) from None
    return arguments, preset, meta
