"""Inverted residual, with and without each of its parts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.bounds import ACTIVATIONS, Bounded, is_channels_last, layouts
from weebill import ops


@dataclass(frozen=True)
class Case:
    """One block; x is (n, c_in, h, w). c_mid and c_se None: without expansion, without SE."""

    c_in: int
    c_mid: int | None
    c_out: int
    h: int
    w: int
    c_se: int | None = None
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] | str = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    activation: str = "hardswish"
    se: tuple[str, str] = ("relu", "hardsigmoid")
    project: str = "none"
    residual: bool = False
    bias: bool = True
    n: int = 1


SAME5 = (2, 2, 2, 2)
CASES = [
    Case(16, 64, 24, 14, 14, stride=(2, 2), activation="relu"),
    Case(24, 72, 24, 9, 11, residual=True, activation="relu6"),
    Case(24, 72, 40, 8, 9, 24, (5, 5), (2, 2), SAME5, activation="relu"),
    Case(40, 120, 40, 7, 7, 32, (5, 5), padding=SAME5, residual=True),
    Case(16, None, 16, 10, 10, residual=True, activation="relu"),
    Case(16, None, 16, 10, 9, 8, stride=(2, 2), activation="relu"),
    Case(22, 22, 17, 5, 6, activation="silu", se=("silu", "sigmoid"), c_se=10),
    Case(1, 2, 1, 1, 1, residual=True),
    Case(2, 3, 1, 1, 1, 2),
    Case(3, 50, 17, 9, 6, stride=(2, 1), padding=(1, 0, 2, 1)),
    Case(17, 34, 22, 6, 9, 26, stride=(1, 2), padding=(0, 2, 1, 1)),
    Case(10, 60, 10, 13, 12, stride=(2, 2), padding="same", bias=False),
    Case(10, 40, 10, 12, 7, 5, (5, 5), (1, 1), "same", residual=True, bias=False),
    Case(8, 32, 8, 9, 9, padding=(2, 2, 2, 2), dilation=(2, 2), residual=True),
    Case(8, 32, 8, 9, 9, 4, (5, 5), padding=(4, 4, 4, 4), dilation=(2, 2)),
    Case(12, 30, 12, 6, 6, 2, se=("relu", "hardsigmoid_paddle"), project="relu", residual=True),
    Case(12, 30, 9, 5, 6, kernel=(7, 3), padding=(3, 1, 3, 1), project="sigmoid"),
    Case(16, 48, 16, 6, 7, 8, residual=True, n=3),
    Case(16, 48, 16, 6, 7, 8, residual=True, n=0),
    Case(16, 96, 24, 40, 44, stride=(2, 2), activation="relu6"),
]


def maybe(condition: bool, *shape: int) -> Tensor | None:
    return torch.randn(*shape) if condition else None


def run_case(case: Case, x: Tensor) -> None:
    mid = case.c_mid or case.c_in
    expands, squeezes = case.c_mid is not None, case.c_se is not None
    c_se = case.c_se or 0
    w_e = maybe(expands, mid, case.c_in, 1, 1)
    b_e = maybe(expands and case.bias, mid)
    w_d, b_d = torch.randn(mid, 1, *case.kernel), maybe(case.bias, mid)
    w_r, b_r = maybe(squeezes, c_se, mid, 1, 1), maybe(squeezes and case.bias, c_se)
    w_x, b_x = maybe(squeezes, mid, c_se, 1, 1), maybe(squeezes and case.bias, mid)
    w_p, b_p = torch.randn(case.c_out, mid, 1, 1), maybe(case.bias, case.c_out)
    y = ops.inverted_residual(
        x,
        expand_weight=w_e,
        expand_bias=b_e,
        depthwise_weight=w_d,
        depthwise_bias=b_d,
        se_reduce_weight=w_r,
        se_reduce_bias=b_r,
        se_expand_weight=w_x,
        se_expand_bias=b_x,
        project_weight=w_p,
        project_bias=b_p,
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
        expand_activation=case.activation,
        depthwise_activation=case.activation,
        se_activation=case.se[0],
        se_gate=case.se[1],
        project_activation=case.project,
        residual=case.residual,
    )
    exact = Bounded.of(x)
    if w_e is not None:
        exact = exact.conv2d(w_e, b_e).activation(case.activation)
    exact = exact.conv2d(w_d, b_d, case.stride, case.padding, case.dilation, groups=mid)
    exact = exact.activation(case.activation)
    if w_r is not None and w_x is not None:
        exact = exact.squeeze_excite(w_r, b_r, w_x, b_x, *case.se)
    exact = exact.conv2d(w_p, b_p).activation(case.project)
    if case.residual:
        exact = exact.plus(Bounded.of(x))
    exact.check(y)
    assert is_channels_last(y)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value(case: Case, isa: str) -> None:
    run_case(case, torch.randn(case.n, case.c_in, case.h, case.w))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("c_se", [None, 6])
def test_activation(activation: str, c_se: int | None, isa: str) -> None:
    x = torch.randn(1, 10, 5, 6) * 2
    run_case(Case(10, 24, 10, 5, 6, c_se, activation=activation, residual=True), x)


@pytest.mark.parametrize("c_se", [None, 6])
def test_layouts(c_se: int | None, isa: str) -> None:
    case = Case(12, 36, 12, 7, 8, c_se, residual=True, n=2)
    for x in layouts(torch.randn(2, 12, 7, 8)).values():
        run_case(case, x)
