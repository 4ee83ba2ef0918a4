"""Blocks packed for the native core: records, see csrc/core/weebill.h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from weebill import _C
from weebill.bench.suites import Block
from weebill.bench.weights import Weights, folded

__all__ = ["cannot_pack", "pack_blocks"]

_KINDS = ("conv2d", "depthwise", "separable", "squeeze_excite", "pool")


def cannot_pack(blocks: Sequence[Block]) -> str | None:
    """Why the core alone cannot run the blocks, or None."""
    for block in blocks:
        if block.kind not in _KINDS:
            return f"no record for {block.kind}"
    return None


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
    given: dict[str, Any] = {}
    names = {"squeeze": "se_reduce", "excite": "se_expand"}
    for layer in ("expand", "depthwise", "squeeze", "excite", "project"):
        if f"{layer}.weight" in weights:
            target = names.get(layer, layer)
            given[f"{target}_weight"], given[f"{target}_bias"] = _layer(weights, layer)
    return _C.pack_separable(
        **given,
        stride=stride,
        padding=padding,
        dilation=(1, 1),
        expand_activation=block.activation if block.expand else "none",
        depthwise_activation=block.activation,
        project_activation=block.project,
        residual=bool(block.residual),
    )
