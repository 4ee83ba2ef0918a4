"""FlopCounterMode counts the ops as it counts the torch layers that they are made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import weebill.ops
from weebill import _fake, _flops, _reference
from weebill.nn import InvertedResidual


def count(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def test_every_op_has_a_formula() -> None:
    assert _flops.FORMULAS.keys() == _fake.KERNELS.keys()


def r(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


X = (3, 6, 9, 7)
ARGUMENTS = {
    "conv2d": lambda: (r(*X), r(4, 3, 3, 5), r(4), [2, 1], [1, 2, 0, 1], [1, 1], 2, "relu"),
    "depthwise_conv2d": lambda: (r(*X), r(6, 1, 3, 3), None, [2, 2], [-1], [1, 1], "relu6"),
    "pointwise_conv2d": lambda: (r(*X), r(5, 6, 1, 1), r(5), "none"),
    "pool_linear": lambda: (r(*X), r(5, 6), r(5), "none"),
    "squeeze_excite": lambda: (
        r(*X),
        r(2, 6, 1, 1),
        r(2),
        r(6, 2, 1, 1),
        None,
        "relu",
        "sigmoid",
    ),
    "depthwise_pointwise": lambda: (
        *(r(*X), r(6, 1, 5, 5), r(6), r(4, 6, 1, 1), r(4)),
        *([2, 2], [2, 2, 2, 2], [1, 1], "relu", "none", False),
    ),
    "inverted_residual": lambda: (
        *(r(*X), r(12, 6, 1, 1), r(12), r(12, 1, 3, 3), r(12)),
        *(r(4, 12, 1, 1), r(4), r(12, 4, 1, 1), r(12), r(6, 12, 1, 1), None),
        *([2, 1], [1, 1, 1, 1], [1, 1], "relu", "relu", "relu", "hardsigmoid", "none", False),
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_counts_are_those_of_the_plain_layers(name: str) -> None:
    arguments = ARGUMENTS[name]()
    op = getattr(torch.ops.weebill, name)
    expected = count(lambda: getattr(_reference, name)(*arguments))
    assert expected > 0
    assert count(lambda: op(*arguments)) == expected


def test_an_inverted_residual_without_its_optional_parts() -> None:
    x, depthwise, project = r(1, 6, 8, 8), r(6, 1, 3, 3), r(5, 6, 1, 1)
    found = count(
        lambda: weebill.ops.inverted_residual(
            x, depthwise_weight=depthwise, project_weight=project, padding=1
        )
    )
    assert found == 2 * 64 * 6 * (9 + 5)


def test_training_counts_both_gradients() -> None:
    block = InvertedResidual(6, 12, 6, squeeze_channels=4).train()
    x = r(*X)
    pixels, images = 3 * 9 * 7, 3
    expand, depthwise, project, excite = (
        *(2 * pixels * 6 * 12, 2 * pixels * 12 * 9, 2 * pixels * 12 * 6),
        2 * images * 2 * 12 * 4,
    )
    forward = expand + depthwise + project + excite
    with torch.no_grad():
        assert count(lambda: block(x)) == forward
    # x wants no gradient
    assert count(lambda: block(x).sum().backward()) == 3 * forward - expand
