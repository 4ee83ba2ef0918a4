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
from weebill.fusion.spec import BlockSpec, Layer


def fold(owner: nn.Module, layer: Layer) -> Folded:
    """The layer's weights with its BatchNorms folded in."""
    module = owner.get_submodule(layer.path)
    weight = _array(module.weight)
    weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
    bias = None if module.bias is None else _float64(module.bias)
    for index, path in enumerate(layer.norms):
        norm = owner.get_submodule(path)
        mean, variance = _float64(norm.running_mean), _float64(norm.running_var)
        scale = 1.0 / np.sqrt(variance + _eps(norm))
        if norm.weight is not None:
            scale = scale * _float64(norm.weight)
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
            bias = bias + _float64(norm.bias)
    return Folded(
        np.ascontiguousarray(weight, np.float32),
        None if bias is None else np.ascontiguousarray(bias, np.float32),
    )


def _array(tensor: object) -> NDArray[Any]:
    assert isinstance(tensor, Tensor)
    array: NDArray[Any] = tensor.detach().numpy()
    return array


def _float64(tensor: object) -> NDArray[np.float64]:
    return _array(tensor).astype(np.float64)


def _eps(norm: nn.Module) -> float:
    eps = norm.eps
    assert isinstance(eps, float)
    return eps


def source_names(owner: nn.Module, blocks: Sequence[BlockSpec]) -> Iterator[tuple[str, str]]:
    """(module, attribute) of every tensor that the packed blocks depend on."""
    for block in blocks:
        for layer in block.layers():
            for name in ("weight", "bias"):
                yield layer.path, name
            for norm in layer.norms:
                for name in ("running_mean", "running_var", "weight", "bias"):
                    yield norm, name
