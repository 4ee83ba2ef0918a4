"""Weights that were trained in Keras, for networks of ours that have a Keras original."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    import h5py

Arrays: TypeAlias = list[NDArray[Any]]

# Keras' class -> the name that its layers get in a file.
_GROUPS = {"Conv2D": "conv2d", "DepthwiseConv2D": "depthwise_conv2d", "Dense": "dense"}
# Axes of a kernel -> (output, input, height, width).
_AXES = {"Conv2D": (3, 2, 0, 1), "DepthwiseConv2D": (2, 3, 0, 1), "Dense": (1, 0)}


def load_keras_weights(
    model: nn.Module, weights: Sequence[NDArray[Any]] | str | os.PathLike[str]
) -> None:
    """Loads the weights of a Keras model into the same network here, all or nothing.

    Kernels change their axes: Conv2D (h, w, in, out) -> (out, in, h, w), DepthwiseConv2D
    (h, w, channels, 1) -> (channels, 1, h, w), Dense (in, out) -> (out, in).

    Args:
        model: A network with a Keras original (`mobilenet_v3_small_simplified`).
        weights: What Keras' `model.get_weights()` gives; or a file: `.weights.h5` of Keras 3 (or
            an `.h5` of Keras 2) as `model.save_weights` writes it, or `.npz` as
            `numpy.savez(path, *model.get_weights())` does.

    Raises:
        TypeError: the model has no Keras original, or `weights` is neither arrays nor a path.
        ValueError: a count, shape or file does not fit; the model is as before.
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: it is an h5 file and h5py is not installed (`weebill[keras]`).
    """
    layers: Sequence[tuple[str, str]] | None = getattr(model, "keras_layers", list)()
    if not layers:
        raise TypeError(
            "load_keras_weights: model must be a network with a Keras original "
            f"(mobilenet_v3_small_simplified), got {type(model).__name__}"
        )
    if isinstance(weights, str | os.PathLike):
        arrays = _read(Path(weights), [kind for kind, _ in layers])
    elif isinstance(weights, Sequence):
        arrays = [np.asarray(array) for array in weights]
    else:
        raise TypeError(
            "load_keras_weights: weights must be a list of arrays or a path, "
            f"got {type(weights).__name__}"
        )
    if len(arrays) != 2 * len(layers):
        raise ValueError(
            f"load_keras_weights: weights must be {2 * len(layers)} arrays, a kernel and a bias "
            f"for each of {len(layers)} layers, got {len(arrays)}"
        )
    new: list[tuple[Tensor, Tensor]] = []
    for index, (kind, path) in enumerate(layers):
        module = model.get_submodule(path)
        kernel, bias = arrays[2 * index : 2 * index + 2]
        for name, array in (("weight", _torch_axes(kind, kernel)), ("bias", bias)):
            parameter = getattr(module, name)
            if array.dtype.kind != "f":
                raise ValueError(
                    f"load_keras_weights: weights must be floating point, got {array.dtype} for "
                    f"{path}.{name}"
                )
            # A 1 x 1 convolution here may be a linear layer there, and the other way round.
            fits = _without_ones(array.shape) == _without_ones(parameter.shape)
            if array.size != parameter.numel() or not fits:
                raise ValueError(
                    f"load_keras_weights: {kind} number {index} must fit {path}.{name} "
                    f"{tuple(parameter.shape)}, got an array of {array.shape} in torch's order"
                )
            value = torch.from_numpy(np.array(array, order="C"))
            new.append((parameter, value.reshape(parameter.shape)))
    with torch.no_grad():
        for parameter, value in new:
            parameter.copy_(value)


def _torch_axes(kind: str, kernel: NDArray[Any]) -> NDArray[Any]:
    axes = _AXES[kind]
    # of another number of axes: it fits nothing, which is told with its shape
    return kernel.transpose(axes) if kernel.ndim == len(axes) else kernel


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape less a 1 x 1 window at its end."""
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)


def _read(path: Path, kinds: Sequence[str]) -> Arrays:
    if path.is_dir():
        raise IsADirectoryError(f"load_keras_weights: weights must be a file, got '{path}'")
    if not path.exists():
        raise FileNotFoundError(
            f"load_keras_weights: weights must be an existing file, got '{path}'"
        )
    with path.open("rb") as file:
        start = file.read(8)
    try:
        if start.startswith(b"PK\x03\x04"):
            return _read_npz(path)
        if start == b"\x89HDF\r\n\x1a\n":
            return _read_h5(path, kinds)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"load_keras_weights: weights must be an intact file of Keras, got '{path}' ({reason})"
        ) from None
    raise ValueError(
        f"load_keras_weights: weights must be an h5 or npz file, got '{path}' of another kind"
    )


def _read_npz(path: Path) -> Arrays:
    # opened here: numpy leaves a damaged file open
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        numbers = {name: re.fullmatch(r"arr_(\d+)", name) for name in file.files}
        odd = [name for name, number in numbers.items() if number is None]
        if odd:
            raise ValueError(f"its arrays must be arr_0, arr_1 ..., got {odd[0]}")
        order = sorted(file.files, key=lambda name: int(name.removeprefix("arr_")))
        return [file[name] for name in order]


def _read_h5(path: Path, kinds: Sequence[str]) -> Arrays:
    try:
        import h5py
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"load_keras_weights: '{path}' is an h5 file; pip install h5py", name="h5py"
        ) from None
    with h5py.File(path, "r") as file:
        if "layer_names" in file.attrs:
            return _keras_2(file)
        return _keras_3(file, kinds)


def _keras_2(file: h5py.File) -> Arrays:
    """Layers and weights in the order that attributes tell."""
    arrays: Arrays = []
    for layer in file.attrs["layer_names"]:
        group = file[_text(layer)]
        arrays += [np.asarray(group[_text(name)]) for name in group.attrs["weight_names"]]
    return arrays


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _keras_3(file: h5py.File, kinds: Sequence[str]) -> Arrays:
    """A group per layer, named by its class and, from the second on, numbered: conv2d, conv2d_1."""
    if "layers" not in file:
        raise ValueError("it has no group 'layers'")
    groups = file["layers"]
    # Numbers count the layers of the model in memory, or all that the process has made.
    numbered: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in groups:
        base, _, number = name.rpartition("_")
        if number.isdigit():
            numbered[base].append((int(number), name))
        else:
            numbered[name].append((0, name))
    arrays: Arrays = []
    queues = {kind: [name for _, name in sorted(numbered[g])] for kind, g in _GROUPS.items()}
    for kind in kinds:
        if not queues[kind]:
            raise ValueError(f"it has fewer than {kinds.count(kind)} layers {_GROUPS[kind]}")
        variables = groups[queues[kind].pop(0)]["vars"]
        arrays += [np.asarray(variables[key]) for key in sorted(variables, key=int)]
    left = [name for names in queues.values() for name in names]
    if left:
        raise ValueError(f"its layer {left[0]} is none of the model")
    return arrays
