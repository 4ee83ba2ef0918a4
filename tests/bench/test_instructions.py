"""The guard: what it counts as worse, and what another compiler changes."""

from __future__ import annotations

from typing import Any

import pytest

from bench import instructions

BASELINE: dict[str, Any] = {
    "compiler": "GNU 12",
    "instructions": {"avx2": {"kernel/a": 1000, "kernel/b": 1000, "kernel/gone": 5}},
}


@pytest.mark.parametrize(
    ("counts", "compiler", "code"),
    [
        ({"kernel/a": 1019, "kernel/b": 500, "kernel/gone": 5}, "GNU 12", 0),
        ({"kernel/a": 1021, "kernel/b": 1000, "kernel/gone": 5}, "GNU 12", 1),
        ({"kernel/a": 1021, "kernel/b": 1000, "kernel/gone": 5}, "GNU 13", 0),
        ({"kernel/a": 1000, "kernel/b": 1000}, "GNU 12", 1),
        ({"kernel/a": 1000, "kernel/b": 1000, "kernel/gone": 5, "kernel/new": 7}, "GNU 12", 1),
    ],
)
def test_more_instructions_fail_with_the_same_compiler(
    counts: dict[str, int], compiler: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert instructions.judge(BASELINE, compiler, {"avx2": counts}) == code
    assert "above the baseline" in capsys.readouterr().out


def test_changes_below_the_limit_are_not_shown() -> None:
    assert instructions.compare({"a": 100, "b": 100}, {"a": 102, "b": 97}) == [("b", 100, 97)]


def test_a_groups_change_is_that_of_the_rows_that_stayed() -> None:
    before = {"kernel/a": 100, "kernel/b": 100, "kernel/gone": 7, "net/a": 10}
    after = {"kernel/a": 200, "kernel/b": 50, "kernel/new": 3, "new/a": 5}
    assert instructions.changes(before, after) == [
        ["kernel", 3, 253, "1.0000"],
        ["new", 1, 5, "1.0000"],
    ]
    assert instructions.changes(before, {"net/a": 9}) == [["net", 1, 9, "0.9000"]]
