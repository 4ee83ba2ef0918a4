"""The units of ShuffleNetV2 and V1."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.bounds import Bounded, is_channels_last, layouts
from weebill import ops


def shuffled(x: Bounded, groups: int) -> Bounded:
    return Bounded(F.channel_shuffle(x.value, groups), F.channel_shuffle(x.error, groups))


def joined(a: Bounded, b: Bounded) -> Bounded:
    return Bounded(torch.cat((a.value, b.value), 1), torch.cat((a.error, b.error), 1))


@dataclass(frozen=True)
class Case:
    """x is (n, c, h, w); `out` None: a basic unit, else half of a down-sampling one's channels."""

    c: int
    mid: int | None
    h: int
    w: int
    out: int | None = None
    kernel: int = 3
    stride: tuple[int, int] = (1, 1)
    padding: int | str | tuple[int, int, int, int] = 1
    activations: tuple[str, str, str] = ("relu", "none", "relu")
    bias: bool = True
    n: int = 1


CASES = [
    Case(48, 24, 7, 9),
    Case(116, 58, 14, 14),
    Case(232, 116, 5, 5),
    Case(244, 122, 4, 6),
    Case(2, 1, 1, 1),
    Case(6, None, 4, 5),
    Case(34, 50, 6, 3, activations=("hardswish", "relu6", "silu")),
    Case(20, 10, 9, 9, kernel=5, padding=2, bias=False),
    Case(20, 10, 9, 9, padding="same", n=3),
    Case(16, 8, 5, 5, n=0),
    Case(24, 58, 9, 12, out=58, stride=(2, 2)),
    Case(3, 7, 8, 8, out=17, stride=(2, 1), padding=(0, 1, 2, 1)),
    Case(10, 4, 7, 6, out=1, stride=(2, 2), padding="same", activations=("relu6", "relu", "none")),
    Case(24, None, 9, 12, out=22),
]


def run_case(case: Case, x: Tensor) -> None:
    def bias(size: int) -> Tensor | None:
        return torch.randn(size) if case.bias else None

    basic = case.out is None
    c_in = case.c // 2 if basic else case.c
    mid, out = case.mid or c_in, case.c // 2 if case.out is None else case.out
    w_e = None if case.mid is None else torch.randn(mid, c_in, 1, 1)
    b_e = None if case.mid is None else bias(mid)
    w_d, b_d = torch.randn(mid, 1, case.kernel, case.kernel), bias(mid)
    w_p, b_p = torch.randn(out, mid, 1, 1), bias(out)
    w_sd = None if basic else torch.randn(case.c, 1, case.kernel, case.kernel)
    w_sp = None if basic else torch.randn(out, case.c, 1, 1)
    b_sd, b_sp = (None, None) if basic else (bias(case.c), bias(out))
    expand, depthwise, project = case.activations
    y = ops.shuffle_unit(
        x,
        expand_weight=w_e,
        expand_bias=b_e,
        depthwise_weight=w_d,
        depthwise_bias=b_d,
        project_weight=w_p,
        project_bias=b_p,
        shortcut_depthwise_weight=w_sd,
        shortcut_depthwise_bias=b_sd,
        shortcut_project_weight=w_sp,
        shortcut_project_bias=b_sp,
        stride=case.stride,
        padding=case.padding,
        expand_activation=expand,
        depthwise_activation=depthwise,
        project_activation=project,
        shortcut_depthwise_activation=depthwise,
        shortcut_project_activation=project,
    )
    padding = (case.padding,) * 4 if isinstance(case.padding, int) else case.padding
    window = (case.stride, padding, (1, 1))
    if w_sd is None or w_sp is None:
        first, exact = (Bounded.of(half) for half in x.chunk(2, 1))
    else:
        first = Bounded.of(x).conv2d(w_sd, b_sd, *window, groups=case.c).activation(depthwise)
        first = first.conv2d(w_sp, b_sp).activation(project)
        exact = Bounded.of(x)
    if w_e is not None:
        exact = exact.conv2d(w_e, b_e).activation(expand)
    exact = exact.conv2d(w_d, b_d, *window, groups=mid).activation(depthwise)
    exact = exact.conv2d(w_p, b_p).activation(project)
    shuffled(joined(first, exact), 2).check(y)
    assert is_channels_last(y)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value(case: Case, isa: str) -> None:
    run_case(case, torch.randn(case.n, case.c, case.h, case.w))


@pytest.mark.parametrize("out", [None, 9])
def test_layouts(out: int | None, isa: str) -> None:
    for x in layouts(torch.randn(2, 12, 7, 8)).values():
        run_case(Case(12, 6, 7, 8, out=out, n=2), x)


@dataclass(frozen=True)
class CaseV1:
    """Widths per group, and the shortcut."""

    groups: int
    c: int
    mid: int
    out: int
    shortcut: str
    stride: int = 1
    expand_groups: int | None = None
    n: int = 1


