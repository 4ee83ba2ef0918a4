"""Two results against each other: what got slower or faster beyond chance.

A row is compared when both results have it. The ratio is of medians over rounds, with a bootstrap
interval; the p-value is a permutation test's on the rounds' figures, and its limit is divided among
the rows by Holm's procedure, so that a hundred unchanged rows raise no alarm. A row counts as
slower (faster) when the test says so and the ratio differs from 1 by more than the threshold.

Whole machines change speed between two runs, which makes every engine faster or slower. With
`relative` the figures are ratios to our own time in the same round of the same run, which is what
repeats on a shared machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from weebill.bench.results import Result
from weebill.bench.stats import Ratio, permutation_p, unpaired_ratio
from weebill.bench.tables import Table, format_ratio

__all__ = ["Change", "Comparison", "compare"]

SAME, SLOWER, FASTER = "same", "slower", "faster"


@dataclass(frozen=True)
class Change:
    """One row in both results."""

    name: str
    before: float  # ms, or ratio to ours
    after: float
    ratio: Ratio  # after / before
    p: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """All rows that both have, and what should be known when reading them."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    relative: bool

    @property
    def slower(self) -> bool:
        """Whether any row got slower: the exit code."""
        return any(change.verdict == SLOWER for change in self.changes)

    @property
    def largest(self) -> float:
        """Largest relative difference of a row, whether beyond chance or not."""
        return max((abs(c.ratio.value - 1.0) for c in self.changes), default=0.0)

    def table(self) -> Table:
        """For people."""
        unit = "ratio to ours" if self.relative else "ms"
        right = (f"before, {unit}", f"after, {unit}", "after / before", "p")
        lines = []
        for c in self.changes:
            figures = (f"{c.before:.4g}", f"{c.after:.4g}", format_ratio(c.ratio), f"{c.p:.4f}")
            lines.append((c.name, *figures, c.verdict))
        return Table("", ("row", *right, "verdict"), tuple(lines), right)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "relative": self.relative,
            "slower": self.slower,
            "largest_difference": self.largest,
            "notes": list(self.notes),
            "rows": [
                {
                    "name": c.name,
                    "before": c.before,
                    "after": c.after,
                    "ratio": c.ratio.value,
                    "low": c.ratio.low,
                    "high": c.ratio.high,
                    "p": c.p,
                    "verdict": c.verdict,
                }
                for c in self.changes
            ],
        }


def compare(
    before: Result,
    after: Result,
    *,
    engines: tuple[str, ...] = (),
    threshold: float = 0.05,
    alpha: float = 0.01,
    relative: bool = False,
) -> Comparison:
    """Compare the rows that both results have.

    Args:
        before: The base.
        after: The one in question.
        engines: Only rows of these; empty: of all.
        threshold: Relative difference below which a row counts as the same.
        alpha: Chance of any false alarm in the whole table.
        relative: Compare ratios to our own time instead of times.

    Raises:
        ValueError: No row is in both.
    """
    figures = _ratios_to_ours if relative else _times
    old, new = figures(before), figures(after)
    names = [name for name in new if name in old]
    if engines:
        names = [name for name in names if name.rpartition("/")[2] in engines]
    if not names:
        what = "row with a ratio to ours" if relative else "timed row"
        raise ValueError(f"compare: A and B must have a {what} in common, got none")
    p_values = [permutation_p(new[name], old[name]) for name in names]
    significant = _holm(p_values, alpha)
    changes = []
    stored = [{row.name: row.ratio for row in result.rows} for result in (before, after)]
    for name, p, beyond_chance in zip(names, p_values, significant, strict=True):
        a, b = (ratios[name] for ratios in stored)
        if relative and a is not None and b is not None:
            values = a.value, b.value
            ratio = Ratio(b.value / a.value, b.low / a.high, b.high / a.low)
        else:
            values = float(np.median(old[name])), float(np.median(new[name]))
            ratio = unpaired_ratio(new[name], old[name])
        verdict = SAME
        if beyond_chance and ratio.value > 1.0 + threshold:
            verdict = SLOWER
        elif beyond_chance and ratio.value < 1.0 / (1.0 + threshold):
            verdict = FASTER
        changes.append(Change(name, *values, ratio, p, verdict))
    return Comparison(tuple(changes), tuple(_notes(before, after)), relative)


def _times(result: Result) -> dict[str, list[float]]:
    return {row.name: row.turn_ms for row in result.rows if row.turn_ms}


def _ratios_to_ours(result: Result) -> dict[str, list[float]]:
    return {
        row.name: [other / ours for other, ours in zip(row.turn_ms, row.base_ms, strict=True)]
        for row in result.rows
        if row.ratio is not None and row.base_ms
    }


def _holm(p_values: list[float], alpha: float) -> list[bool]:
    """Which hypotheses fall, with a chance of at most `alpha` of any false one among them."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    fallen = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        fallen[index] = True
    return fallen


def _notes(before: Result, after: Result) -> list[str]:
    """What makes the two hard to compare."""
    notes = []
    for key, what in (
        ("cpu_model", "processors"),
        ("host_name", "machines"),
        ("min_time_s", "measuring times"),
        ("turn_ms", "lengths of turns"),
        ("wait_policy", "waiting policies"),
    ):
        a, b = before.context.get(key), after.context.get(key)
        if a != b:
            notes.append(f"different {what}: {a} and {b}")
    for name, result in (("A", before), ("B", after)):
        count = sum(row.tainted for row in result.rows)
        if count:
            notes.append(f"{name}: {count} rows were disturbed by other work")
    return notes
