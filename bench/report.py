"""Prints rows as tables and stores them as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.run import OK, OURS, SKIPPED, Row
from bench.stats import Ratio, geometric_mean


def write_json(path: Path, context: dict[str, object], rows: Sequence[Row]) -> None:
    """Write the result so that a reader never sees half a file."""
    document = {"context": context, "benchmarks": [row.as_json() for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, path)


def _ratio(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def fastest_peer(rows: Sequence[Row], *, limited_isa: bool) -> Row | None:
    """The peer with the least minimum among one case's rows.

    Args:
        rows: Rows of one case and thread count.
        limited_isa: Leave out engines that cannot be limited to the tier that was forced.
    """
    timed = [
        row
        for row in rows
        if row.engine != OURS
        and row.time_ms is not None
        and not (limited_isa and row.settings.isa == "native")
    ]
    return min(timed, key=lambda r: r.time_ms.minimum if r.time_ms else 0.0, default=None)


def detail_table(rows: Sequence[Row]) -> Table:
    """All figures of one case."""
    first = rows[0]
    shape = "x".join(str(n) for n in first.shape)
    table = Table(title=f"{first.case}  input {shape}  threads {first.threads}")
    for heading in ("engine", "version", "layout"):
        table.add_column(heading)
    numbers = ("min ms", "median", "p10", "p90", "GFLOP/s", "peak", "error")
    for heading in (*numbers, "x ours, median", "x ours, min"):
        table.add_column(heading, justify="right")
    table.add_column("remarks")
    for row in rows:
        remarks = [row.reason] if row.reason else []
        if row.time_ms is not None:
            remarks += ["tainted"] if row.tainted else []
            remarks += [row.settings.note]
        time = row.time_ms
        figures = [""] * 6
        if time is not None:
            figures = [f"{t:.3f}" for t in (time.minimum, time.median, time.p10, time.p90)]
            figures += [f"{row.gflops:.1f}", f"{row.peak_share:.0%}" if row.peak_share else ""]
        table.add_row(
            row.engine,
            row.version,
            row.settings.layout,
            *figures,
            "" if row.error is None else f"{row.error:.0e}",
            _ratio(row.ratio_median),
            _ratio(row.ratio_minimum),
            ", ".join(remarks),
            style="" if row.status == OK else ("dim" if row.status == SKIPPED else "red"),
        )
    return table


def group(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by case and thread count, in order of appearance."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.case, row.threads), []).append(row)
    return list(groups.values())


def summary_table(rows: Sequence[Row], *, limited_isa: bool) -> Table:
    """Minima of all engines in ms, one line per case, and ours against the fastest peer."""
    engines = list(dict.fromkeys(row.engine for row in rows if row.time_ms is not None))
    table = Table(title="minima, ms")
    table.add_column("case")
    table.add_column("threads", justify="right")
    for engine in engines:
        table.add_column(engine, justify="right")
    for heading in ("ours, peak", "fastest peer", "x ours, min", "x ours, median"):
        table.add_column(heading, justify="right")
    by_minimum: list[float] = []
    by_median: list[float] = []
    for lines in group(rows):
        by_engine = {row.engine: row for row in lines}
        peer = fastest_peer(lines, limited_isa=limited_isa)
        cells = [_minimum(by_engine.get(engine)) for engine in engines]
        ours = by_engine.get(OURS)
        share = ours.peak_share if ours is not None else None
        table.add_row(
            lines[0].case,
            str(lines[0].threads),
            *cells,
            f"{share:.0%}" if share else "",
            peer.engine if peer else "",
            _ratio(peer.ratio_minimum) if peer else "",
            _ratio(peer.ratio_median) if peer else "",
            style="yellow" if any(row.tainted for row in lines) else "",
        )
        if peer and peer.ratio_minimum and peer.ratio_median:
            by_minimum.append(peer.ratio_minimum.value)
            by_median.append(peer.ratio_median.value)
    if by_minimum:
        means = (f"{geometric_mean(by_minimum):.2f}", f"{geometric_mean(by_median):.2f}")
        table.add_section()
        blanks = [""] * (len(engines) + 3)
        table.add_row("geometric mean", *blanks, *means)
    return table


def _minimum(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.time_ms.minimum:.3f}" if row.time_ms else row.status


def print_rows(console: Console, rows: Sequence[Row], *, detail: bool, limited_isa: bool) -> None:
    """Print the summary, and every case's table before it when `detail` is set."""
    if detail:
        for lines in group(rows):
            console.print(detail_table(lines))
    console.print(summary_table(rows, limited_isa=limited_isa))
    reasons = {(row.engine, row.status, row.reason): row for row in rows if row.status != OK}
    for engine, status, reason in reasons:
        console.print(f"{engine}: {status}: {reason}", style="dim" if status == SKIPPED else "red")
    if any(row.tainted for row in rows):
        console.print("Yellow: other work shared the cores in too many rounds; measure again.")
