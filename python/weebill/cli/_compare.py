"""A fused network against torch eager on the same weights and inputs."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from weebill.cli._latency import interleaved
from weebill.nn import unfused

__all__ = ["EAGER", "FOLDED", "FUSED", "compare_with_eager"]

FUSED = "weebill, fused"
EAGER = "torch eager, as loaded"
FOLDED = "torch eager, BatchNorm folded, channels_last"


def compare_with_eager(
    fused: nn.Module, eager: nn.Module, inputs: Sequence[Tensor]
) -> dict[str, Any]:
    """Latencies on the first input, measured in turn, and the largest difference over all inputs.

    The first eager form is the network as it was loaded; the folded one, in channels_last, is the
    fastest that torch has without compiling.

    Returns:
        latency_ms: a `Latency` as a dictionary, by name.
        max_relative_difference: max |fused - eager| / max |eager| over the logits of an input, the
            largest over the inputs.
    """
    x = inputs[0]
    x_last = x.contiguous(memory_format=torch.channels_last)
    folded = _folded(eager).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    latency = interleaved(
        {
            FUSED: lambda: fused(x),
            EAGER: lambda: _plain(eager, x),
            FOLDED: lambda: _plain(folded, x_last),
        }
    )
    return {
        "latency_ms": {name: dataclasses.asdict(value) for name, value in latency.items()},
        "max_relative_difference": max(_difference(fused(x), _plain(eager, x)) for x in inputs),
    }


def _difference(value: Tensor, reference: Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max()).item()


def _plain(model: nn.Module, x: Tensor) -> Tensor:
    """The model in torch eager: blocks of weebill.nn run fused in evaluation unless told not to."""
    with unfused():
        y: Tensor = model(x)
    return y


def _folded(model: nn.Module) -> nn.Module:
    """A copy whose BatchNorms that follow a convolution in a Sequential are part of it."""
    model = copy.deepcopy(model)
    for parent in model.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for (first, conv), (second, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, first, fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, nn.Identity())
    return model
