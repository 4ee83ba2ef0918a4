"""Modules that train as plain torch and run fused in evaluation."""

from weebill.fusion.module import FusedModule, unfused
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
    "unfused",
]
