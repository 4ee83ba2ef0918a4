"""Depthwise, then pointwise, in one op."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.bounds import ACTIVATIONS, Bounded, is_channels_last, layouts
from weebill import ops


@dataclass(frozen=True)
class Case:
    """One block; x is (n, c_in, h, w)."""

    c_in: int
    c_out: int
    h: int
    w: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] | str = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    activations: tuple[str, str] = ("relu6", "relu6")
    residual: bool = False
    bias: bool = True
    n: int = 1


CASES = [
    Case(32, 64, 12, 12),
    Case(17, 22, 9, 7, stride=(2, 2)),
    Case(50, 3, 5, 5, kernel=(5, 5), padding=(2, 2, 2, 2), activations=("hardswish", "none")),
    Case(1, 1, 1, 1),
    Case(2, 17, 8, 9, stride=(2, 1), padding=(0, 1, 2, 1), activations=("relu", "silu")),
    Case(3, 2, 6, 11, stride=(1, 2), padding="same", bias=False),
    Case(24, 24, 7, 8, residual=True, activations=("relu", "none")),
    Case(22, 22, 6, 6, residual=True, padding="same", activations=("silu", "hardswish"), n=3),
    Case(18, 10, 10, 10, padding=(2, 2, 2, 2), dilation=(2, 2)),
    Case(16, 16, 5, 6, n=0),
    Case(40, 33, 28, 30, activations=("none", "sigmoid")),
]


def run_case(case: Case, x: Tensor) -> None:
    w1, w2 = torch.randn(case.c_in, 1, *case.kernel), torch.randn(case.c_out, case.c_in, 1, 1)
    b1, b2 = (torch.randn(case.c_in), torch.randn(case.c_out)) if case.bias else (None, None)
    act1, act2 = case.activations
    y = ops.depthwise_pointwise(
        x,
        w1,
        b1,
        w2,
        b2,
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
        depthwise_activation=act1,
        pointwise_activation=act2,
        residual=case.residual,
    )
    exact = Bounded.of(x).conv2d(w1, b1, case.stride, case.padding, case.dilation, case.c_in)
    exact = exact.activation(act1).conv2d(w2, b2).activation(act2)
    if case.residual:
        exact = exact.plus(Bounded.of(x))
    exact.check(y)
    assert is_channels_last(y)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value(case: Case, isa: str) -> None:
    run_case(case, torch.randn(case.n, case.c_in, case.h, case.w))


@pytest.mark.parametrize("first", ACTIVATIONS)
def test_activations(first: str, isa: str) -> None:
    for second in ACTIVATIONS:
        run_case(Case(10, 12, 4, 5, activations=(first, second)), torch.randn(1, 10, 4, 5) * 2)


def test_layouts(isa: str) -> None:
    case = Case(20, 18, 7, 8, stride=(2, 2), n=2)
    for x in layouts(torch.randn(2, 20, 7, 8)).values():
        run_case(case, x)
