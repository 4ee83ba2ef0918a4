"""Blocks packed for the native core: records, see csrc/core/weebill.h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from weebill import _C
from weebill.bench.suites import Block
from weebill.bench.weights import Weights, folded

__all__ = ["pack_blocks"]


def pack_blocks(blocks: Sequence[Block], weights: Sequence[Weights]) -> npt.NDArray[np.uint8]:
    """One array of all blocks' records, BatchNorm folded."""
    return _C.join([_pack(block, own) for block, own in zip(blocks, weights, strict=True)])


def _layer(weights: Weights, name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    weight, bias = folded(weights, name)
    return weight.astype(np.float32), bias.astype(np.float32)


def _pack(block: Block, weights: Weights) -> npt.NDArray[np.uint8]:
    if block.kind == "pool":
        return _C.pack_global_avg_pool2d(block.c_in)
    if block.kind == "squeeze_excite":
        return _C.pack_squeeze_excite(*_layer(weights, "squeeze"), *_layer(weights, "excite"))
    stride, padding = (block.s, block.s), (block.pad,) * 4
    if block.kind in ("conv2d", "depthwise"):
        groups = block.c_in if block.kind == "depthwise" else 1
        return _C.pack_conv2d(
            *_layer(weights, "conv"), stride, padding, (1, 1), groups, block.activation
        )
    if block.kind == "max_pool":
        return _C.pack_max_pool2d(block.c_in, (block.k, block.k), stride, padding, (1, 1))
    if block.kind == "shuffle_unit":
        depthwise = (block.activation, "none", block.project)
        branch = _separable(weights, "", stride, padding, depthwise)
        if block.s == 1:
            return _C.pack_shuffle_unit(branch)
        side = _separable(weights, "side_", stride, padding, ("none", "none", block.project))
        return _C.pack_shuffle_unit(branch, side)
    activations = (block.activation, block.activation, block.project)
    return _separable(weights, "", stride, padding, activations, residual=bool(block.residual))


def _separable(
    weights: Weights,
    prefix: str,
    stride: Sequence[int],
    padding: Sequence[int],
    activations: tuple[str, str, str],
    *,
    residual: bool = False,
) -> npt.NDArray[np.uint8]:
    """Layers of `weights` whose names start with `prefix`, with the activations of expansion,
    depthwise and projection."""
    given: dict[str, Any] = {}
    names = {"squeeze": "se_reduce", "excite": "se_expand"}
    for layer in ("expand", "depthwise", "squeeze", "excite", "project"):
        if f"{prefix}{layer}.weight" in weights:
            target = names.get(layer, layer)
            both = _layer(weights, f"{prefix}{layer}")
            given[f"{target}_weight"], given[f"{target}_bias"] = both
    return _C.pack_separable(
        **given,
        stride=stride,
        padding=padding,
        dilation=(1, 1),
        expand_activation=activations[0] if "expand_weight" in given else "none",
        depthwise_activation=activations[1],
        project_activation=activations[2],
        residual=residual,
    )
