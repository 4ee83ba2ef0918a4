"""The rules by which bench.mca counts cycles on cores that issue in order."""

from __future__ import annotations

import pytest

from bench.in_order import CORES, bound, cycles, fma_cycles, issue_cycles, kind, load_fma_bound
from bench.in_order_rows import executed

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


def test_only_what_is_accumulated_into_is_waited_for() -> None:
    maxima = ["fmax\tv0.4s, v30.4s, v31.4s"] * 4
    assert cycles(maxima, CORES["A53"]) == pytest.approx(4, abs=0.5)
    inserts = ["ldr\td1, [x0]", "mov\tv1.d[1], x3"]
    assert cycles(inserts, CORES["A53"], passes=1) == 5


LOADED = ["ldr\td25, [x0]", "ldr\tx3, [x0, #8]", "mov\tv25.d[1], x3"]


@pytest.mark.parametrize(
    ("loop", "a53", "a55"),
    [
        (FMAS, 12, 12),
        ([*FMAS, "mov\tv0.16b, v29.16b"], 13, 13),
        ([*FMAS, "str\tq0, [x0]"], 14, 14),
        # A load's first half takes a cycle of A53 beside its insert, and none of A55.
        (FMAS + 4 * LOADED, 16, 12),
        (FMAS + 12 * LOADED, 24, 24),
        (FMAS + 12 * ["add\tx0, x0, #16"], 12, 12),
        (FMAS + 14 * ["add\tx0, x0, #16"], 13, 13),
    ],
)
def test_what_must_be_issued(loop: list[str], a53: int, a55: int) -> None:
    for core, least in (("A53", a53), ("A55", a55)):
        assert issue_cycles(loop, CORES[core]) == least
        assert cycles(loop, CORES[core], passes=1) >= least


def test_the_bound_is_the_larger_of_arithmetic_and_loads() -> None:
    for core in CORES.values():
        copied = [*FMAS, "mov\tv0.16b, v29.16b", "ldr\tq1, [x0]", "add\tx0, x0, #16"]
        assert bound(copied, core) == 12
        assert bound([*FMAS[:3], *(4 * ["ldr\tq1, [x0]"])], core) == 8


@pytest.mark.parametrize(
    ("loads", "a53", "a55"),
    [
        # Nothing starts beside a whole load or a store.
        (12 * ["ldr\tq25, [x0]"], 36, 36),
        (["str\tq25, [x0]"], 14, 14),
        # A half starts beside an FMA on A55 alone; on A53 its insert does beside it.
        (12 * ["ldr\td25, [x0]"], 24, 12),
        (12 * LOADED, 24, 24),
        (4 * LOADED, 16, 12),
        (12 * ["ldr\tx3, [x0]"], 12, 12),
    ],
)
def test_loads_and_arithmetic_together(loads: list[str], a53: int, a55: int) -> None:
    rest = ["mov\tv0.16b, v29.16b", *(30 * ["add\tx0, x0, #16"])]
    for core, least in (("A53", a53), ("A55", a55)):
        assert load_fma_bound([*FMAS, *rest, *loads], CORES[core]) == least
        assert least >= bound([*FMAS, *loads], CORES[core])


def test_instructions_between_the_marks_are_read_in_their_order() -> None:
    log = [
        *(b"0x0100:  d503201f  nop\n", b"Trace 0: 0x7f [00/0100/00/00] begin\n"),
        *(b"0x0200:  8b000000  add      x0, x1, x2\n", b"0x0204:  54000041  b.ne     #0x300\n"),
        *(b"Trace 0: 0x7f [00/0200/00/00]\n", b"0x0300:  3d800000  str      q0, [x0]\n"),
        *(b"Trace 0: 0x7f [00/0300/00/00]\n", b"Trace 0: 0x7f [00/0200/00/00]\n"),
        *(b"0x0400:  d503201f  nop\n", b"Trace 0: 0x7f [00/0400/00/00] end\n"),
        b"Trace 0: 0x7f [00/0300/00/00]\n",
        *(b"Trace 0: 0x7f [00/0100/00/00] begin\n", b"Trace 0: 0x7f [00/0300/00/00]\n"),
        b"Trace 0: 0x7f [00/0400/00/00] end\n",
    ]
    step, store = "add      x0, x1, x2", "str      q0, [x0]"
    assert executed(log, 0x100, 0x400) == [[step, "nop", store, step, "nop"], [store]]
