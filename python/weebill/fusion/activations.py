"""Which activation an elementwise piece of a graph is.

Leaf modules of torch.nn are known by name. Everything else is known by what it computes:
`x * relu6(x + 3) / 6`, `x.mul(x.sigmoid())` and `x * (x + 3).clamp(0, 6) / 6` are told apart by
their values in float64 and not by how they are spelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: What the kernels compute, in float64; the names are those of `_C.activation_names()`.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": lambda x: x * (x / 6 + 0.5).clamp(0, 1),
    "hardsigmoid": lambda x: (x / 6 + 0.5).clamp(0, 1),
    "hardsigmoid_paddle": lambda x: (x / 5 + 0.5).clamp(0, 1),
    "silu": lambda x: x * torch.sigmoid(x),
    "sigmoid": torch.sigmoid,
}

_MODULES: dict[type[nn.Module], str] = {
    nn.Identity: "none",
    nn.Dropout: "none",
    nn.Dropout2d: "none",
    nn.Dropout1d: "none",
    nn.AlphaDropout: "none",
    nn.FeatureAlphaDropout: "none",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
}


def of_module(module: nn.Module) -> str | None:
    """The name of a torch.nn activation (or of what does nothing in evaluation), else None."""
    if type(module) is nn.Hardtanh:
        return "relu6" if (module.min_val, module.max_val) == (0, 6) else None
    return _MODULES.get(type(module))


def is_fixed(module: nn.Module) -> bool:
    """Whether no attribute of the module changes what it computes in evaluation."""
    return type(module) in _MODULES


def of_function(function: Callable[[Tensor], Tensor]) -> str | None:
    """The name of the activation that equals `function` on a grid of values, else None."""
    # kinks of the known functions are at -3, -2.5, 0, 2.5, 3, 6; values between and far outside,
    # and what is no number: clamps to a type's range and nan_to_num change nothing else
    far = torch.tensor([30.0, 300.0, 1e4, 1e30, math.inf], dtype=torch.float64)
    near = torch.linspace(-8, 8, 257, dtype=torch.float64)
    grid = torch.cat([near, far, -far, torch.tensor([math.nan], dtype=torch.float64)])
    # mixed, so that sorting or accumulating is not taken for something elementwise
    grid = grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))]
    try:
        values = function(grid.clone())
        if not isinstance(values, Tensor) or values.shape != grid.shape:
            return None
        for name, known in ACTIVATIONS.items():
            if torch.allclose(values.double(), known(grid), rtol=1e-7, atol=1e-9, equal_nan=True):
                # a cast is no activation: it has a type of its own, whatever it is given
                kept = (function(grid.to(dtype)).dtype == dtype for dtype in _TYPES)
                return name if all(kept) else None
    except Exception:  # whatever a foreign piece of graph raises, it is not an activation
        pass
    return None


_TYPES = (torch.float64, torch.float32)
