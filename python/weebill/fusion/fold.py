"""Weights of blocks: BatchNorm folding in float64, and packing into records.

A BatchNorm in evaluation is y = (x - mean) * s + beta with s = gamma / sqrt(var + eps), so a layer
before it takes it in:

    w' = w * s,   b' = (b - mean) * s + beta

computed in float64 and rounded once, to float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from weebill import _C
from weebill.fusion.spec import BlockSpec, Layer

FloatArray: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Folded:
    """A layer's weight (O, I / groups, kh, kw) and bias (O), None where there is none."""

    weight: FloatArray
    bias: FloatArray | None


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


def pack(owner: nn.Module, block: BlockSpec) -> NDArray[np.uint8]:
    """The block's record, made of the owner's present weights."""
    if block.kind == "global_avg_pool2d":
        return _C.pack_global_avg_pool2d(block.channels)
    if block.kind == "squeeze_excite":
        assert block.squeeze is not None
        reduce, expand = (fold(owner, layer) for layer in block.layers())
        return _C.pack_squeeze_excite(
            reduce.weight,
            reduce.bias,
            expand.weight,
            expand.bias,
            activation=block.squeeze.reduce.activation,
            gate=block.squeeze.expand.activation,
        )
    if block.kind == "conv2d":
        assert block.layer is not None
        layer, folded = block.layer, fold(owner, block.layer)
        return _C.pack_conv2d(
            folded.weight,
            folded.bias,
            layer.window.stride,
            layer.window.padding,
            layer.window.dilation,
            layer.groups,
            layer.activation,
        )
    return _pack_separable(owner, block)


def _pack_separable(owner: nn.Module, block: BlockSpec) -> NDArray[np.uint8]:
    assert block.depthwise is not None
    window = block.depthwise.window
    roles = {
        "expand": block.expand,
        "depthwise": block.depthwise,
        "se_reduce": block.squeeze.reduce if block.squeeze else None,
        "se_expand": block.squeeze.expand if block.squeeze else None,
        "project": block.project,
    }
    activation = {
        "expand": "expand_activation",
        "depthwise": "depthwise_activation",
        "se_reduce": "se_activation",
        "se_expand": "se_gate",
        "project": "project_activation",
    }
    arguments: dict[str, Any] = {}
    for role, layer in roles.items():
        if layer is not None:
            folded = fold(owner, layer)
            arguments[f"{role}_weight"], arguments[f"{role}_bias"] = folded.weight, folded.bias
            arguments[activation[role]] = layer.activation
    return _C.pack_separable(
        **arguments,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        residual=block.residual,
    )
