"""Weights of blocks: BatchNorm folding in float64.

A BatchNorm in evaluation is y = (x - mean) * s + beta with s = gamma / sqrt(var + eps), so a layer
before it takes it in:

    w' = w * s,   b' = (b - mean) * s + beta

computed in float64 and rounded once, to float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from weebill.fusion.pack import Folded
from weebill.fusion.spec import BlockSpec, Layer, Sum


def fold(owner: nn.Module, layer: Layer) -> Folded:
    """The layer's weights with its BatchNorms folded in, and all layers of a sum."""
    weight: NDArray[Any]
    if not layer.path:
        weight, bias = np.eye(layer.in_channels)[:, :, None, None], None
    else:
        module = owner.get_submodule(layer.path)
        weight = _array(module.weight)
        weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
        bias = None if module.bias is None else _float64(module.bias)
    for index, place in enumerate(layer.norms):
        norm = owner.get_submodule(place.path)
        mine = slice(place.first, place.first + layer.out_channels)
        mean, variance = _float64(norm.running_mean)[mine], _float64(norm.running_var)[mine]
        scale = 1.0 / np.sqrt(variance + _eps(norm))
        if norm.weight is not None:
            scale = scale * _float64(norm.weight)[mine]
        # the last product is rounded as it is computed, without an array of float64 in between
        rounded = np.float32 if index == len(layer.norms) - 1 else np.float64
        weight = np.multiply(
            weight,
            scale[:, None, None, None],
            out=np.empty(weight.shape, rounded),
            dtype=np.float64,
            casting="same_kind",
        )
        bias = ((0.0 if bias is None else bias) - mean) * scale
        if norm.bias is not None:
            bias = bias + _float64(norm.bias)[mine]
    folded = Folded(
        np.ascontiguousarray(weight, np.float32),
        None if bias is None else np.ascontiguousarray(bias, np.float32),
    )
    return _added(owner, layer, folded) if isinstance(layer, Sum) else folded


def _added(owner: nn.Module, layer: Sum, own: Folded) -> Folded:
    """The layer's own filter with those of the others added, each at its place."""
    weight = own.weight.astype(np.float64)
    bias: Any = 0.0 if own.bias is None else own.bias.astype(np.float64)
    rows, columns = layer.window.dilation
    for other in layer.beside:
        folded = fold(owner, other)
        filters = folded.weight
        if not other.path:  # of the identity: the part of each group
            inputs = weight.shape[1]
            groups = np.arange(len(filters)) // (len(filters) // layer.groups)
            columns_of = groups[:, None] * inputs + np.arange(inputs)
            filters = np.take_along_axis(filters, columns_of[:, :, None, None], axis=1)
        top, left = layer.offset(other)
        top, left = top // rows, left // columns
        height, width = filters.shape[2:]
        weight[:, :, top : top + height, left : left + width] += filters
        bias = bias + (0.0 if folded.bias is None else folded.bias)
    if isinstance(bias, float):
        return Folded(weight.astype(np.float32), None)
    return Folded(weight.astype(np.float32), bias.astype(np.float32))


def _array(tensor: object) -> NDArray[Any]:
    assert isinstance(tensor, Tensor)
    array: NDArray[Any] = tensor.detach().numpy()
    return array


def _float64(tensor: object) -> NDArray[np.float64]:
    return _array(tensor).astype(np.float64)


def _eps(norm: nn.Module) -> float:
    eps: Any = norm.eps
    return float(eps)


def source_names(owner: nn.Module, blocks: Sequence[BlockSpec]) -> Iterator[tuple[str, str]]:
    """(module, attribute) of every tensor that the packed blocks depend on."""
    for block in blocks:
        for layer in block.layers():
            for part in (layer, *(layer.beside if isinstance(layer, Sum) else ())):
                for name in ("weight", "bias") if part.path else ():
                    yield part.path, name
                for norm in part.norms:
                    for name in ("running_mean", "running_var", "weight", "bias"):
                        yield norm.path, name
