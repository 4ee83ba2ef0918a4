"""Whether a fused program is worth its call: conversion leaves what torch runs as fast.

Fusion gains where memory traffic and calls are the cost: depthwise convolutions and what is around
them, 1 x 1 convolutions, squeeze-excites, heads. It does not where one wide dense convolution is
most of the work: oneDNN's are as fast (64 channels 3 x 3 at 56 x 56: 0.9 of our time, 256 at
14 x 14: 1.2, AVX-512), and an image that comes in NCHW and goes back to it pays for the layout.
Grouped convolutions that are not depthwise run on a general path.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weebill import _C
from weebill.fusion.spec import BlockSpec

#: Input channels from which on a dense k x k convolution is left to torch.
WIDE = 32


def objection(
    blocks: Sequence[BlockSpec], records: Sequence[NDArray[np.uint8]], shape: Sequence[int]
) -> str:
    """Why a program should not be fused, on an input of this shape; empty if it should."""
    size = [*shape, 1, 1][:4]
    total = left = 0
    for block, record in zip(blocks, records, strict=True):
        work = _C.multiply_adds(size, record)
        total += work
        left += work if _is_torchs(block) else 0
        size = list(_C.output_shape(size, record))
    if 2 * left <= total:
        return ""
    return (
        f"does not pay: {100 * left / total:.0f} % of it are wide dense or grouped convolutions, "
        "which torch runs as fast"
    )


def _is_torchs(block: BlockSpec) -> bool:
    layer = block.layer
    if block.kind != "conv2d" or layer is None or layer.depthwise:
        return False
    if layer.groups > 1:
        return True
    return layer.window.kernel != (1, 1) and layer.in_channels >= WIDE
