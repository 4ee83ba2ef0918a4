"""Modules that train as plain torch and run fused in evaluation."""

from weebill.fusion.module import FusedModule, unfused
from weebill.nn.blocks import (
    Conv2dNormActivation,
    Conv2dSame,
    DepthwisePointwise,
    InvertedResidual,
    SqueezeExcite,
)

__all__ = [
    "Conv2dNormActivation",
    "Conv2dSame",
    "DepthwisePointwise",
    "FusedModule",
    "InvertedResidual",
    "SqueezeExcite",
    "unfused",
]
