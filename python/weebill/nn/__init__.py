"""Modules that train layer by layer, on kernels where they pay, and run fused in evaluation."""

from weebill.fusion.module import FusedModule
from weebill.fusion.switch import unfused
from weebill.nn._memory import keep_freed_memory
from weebill.nn.blocks import (
    Conv2dNormActivation,
    Conv2dSame,
    DepthwisePointwise,
    InvertedResidual,
    SqueezeExcite,
)
from weebill.nn.shuffle import ChannelShuffle, ShuffleUnit, ShuffleUnitV1

__all__ = [
    "ChannelShuffle",
    "Conv2dNormActivation",
    "Conv2dSame",
    "DepthwisePointwise",
    "FusedModule",
    "InvertedResidual",
    "ShuffleUnit",
    "ShuffleUnitV1",
    "SqueezeExcite",
    "keep_freed_memory",
    "unfused",
]
