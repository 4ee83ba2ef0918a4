"""`weebill.save`: a model as a file that runs without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from weebill import _C
from weebill.convert._convert import convert
from weebill.convert.builder import Builder, Network, NotSaved, program_of, recipe_of
from weebill.convert.steps import FUNCTIONS, MODULES
from weebill.data import ImageClassification
from weebill.fusion.fold import fold
from weebill.fusion.layers import NotFusable
from weebill.fusion.pack import Folded
from weebill.fusion.spec import Layer
from weebill.fusion.switch import unfused
from weebill.fusion.symbols import NotTraceable
from weebill.fusion.trace import ShapeInterpreter, ancestors, is_torch_module, trace
from weebill.runtime import _model, nodes
from weebill.runtime.description import FORMAT, Description, Output

#: Largest difference to the model on a random input, relative to the largest value.
_TOLERANCE = 1e-3
_DEFAULT_SIZE = 224


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    input_shape: Sequence[int] | None = None,
    preprocessing: ImageClassification | None = None,
    categories: Sequence[str] | None = None,
    dtype: str | torch.dtype = "float32",
) -> None:
    """Writes a model as one file that `weebill.runtime.load` runs without torch.

    The file holds plain weights with BatchNorm folded in, independent of the instruction set, and
    the list of blocks. It is a safetensors file. What is written is tried on a random
    input before, and must give the result of the model's plain forward.

    Args:
        model: A model, converted or not. Its forward takes one tensor and returns a tensor, or a
            tuple, list or dict of tensors. Between fused blocks it may add, multiply, concatenate,
            split, permute, reshape, pool and interpolate.
        path: The file; one that is there is replaced.
        input_shape: (N, C, H, W) that the model is meant for; others of the same C can be given to
            the loaded model. Default: one image of 224 x 224, or of the preprocessing's size.
        preprocessing: How a photo becomes an input, for `weebill classify`; the `transforms()` of
            the weights that the model has.
        categories: Names of the classes.
        dtype: How the file stores weights: "float32", or "float16" for half of the size, each
            weight rounded to the nearest half-precision number: within 2^-11 of its size, or 2^-25
            where it is smaller than 2^-14. Biases stay float32, and `load` computes in float32 with
            the rounded weights, on every processor. torch's dtypes of these names will do.

    Raises:
        TypeError: `model` is no module, `dtype` no dtype.
        ValueError: The model does not run on the input shape; `dtype` is another one, or float16
            and a weight is larger than 65504, float16's largest number.
        NotImplementedError: The forward has a step that a file can't hold; the text names it.
        OSError: The file can't be written.

    Example:
        >>> import weebill
        >>> model = weebill.models.mobilenet_v3_small()
        >>> weebill.save(model, "small.weebill")  # doctest: +SKIP
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"save: model must be a torch.nn.Module, got {type(model).__name__}")
    half = _is_half(dtype)
    converted = convert(model)
    shape = _input_shape(converted, input_shape, preprocessing)
    with torch.inference_mode(False), torch.no_grad():
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        try:
            with unfused():  # the fused calls and the file are made by the same conversion
                expected = converted(x.clone())
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"save: input_shape must be one that the model takes, got {shape} ({reason})"
            ) from None
        network = network_of(converted, x)
        description, weights = _describe(converted, network, shape)
        description = replace(
            description,
            preprocessing=preprocessing,
            categories=None if categories is None else tuple(map(str, categories)),
        )
        _check(description, weights, x, expected)
    tensors: dict[str, NDArray[np.floating[Any]]] = {}
    for layer_path, folded in weights.items():
        weight = folded.weight
        tensors[f"{layer_path}.weight"] = _halved(weight, layer_path) if half else weight
        if folded.bias is not None:
            tensors[f"{layer_path}.bias"] = folded.bias
    _model.save(path, description, tensors)


def _is_half(dtype: object) -> bool:
    if not isinstance(dtype, str | torch.dtype):
        raise TypeError(f"save: dtype must be a string or a torch.dtype, got {dtype!r}")
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "float16"):
        raise ValueError(f"save: dtype must be float32 or float16, got {name}")
    return name == "float16"


