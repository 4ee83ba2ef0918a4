"""Whether a fused program is worth its call: conversion leaves what torch runs as fast.

Fusion gains where memory traffic and calls are the cost: depthwise convolutions and what is around
them, 1 x 1 convolutions, squeeze-excites, heads. Of other convolutions it depends on the
instruction set. On AVX2 (Zen 3, one thread, BatchNorm folded, ReLU, channels_last) torch takes 1.02
to 1.6 of our time for dense 3 x 3, 5 x 5 and 7 x 7 convolutions of 48 to 512 channels (0.84 for
32-32 at 112 x 112), 1.15 to 2 where there are up to 19 groups, and 0.8 to 0.94 where there are 32
or more. On AVX-512 (Zen 4) it takes 1.0 to 1.8 for dense ones, 0.87 to 1.14 where there are 3 to
26 groups, 0.87 to 0.98 where there are more; there are fewer calls too, and whole networks gain:
ResNet-18 takes 33.0 ms, with those convolutions left to torch 41.0. Elsewhere it has not been
measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weebill import _C
from weebill.fusion.spec import BlockSpec

#: Instruction sets on which dense and grouped convolutions run on the kernels.
FAST_DENSE = ("avx2", "avx512", "avx512_twoport", "avx512_256")

#: Input channels from which on a dense k x k convolution is left to torch on the others.
WIDE = 32

#: Groups from which on a convolution that is not depthwise is left to torch on all.
MANY_GROUPS = 32

#: What the report says of such a layer.
DENSE = "a dense or grouped convolution, which torch runs as fast"


def objection(
    blocks: Sequence[BlockSpec], records: Sequence[NDArray[np.uint8]], shape: Sequence[int]
) -> str:
    """Why a program should not be fused, on an input of this shape; empty if it should."""
    size = [*shape, 1, 1][:4]
    total = left = 0
    for block, record in zip(blocks, records, strict=True):
        work = _C.multiply_adds(size, record)
        total += work
        left += work if is_torchs(block) else 0
        size = list(_C.output_shape(size, record))
    if 2 * left <= total:
        return ""
    return (
        f"does not pay: {100 * left / total:.0f} % of it are dense or grouped convolutions, "
        "which torch runs as fast"
    )


def is_torchs(block: BlockSpec) -> bool:
    """Whether torch runs the block as fast: a wide dense convolution, or one in groups."""
    layer = block.layer
    if block.kind != "conv2d" or layer is None or layer.depthwise:
        return False
    fast = _C.isa() in FAST_DENSE
    if layer.groups > 1:
        return not fast or layer.groups >= MANY_GROUPS
    return not fast and layer.window.kernel != (1, 1) and layer.in_channels >= WIDE
