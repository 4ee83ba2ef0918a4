"""The rules by which bench.mca counts cycles on cores that issue in order."""

from __future__ import annotations

import pytest

from bench.in_order import CORES, cycles, fma_cycles, kind

FMAS = [f"fmla\tv{i}.4s, v30.4s, v31.s[0]" for i in range(12)]


def after_each_fma(text: str) -> list[str]:
    lines = []
    for i, fma in enumerate(FMAS):
        lines += [fma, text.replace("v25", f"v{16 + i % 8}")]
    return lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ldr\tq25, [x0, #16]", "whole"),
        ("ldr\td25, [x5, x1]", "half"),
        ("str\td25, [x5, x1]", "half"),
        ("ldr\tx3, [x0, #8]", "scalar"),
        ("prfm\tpldl2keep, [x10]", "scalar"),
        ("mov\tv25.d[1], x3", "insert"),
        ("fmax\tv1.4s, v1.4s, v8.4s", "vector"),
        ("add\tx0, x0, #0x100", "integer"),
    ],
)
def test_kinds(text: str, expected: str) -> None:
    assert kind(text) == expected


@pytest.mark.parametrize(
    ("text", "a53", "a55"),
    [
        ("ldr\tx3, [x0, #8]", 1, 1),
        ("add\tx3, x3, #1", 1, 1),
        ("ldr\td25, [x0]", 2, 1),
        ("mov\tv25.d[1], x3", 2, 1),
        ("ldr\tq25, [x0]", 3, 3),
    ],
)
def test_what_starts_beside_an_fma(text: str, a53: int, a55: int) -> None:
    loop = after_each_fma(text)
    assert fma_cycles(loop) == 12
    for core, each in (("A53", a53), ("A55", a55)):
        assert cycles(loop, CORES[core]) == pytest.approx(12 * each, abs=0.5)


def test_results_are_waited_for() -> None:
    chain = ["fmla\tv0.4s, v30.4s, v31.4s"] * 4
    assert cycles(chain, CORES["A53"]) == pytest.approx(16, abs=0.5)
    loaded = ["ldr\td30, [x0]", "fmla\tv0.4s, v30.4s, v31.4s"]
    assert cycles(loaded, CORES["A53"], passes=1) == 5
    assert cycles(loaded, CORES["A55"], passes=1) == 4