def _halved(weight: NDArray[np.float32], path: str) -> NDArray[np.float16]:
    largest = np.abs(weight).max(initial=0)
    if largest > np.finfo(np.float16).max:
        raise ValueError(
            f"save: dtype must be float32 for weights above 65504, got {largest:.6g} in {path}"
        )
    return weight.astype(np.float16)


def _input_shape(
    model: nn.Module,
    given: Sequence[int] | None,
    preprocessing: ImageClassification | None,
) -> tuple[int, ...]:
    if given is not None:
        shape = tuple(given)
        if len(shape) not in (2, 4) or any(type(n) is not int or n < 1 for n in shape):
            raise ValueError(
                f"save: input_shape must be (N, C, H, W) or (N, C), all positive, got {shape}"
            )
        return shape
    size = _DEFAULT_SIZE if preprocessing is None else preprocessing.crop_size
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return (1, module.in_channels, size, size)
        if isinstance(module, nn.Linear):
            return (1, module.in_features)
    raise NotImplementedError("save: model must have a convolution or a linear layer")


def network_of(model: nn.Module, x: Tensor) -> Network:
    """The forward of a converted model.

    Args:
        model: In evaluation; `weebill.convert` has been over it.
        x: An input, for the ranks and channels of the values.

    Raises:
        NotImplementedError: The forward can't be traced, or holds a step that a file has not.
    """
    program = program_of(model)
    if program is not None:
        flatten = program.output_rank == 2
        return Network([program.blocks], [nodes.Run((0,), 0, flatten)], (Output(1),))
    builder = Builder(model, tuple(x.shape), FUNCTIONS, MODULES)
    recipe = recipe_of(model)
    try:
        if recipe is not None:
            shapes = recipe.graph.shapes_for(tuple(x.shape))
            return builder.build(recipe.order, shapes, recipe.graph.output, recipe.parts)
        graph = fx.Graph()
        trace(model, graph, _is_leaf)
        interpreter = ShapeInterpreter(model, graph)
        with torch.no_grad():
            interpreter.run(x)
        *_, output = graph.nodes
        needed = ancestors(output) - {output}
        order = [node for node in graph.nodes if node in needed]
        return builder.build(order, interpreter.shapes, output.args[0])
    except (NotFusable, NotSaved, NotTraceable) as error:
        raise NotImplementedError(f"save: {type(model).__name__} is not saved: {error}") from None


def _is_leaf(module: nn.Module) -> bool:
    return (
        is_torch_module(module) or program_of(module) is not None or recipe_of(module) is not None
    )


def _describe(
    model: nn.Module, network: Network, shape: tuple[int, ...]
) -> tuple[Description, dict[str, Folded]]:
    """The description, and the weights by the paths that it gives to the layers."""
    weights: dict[str, Folded] = {}

    def own(layer: Layer) -> Layer:
        # the same module in two programs: each has weights of its own in the file
        path, count = layer.path, 1
        while path in weights:
            count += 1
            path = f"{layer.path}@{count}"
        weights[path] = fold(model, layer)
        # one filter, whatever it is the sum of
        plain = Layer(**{field.name: getattr(layer, field.name) for field in fields(Layer)})
        return replace(plain, path=path, norms=())

    programs = tuple(
        tuple(block.map_layers(own) for block in blocks) for blocks in network.programs
    )
    description = Description(
        format=FORMAT,
        weebill=_C.__version__,
        input_shape=shape,
        programs=programs,
        outputs=network.outputs,
        structure=cast(Any, network.structure),
        nodes=tuple(network.nodes),
    )
    return description, weights


def _check(description: Description, weights: dict[str, Folded], x: Tensor, expected: Any) -> None:
    """Raises NotImplementedError unless the file's network computes what the model does."""
    model = _model.make_model(description, lambda layer: weights[layer.path])
    found = model(x.numpy())
    if isinstance(found, dict):
        pairs = [(found[name], expected[name]) for name in expected]
    elif isinstance(found, tuple):
        pairs = list(zip(found, expected, strict=True))
    else:
        pairs = [(found, expected)]
    for ours, theirs in pairs:
        wanted = theirs.numpy()
        same = ours.shape == wanted.shape and np.all(
            np.abs(ours - wanted) <= _TOLERANCE * np.abs(wanted).max(initial=0)
        )
        if not same:
            raise NotImplementedError("save: the model's forward depends on more than its steps")
