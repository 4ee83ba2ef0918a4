"""Rows, and the file that they are kept in: google-benchmark's JSON shape with more beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from weebill.bench.engines.base import Settings
from weebill.bench.stats import Ratio, Summary

__all__ = [
    "FAILED",
    "OK",
    "OURS",
    "SKIPPED",
    "WRONG",
    "Result",
    "Row",
    "as_document",
    "read_result",
    "write_result",
]

#: The first that has a time is the base of ratios; none is a peer.
OURS = ("weebill", "weebill_native", "weebill_unfused")

# ok: measured; wrong: output differs from float64, not timed; failed: could not be exported
# or loaded; skipped: not installed or not applicable.
OK, WRONG, FAILED, SKIPPED = "ok", "wrong", "failed", "skipped"

SCHEMA = 1


@dataclass
class Row:
    """One engine on one case with one thread count and instruction set."""

    case: str
    suite: str
    engine: str
    threads: int
    isa: str
    shape: tuple[int, ...]
    macs: int
    bytes: int
    status: str = OK
    reason: str = ""
    version: str = ""
    settings: Settings = field(default_factory=Settings)
    error: float | None = None  # relative to float64
    wall_ms: Summary | None = None
    cpu_ms: Summary | None = None
    turn_ms: list[float] = field(default_factory=list)  # one figure per kept round
    base_ms: list[float] = field(default_factory=list)  # ours beside each of them
    tainted: bool = False  # disturbed rounds had to be kept
    dropped: int = 0  # disturbed rounds that were left out
    retried: int = 0  # disturbed turns that were repeated
    ratio: Ratio | None = None  # this engine's time over ours
    gflops: float | None = None  # 1e9 floating-point operations per second, by the minimum
    peak_share: float | None = None  # of the FMA peak of `threads` cores
    roof_share: float | None = None  # of what the roofline allows at this intensity
    queries: int = 0  # single-stream mode

    @property
    def group(self) -> tuple[str, int, str]:
        """Rows of one group were measured against each other."""
        return self.case, self.threads, self.isa

    @property
    def name(self) -> str:
        """Unique name, the same in every run."""
        isa = "" if self.isa == "native" else f"/isa:{self.isa}"
        return f"{self.case}/threads:{self.threads}{isa}/{self.engine}"

    def as_json(self) -> dict[str, Any]:
        """google-benchmark's fields, then ours."""
        own = asdict(self)
        return {
            "name": self.name,
            "run_name": self.name,
            "run_type": "iteration",
            "repetitions": len(self.turn_ms),
            "iterations": self.wall_ms.count if self.wall_ms else 0,
            "real_time": self.wall_ms.median if self.wall_ms else None,
            "cpu_time": self.cpu_ms.median if self.cpu_ms else None,
            "time_unit": "ms",
            "error_occurred": self.status in (WRONG, FAILED),
            "error_message": self.reason,
            **own,
        }


def row_from_json(entry: dict[str, Any]) -> Row:
    """The row that `as_json` wrote."""
    own = {f.name: entry[f.name] for f in fields(Row) if f.name in entry}
    own["shape"] = tuple(own["shape"])
    own["settings"] = Settings(**own["settings"])
    for name, kind in (("wall_ms", Summary), ("cpu_ms", Summary), ("ratio", Ratio)):
        if own.get(name) is not None:
            own[name] = kind(**own[name])
    return Row(**own)


@dataclass
class Result:
    """A run: what it was made on and with, its rows, and what else was measured."""

    context: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    cold: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)


def as_document(result: Result) -> dict[str, Any]:
    """The result as it is written."""
    return {
        "context": result.context | {"json_schema_version": 1, "weebill_schema": SCHEMA},
        "benchmarks": [row.as_json() for row in result.rows],
        "cold": result.cold,
        "stages": result.stages,
    }


def write_result(path: Path, result: Result) -> None:
    """Write the result so that a reader never sees half a file."""
    document = as_document(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, path)


def read_result(path: Path) -> Result:
    """Read a result.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no result of this program.
    """
    try:
        document = json.loads(path.read_text())
        schema = document["context"]["weebill_schema"]
        if schema != SCHEMA:
            raise ValueError(f"{path}: weebill_schema must be {SCHEMA}, got {schema!r}")
        rows = [row_from_json(entry) for entry in document["benchmarks"]]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a result of weebill bench ({error})") from None
    return Result(document["context"], rows, document.get("cold", []), document.get("stages", []))


def ours(rows: Sequence[Row]) -> Row | None:
    """Our row among those of one group: the base of its ratios."""
    for name in OURS:
        for row in rows:
            if row.engine == name and row.wall_ms is not None:
                return row
    return None


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by group, in order of appearance."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return list(groups.values())


def fastest_peer(rows: Sequence[Row]) -> Row | None:
    """The peer with the least ratio to ours among a group's rows.

    Engines that cannot be limited to the instruction set that was asked for do not count.
    """
    timed = [
        row
        for row in rows
        if row.engine not in OURS
        and row.ratio is not None
        and not (row.isa != "native" and row.settings.isa == "native")
    ]
    return min(timed, key=lambda row: row.ratio.value if row.ratio else 0.0, default=None)
