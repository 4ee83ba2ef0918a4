"""One ordinary call of every op: what tests of the torch side run through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weebill import _C, _ops, _reference

# What follows a colon tells several cases of an op apart.
PLAIN_OPS = (
    "conv2d",
    "depthwise_conv2d",
    "pointwise_conv2d",
    "pool_linear",
    "squeeze_excite",
    "depthwise_pointwise",
    "inverted_residual",
    "channel_shuffle",
    "shuffle_unit",
    "shuffle_unit:down",
    "shuffle_unit_v1",
    "shuffle_unit_v1:concat",
)

RUNS = ("run", "run:flat", "run:flat image")


BACKWARD_OPS = ("depthwise_conv2d_backward", "pointwise_conv2d_backward")


def arguments(name: str, requires_grad: bool = False) -> tuple[Any, ...]:
    """For `torch.ops.weebill.<name>`, of float32 on the CPU. Smooth activations, so that gradients
    are the same on both sides of a rounding."""

    def t(*shape: int) -> Tensor:
        return torch.randn(*shape).mul_(0.5).requires_grad_(requires_grad)

    window = ([2, 1], [0, 1, 2, 1], [1, 1])
    same: tuple[list[int], list[int], list[int]] = ([2, 2], [-1], [1, 1])
    x = t(2, 6, 7, 5)
    cases: dict[str, tuple[Any, ...]] = {
        "conv2d": (x, t(8, 3, 3, 3), t(8), *window, 2, "silu"),
        "depthwise_conv2d": (x, t(6, 1, 3, 3), None, *same, "sigmoid"),
        "pointwise_conv2d": (x, t(4, 6, 1, 1), t(4), "silu"),
        "pool_linear": (x, t(3, 6), t(3), "none"),
        "squeeze_excite": (x, t(2, 6, 1, 1), t(2), t(6, 2, 1, 1), t(6), "silu", "sigmoid"),
        "depthwise_pointwise": (
            *(x, t(6, 1, 3, 3), t(6), t(9, 6, 1, 1), None),
            *(*window, "silu", "none", False),
        ),
        "inverted_residual": (
            *(x, t(10, 6, 1, 1), t(10), t(10, 1, 5, 5), t(10)),
            *(t(3, 10, 1, 1), t(3), t(10, 3, 1, 1), None, t(6, 10, 1, 1), t(6)),
            *([1, 1], [2, 2, 2, 2], [1, 1]),
            *("silu", "silu", "silu", "sigmoid", "none", True),
        ),
    }
    basic = t(3, 3, 1, 1), t(3), t(3, 1, 3, 3), t(3), t(3, 3, 1, 1), None
    down = t(5, 6, 1, 1), None, t(5, 1, 3, 3), t(5), t(4, 5, 1, 1), t(4)
    shortcut = t(6, 1, 3, 3), t(6), t(4, 6, 1, 1), t(4)
    ones = ([1, 1], [1, 1, 1, 1], [1, 1])
    activations = ("silu", "none", "silu", "none", "sigmoid")
    cases |= {
        "channel_shuffle": (x, 3),
        "shuffle_unit": (x, *basic, None, None, None, None, *ones, *activations),
        "shuffle_unit:down": (x, *down, *shortcut, *window, *activations),
        "shuffle_unit_v1": (
            *(x, t(9, 2, 1, 1), t(9), t(9, 1, 3, 3), t(9), t(6, 3, 1, 1), t(6)),
            *(*ones, 3, 3, 3, "silu", "none", "sigmoid", "add"),
        ),
        "shuffle_unit_v1:concat": (
            *(x, t(9, 6, 1, 1), None, t(9, 1, 3, 3), None, t(6, 3, 1, 1), None),
            *(*window, 1, 3, 3, "silu", "none", "silu", "concat"),
        ),
    }
    mask = [True, True, True]
    cases["depthwise_conv2d_backward"] = (*(t(2, 6, 4, 5), x, t(6, 1, 3, 3), *window, mask),)
    cases["pointwise_conv2d_backward"] = (t(2, 4, 7, 5), x, t(4, 6, 1, 1), mask)
    if name == "run":
        return x.detach(), *network()
    if name == "run:flat":
        return x.detach(), *network(), True
    if name == "run:flat image":
        records = _C.pack_max_pool2d(6, (2, 2), (2, 2), (0,) * 4, (1, 1))
        return x.detach(), torch.from_numpy(records), _C.geometry(records), True
    return cases[name]


def network() -> tuple[Tensor, list[int]]:
    """Records and geometry of a small network on 6 channels: every kind of output size."""
    record = _C.join(
        [
            _C.pack_conv2d(
                torch.randn(16, 6, 3, 3).numpy(), None, (2, 1), (0, 1, 2, 1), (1, 1), 1, "relu"
            ),
            _C.pack_separable(
                depthwise_weight=torch.randn(16, 1, 3, 3).numpy(),
                project_weight=torch.randn(20, 16, 1, 1).numpy(),
                stride=(2, 2),
                padding="same",
                dilation=(1, 1),
            ),
            _C.pack_squeeze_excite(
                torch.randn(4, 20, 1, 1).numpy(), None, torch.randn(20, 4, 1, 1).numpy(), None
            ),
            _C.pack_global_avg_pool2d(20),
            _C.pack_conv2d(
                torch.randn(5, 20, 1, 1).numpy(), None, (1, 1), (0,) * 4, (1, 1), 1, "none"
            ),
        ]
    )
    return torch.from_numpy(record), _C.geometry(record)


def op_name(case: str) -> str:
    return case.partition(":")[0]


def op(case: str) -> Any:
    return getattr(torch.ops.weebill, op_name(case)).default


def call(case: str) -> Any:
    """The op as the library calls it."""
    return getattr(_ops, op_name(case))


def reference(case: str) -> Any:
    return getattr(_reference, op_name(case))


def in_double(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same arguments in float64, as leaves of their own."""
    return tuple(
        v.detach().double().requires_grad_(v.requires_grad) if isinstance(v, Tensor) else v
        for v in values
    )