CASES_V1 = [
    CaseV1(3, 5, 4, 5, "add"),
    CaseV1(8, 6, 3, 6, "add", n=2),
    CaseV1(3, 8, 20, 72, "concat", 2, 1),
    CaseV1(2, 7, 3, 9, "concat", 2),
    CaseV1(4, 3, 8, 5, "none"),
    CaseV1(1, 7, 17, 7, "add"),
    CaseV1(6, 1, 1, 1, "add"),
]


@pytest.mark.parametrize("case", CASES_V1, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (9, 6)])
def test_value_v1(case: CaseV1, size: tuple[int, int], isa: str) -> None:
    g = case.groups
    e = case.expand_groups or g
    c, mid, out = g * case.c, g * case.mid, g * case.out
    x = torch.randn(case.n, c, *size)
    w_e, b_e = torch.randn(mid, c // e, 1, 1), torch.randn(mid)
    w_d, b_d = torch.randn(mid, 1, 3, 3), torch.randn(mid)
    w_p, b_p = torch.randn(out, mid // g, 1, 1), torch.randn(out)
    y = ops.shuffle_unit_v1(
        x,
        expand_weight=w_e,
        expand_bias=b_e,
        depthwise_weight=w_d,
        depthwise_bias=b_d,
        project_weight=w_p,
        project_bias=b_p,
        stride=case.stride,
        padding=1,
        groups=g,
        expand_groups=case.expand_groups,
        shortcut=case.shortcut,
    )
    window = ((case.stride,) * 2, (1, 1, 1, 1), (1, 1))
    exact = Bounded.of(x).conv2d(w_e, b_e, groups=e).activation("relu")
    exact = shuffled(exact, g).conv2d(w_d, b_d, *window, groups=mid)
    exact = exact.conv2d(w_p, b_p, groups=g)
    if case.shortcut == "add":
        exact = exact.plus(Bounded.of(x))
    elif case.shortcut == "concat":
        mean = torch.full((c, 1, 3, 3), 1 / 9)
        exact = joined(Bounded.of(x).conv2d(mean, None, *window, groups=c), exact)
        pooled = F.avg_pool2d(x, 3, case.stride, 1)
        torch.testing.assert_close(y[:, :c], pooled.relu(), rtol=1e-5, atol=1e-6)
    exact.activation("relu").check(y)


def unit(**changes: object) -> Tensor:
    arguments: dict[str, object] = {
        "x": torch.ones(1, 8, 5, 5),
        "expand_weight": torch.ones(4, 4, 1, 1),
        "depthwise_weight": torch.ones(4, 1, 3, 3),
        "project_weight": torch.ones(4, 4, 1, 1),
        "padding": 1,
    }
    arguments |= changes
    return ops.shuffle_unit(arguments.pop("x"), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"x": torch.ones(1, 9, 5, 5)}, ValueError, "x must have 8 channels, got 9"),
        ({"padding": 0}, ValueError, "padding and stride must keep the size of x"),
        ({"stride": 2}, ValueError, "padding and stride must keep the size of x"),
        ({"project_weight": torch.ones(5, 4, 1, 1)}, ValueError, "project_weight must give 4"),
        (
            {"shortcut_project_weight": torch.ones(4, 8, 1, 1)},
            ValueError,
            "shortcut_depthwise_weight must be given",
        ),
        (
            {"shortcut_depthwise_weight": torch.ones(8, 1, 3, 3)},
            ValueError,
            "shortcut_depthwise_weight must have 4 channels",
        ),
        (
            {"shortcut_depthwise_weight": torch.ones(4, 2, 3, 3)},
            ValueError,
            r"shortcut_depthwise_weight must be \(4, 1, 3, 3\)",
        ),
        ({"expand_activation": "gelu"}, ValueError, "expand_activation must be one of"),
        ({"depthwise_weight": torch.ones(4, 1, 3, 3).double()}, TypeError, "must be float32"),
        ({"expand_weight": 3}, TypeError, "expand_weight must be of type"),
    ],
)
def test_bad_input(changes: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"shuffle_unit: .*{text}"):
        unit(**changes)


def unit_v1(**changes: object) -> Tensor:
    arguments: dict[str, object] = {
        "expand_weight": torch.ones(6, 2, 1, 1),
        "depthwise_weight": torch.ones(6, 1, 3, 3),
        "project_weight": torch.ones(6, 2, 1, 1),
        "padding": 1,
        "groups": 3,
        "shortcut": "add",
    }
    return ops.shuffle_unit_v1(torch.ones(1, 6, 5, 5), **(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"groups": 4}, "groups must divide the 6"),
        ({"project_groups": 2}, "project_weight must be"),
        ({"project_weight": torch.ones(9, 2, 1, 1)}, "project_weight must give 6 channels"),
        ({"shortcut": "both"}, "shortcut must be one of none, add, concat, got 'both'"),
        ({"stride": 2}, "padding and stride must keep the size"),
        ({"expand_weight": torch.ones(6, 2, 3, 3)}, "expand_weight must be"),
    ],
)
def test_bad_input_v1(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=f"shuffle_unit_v1: .*{text}"):
        unit_v1(**changes)
