"""Blocks to records: the one place that knows which packing function takes which parts. No torch.

A record is what the core runs (csrc/core/record.h); its weights are reordered for the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weebill import _C
from weebill.fusion.spec import BlockSpec, Layer

FloatArray: TypeAlias = NDArray[np.float32]
Allocate: TypeAlias = Callable[[int], NDArray[np.uint8]]

#: What records and their sections start at multiples of.
_ALIGNMENT = 64
#: Outputs that the kernels take at a time; weights are filled up to a multiple.
_BLOCK = 16


@dataclass(frozen=True)
class Folded:
    """A layer's weight (O, I / groups, kh, kw) and bias (O), None where there is none."""

    weight: FloatArray
    bias: FloatArray | None


class _Arena:
    """One array that records are written to, one after the other: no record is copied to join them.

    Memory that was reserved and is not written to is address space alone.
    """

    def __init__(self, reserved: int) -> None:
        self._memory = _aligned(reserved)
        self._used = 0

    def __call__(self, size: int) -> NDArray[np.uint8]:
        start, self._used = self._used, self._used + size
        if self._used > len(self._memory):
            memory = _aligned(max(self._used, 2 * len(self._memory)))
            memory[:start] = self._memory[:start]
            self._memory = memory
        return self._memory[start : self._used]

    def records(self) -> NDArray[np.uint8]:
        return self._memory[: self._used]


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


def _expected_size(blocks: Sequence[BlockSpec]) -> int:
    """Bytes of the records: seldom less than they take, and little more."""
    size = 8 * _ALIGNMENT * len(blocks)
    for block in blocks:
        for layer in block.layers():
            groups = 1 if layer.depthwise else layer.groups
            outputs = groups * (-(-layer.out_channels // (groups * _BLOCK)) * _BLOCK)
            inputs = layer.in_channels // layer.groups * math.prod(layer.window.kernel)
            size += 4 * outputs * (inputs + 1) + 2 * _ALIGNMENT
    return size


def pack_all(
    blocks: Sequence[BlockSpec], weights: Callable[[Layer], Folded]
) -> tuple[NDArray[np.uint8], list[int]]:
    """The blocks' records in one array, to be run in turn.

    Args:
        blocks: What they compute.
        weights: Called once for every layer, in order.

    Returns:
        The array, and the number of bytes of each record.

    Raises:
        ValueError: The parts do not fit each other.
    """
    arena = _Arena(_expected_size(blocks))
    sizes = [len(pack(block, weights, arena)) for block in blocks]
    return arena.records(), sizes


def pack(
    block: BlockSpec, weights: Callable[[Layer], Folded], allocate: Allocate | None = None
) -> NDArray[np.uint8]:
    """The block's record.

    Args:
        block: What it computes.
        weights: Called once for every layer of the block.
        allocate: Gives the array for a record of so many bytes. None: a new one.

    Raises:
        ValueError: The parts do not fit each other.
    """
    if block.kind == "global_avg_pool2d":
        return _C.pack_global_avg_pool2d(block.channels, allocate)
    if block.kind == "max_pool2d":
        assert block.window is not None
        pool = block.window
        return _C.pack_max_pool2d(
            block.channels, pool.kernel, pool.stride, pool.padding, pool.dilation, allocate
        )
    if block.kind == "channel_shuffle":
        return _C.pack_channel_shuffle(block.channels, block.groups, allocate)
    if block.kind == "shuffle_unit":
        assert block.branch is not None
        shortcut = None if block.shortcut is None else pack(block.shortcut, weights)
        return _C.pack_shuffle_unit(pack(block.branch, weights), shortcut, allocate)
    if block.kind == "squeeze_excite":
        assert block.squeeze is not None
        reduce, expand = (weights(layer) for layer in block.layers())
        return _C.pack_squeeze_excite(
            reduce.weight,
            reduce.bias,
            expand.weight,
            expand.bias,
            activation=block.squeeze.reduce.activation,
            gate=block.squeeze.expand.activation,
            allocate=allocate,
        )
    if block.kind == "conv2d":
        assert block.layer is not None
        layer, folded = block.layer, weights(block.layer)
        return _C.pack_conv2d(
            folded.weight,
            folded.bias,
            layer.window.stride,
            layer.window.padding,
            layer.window.dilation,
            layer.groups,
            layer.activation,
            allocate=allocate,
        )
    if block.kind == "shuffle_unit_v1":
        return _pack_unit_v1(block, weights, allocate)
    return _pack_separable(block, weights, allocate)


def _pack_unit_v1(
    block: BlockSpec, weights: Callable[[Layer], Folded], allocate: Allocate | None
) -> NDArray[np.uint8]:
    assert block.expand is not None
    assert block.depthwise is not None
    assert block.project is not None
    expand, depthwise, project = (
        weights(layer) for layer in (block.expand, block.depthwise, block.project)
    )
    window = block.depthwise.window
    return _C.pack_shuffle_unit_v1(
        expand_weight=expand.weight,
        expand_bias=expand.bias,
        depthwise_weight=depthwise.weight,
        depthwise_bias=depthwise.bias,
        project_weight=project.weight,
        project_bias=project.bias,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        expand_groups=block.expand.groups,
        groups=block.groups,
        project_groups=block.project.groups,
        expand_activation=block.expand.activation,
        depthwise_activation=block.depthwise.activation,
        activation=block.activation,
        shortcut="add" if block.residual else "concat" if block.concat else "none",
        allocate=allocate,
    )


def _pack_separable(
    block: BlockSpec, weights: Callable[[Layer], Folded], allocate: Allocate | None
) -> NDArray[np.uint8]:
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
            folded = weights(layer)
            arguments[f"{role}_weight"], arguments[f"{role}_bias"] = folded.weight, folded.bias
            arguments[activation[role]] = layer.activation
    return _C.pack_separable(
        **arguments,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        residual=block.residual,
        allocate=allocate,
    )
