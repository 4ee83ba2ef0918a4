"""Weights of blocks: BatchNorm folding in float64.

A BatchNorm in evaluation is y = (x - mean) * s + beta with s = gamma / sqrt(var + eps), so a layer
before it takes it in:

    w' = w * s,   b' = (b - mean) * s + beta

computed in float64 and rounded once, to float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from weebill.fusion.pack import Folded
from weebill.fusion.spec import BlockSpec, Layer


def fold(owner: nn.Module, layer: Layer) -> Folded:
    """The layer's weights with its BatchNorms folded in."""
    module = owner.get_submodule(layer.path)
    weight = _float64(module.weight)
    weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
    bias = None if module.bias is None else _float64(module.bias)
    for path in layer.norms:
        norm = owner.get_submodule(path)
        mean, variance = _float64(norm.running_mean), _float64(norm.running_var)
        scale = 1.0 / np.sqrt(variance + _eps(norm))
        if norm.weight is not None:
            scale = scale * _float64(norm.weight)
        weight = weight * scale[:, None, None, None]
        bias = ((0.0 if bias is None else bias) - mean) * scale
        if norm.bias is not None:
            bias = bias + _float64(norm.bias)
    return Folded(
        np.ascontiguousarray(weight, np.float32),
        None if bias is None else np.ascontiguousarray(bias, np.float32),
    )


def _float64(tensor: object) -> NDArray[np.float64]:
    assert isinstance(tensor, Tensor)
    array: NDArray[np.float64] = tensor.detach().numpy().astype(np.float64)
    return array


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
