"""Dense and grouped convolution: the stem."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from tests.bounds import ACTIVATIONS, Bounded, is_channels_last, layouts
from weebill import ops


@dataclass(frozen=True)
class Case:
    """One convolution; x is (n, c_in, h, w)."""

    c_in: int
    c_out: int
    kernel: tuple[int, int]
    h: int
    w: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] | str = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str = "none"
    bias: bool = True
    n: int = 1


CASES = [
    Case(3, 16, (3, 3), 15, 13, (2, 2), (1, 1, 1, 1), activation="hardswish"),
    Case(3, 32, (3, 3), 16, 16, (2, 2), "same", activation="relu6"),
    Case(1, 1, (1, 1), 1, 1),
    Case(1, 17, (3, 3), 1, 1, padding=(1, 1, 1, 1)),
    Case(2, 3, (3, 3), 5, 7, (2, 1), (0, 1, 2, 0), bias=False),
    Case(17, 22, (3, 3), 6, 5, (1, 2), (2, 0, 1, 3), activation="relu"),
    Case(50, 10, (2, 5), 7, 9, (1, 1), (0, 2, 1, 2), activation="silu"),
    Case(3, 8, (3, 3), 11, 12, (1, 1), (2, 2, 2, 2), dilation=(2, 2)),
    Case(4, 6, (3, 3), 9, 9, (2, 1), (1, 2, 3, 4), dilation=(1, 3), activation="sigmoid"),
    Case(3, 5, (7, 7), 9, 14, (2, 2), (3, 3, 3, 3)),
    Case(4, 6, (3, 3), 6, 6, padding=(1, 1, 1, 1), groups=2),
    Case(6, 18, (1, 3), 4, 6, padding="same", groups=3, activation="hardsigmoid"),
    Case(3, 4, (3, 3), 2, 2, (1, 1), (4, 4, 4, 4), activation="hardsigmoid_paddle"),
    Case(16, 34, (1, 1), 5, 5, (2, 2)),
    Case(16, 12, (1, 1), 3, 4, (1, 1), (1, 0, 0, 1)),
    Case(3, 16, (3, 3), 8, 9, (2, 2), "same", n=3),
    Case(3, 16, (3, 3), 8, 9, (2, 2), "same", n=0),
]


def run_case(case: Case, x: torch.Tensor) -> None:
    weight = torch.randn(case.c_out, case.c_in // case.groups, *case.kernel)
    bias = torch.randn(case.c_out) if case.bias else None
    y = ops.conv2d(
        x, weight, bias, case.stride, case.padding, case.dilation, case.groups, case.activation
    )
    exact = Bounded.of(x).conv2d(
        weight, bias, case.stride, case.padding, case.dilation, case.groups
    )
    exact.activation(case.activation).check(y)
    assert is_channels_last(y)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value(case: Case, isa: str) -> None:
    run_case(case, torch.randn(case.n, case.c_in, case.h, case.w) * 2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation: str, isa: str) -> None:
    case = Case(3, 17, (3, 3), 6, 7, (1, 1), (1, 1, 1, 1), activation=activation)
    run_case(case, torch.randn(1, 3, 6, 7) * 3)


def test_layouts(isa: str) -> None:
    case = Case(5, 18, (3, 3), 7, 8, (2, 2), (1, 1, 1, 1), n=2)
    for x in layouts(torch.randn(2, 5, 7, 8)).values():
        run_case(case, x)


def test_layouts_give_the_same_bits(isa: str) -> None:
    weight = torch.randn(18, 5, 3, 3)
    results = [ops.conv2d(x, weight, padding=1) for x in layouts(torch.randn(2, 5, 7, 8)).values()]
    for result in results[1:]:
        assert torch.equal(result, results[0])


def test_window_forms() -> None:
    x, weight = torch.randn(1, 3, 6, 6), torch.randn(4, 3, 3, 3)
    y = ops.conv2d(x, weight, None, (1, 1), (1, 1, 1, 1), (1, 1))
    assert torch.equal(ops.conv2d(x, weight, padding=1), y)
    assert torch.equal(ops.conv2d(x, weight, padding=(1, 1)), y)
    assert torch.equal(ops.conv2d(x, weight, padding=[1, 1]), y)
    assert torch.equal(ops.conv2d(x, weight, padding="same"), y)
    assert torch.equal(ops.conv2d(x, weight, padding=torch.Size((1, 1)), stride=[1]), y)


def test_weight_layout_does_not_matter() -> None:
    x, weight = torch.randn(1, 3, 6, 6), torch.randn(4, 3, 3, 3)
    y = ops.conv2d(x, weight)
    assert torch.equal(ops.conv2d(x, weight.contiguous(memory_format=torch.channels_last)), y)
    assert torch.equal(ops.conv2d(x, torch.randn(8, 3, 3, 3)[::2].copy_(weight)), y)


def test_input_is_not_written() -> None:
    x, weight = torch.randn(1, 3, 6, 6), torch.randn(4, 3, 3, 3)
    before = x.clone(), weight.clone()
    ops.conv2d(x, weight, activation="relu")
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])
