"""Results as tables: for a terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weebill.bench.results import OURS, Result, Row, fastest_peer, grouped, ours
from weebill.bench.stats import Ratio, geometric_mean

__all__ = [
    "Table",
    "cold_table",
    "detail_table",
    "stage_tables",
    "summary_table",
    "to_csv",
    "to_markdown",
]


@dataclass(frozen=True)
class Table:
    """A table of text; the columns named in `right` are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[str, ...] = ()


def to_markdown(table: Table) -> str:
    """As GitHub's Markdown."""
    ends = ["---:" if name in table.right else "---" for name in table.columns]
    lines = [table.columns, ends, *table.rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def to_csv(result: Result) -> str:
    """All rows with all scalar figures, one a line."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "case",
            "engine",
            "version",
            "threads",
            "isa",
            "status",
            "reason",
            "median_ms",
            "p10_ms",
            "p90_ms",
            "min_ms",
            "gflops",
            "peak_share",
            "roof_share",
            "error",
            "tainted",
            "ratio",
            "ratio_low",
            "ratio_high",
            "precision",
            "layout",
            "note",
        ]
    )
    for row in result.rows:
        time, ratio, settings = row.wall_ms, row.ratio, row.settings
        times = (time.median, time.p10, time.p90, time.minimum) if time else ("",) * 4
        ratios = (ratio.value, ratio.low, ratio.high) if ratio else ("",) * 3
        shares = (row.gflops, row.peak_share, row.roof_share, row.error)
        names = (row.case, row.engine, row.version, row.threads, row.isa, row.status, row.reason)
        figures = (*times, *("" if value is None else value for value in shares))
        how = (settings.precision, settings.layout, settings.note)
        writer.writerow((*names, *figures, int(row.tainted), *ratios, *how))
    return stream.getvalue()


def format_ratio(ratio: Ratio | None) -> str:
    """Value and interval."""
    return "" if ratio is None else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _time(row: Row | None, single_stream: bool) -> str:
    if row is None:
        return ""
    if row.wall_ms is None:
        return row.status
    time = row.wall_ms.p90 if single_stream else row.wall_ms.median
    return f"{time:.3f}" + ("*" if row.tainted else "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def summary_table(result: Result) -> Table:
    """Medians of all engines in ms, one line per case, and the fastest peer against ours.

    Of a single-stream run, the 90th percentile.
    """
    single_stream = result.context.get("mode") == "single-stream"
    engines = list(dict.fromkeys(row.engine for row in result.rows if row.wall_ms is not None))
    right = ("threads", *engines, "of peak", "of roof", "fastest peer / ours")
    columns = ("case", "threads", "isa", *engines, "of peak", "of roof", "fastest peer")
    lines: list[tuple[str, ...]] = []
    ratios: list[float] = []
    for rows in grouped(result.rows):
        by_engine = {row.engine: row for row in rows}
        base, peer = ours(rows), fastest_peer(rows)
        lines.append(
            (
                rows[0].case,
                str(rows[0].threads),
                rows[0].isa,
                *(_time(by_engine.get(engine), single_stream) for engine in engines),
                _percent(base.peak_share) if base else "",
                _percent(base.roof_share) if base else "",
                peer.engine if peer else "",
                format_ratio(peer.ratio) if peer else "",
            )
        )
        if peer is not None and peer.ratio is not None:
            ratios.append(peer.ratio.value)
    if len(ratios) > 1:
        blanks = ("",) * (len(engines) + 5)
        lines.append(("geometric mean", *blanks, f"{geometric_mean(ratios):.2f}"))
    title = "90th percentile of single queries, ms" if single_stream else "median, ms"
    return Table(title, (*columns, "fastest peer / ours"), tuple(lines), right)


def detail_table(rows: Sequence[Row]) -> Table:
    """All figures of one group."""
    first = rows[0]
    shape = "x".join(str(n) for n in first.shape)
    right = ("median ms", "p10", "p90", "min", "GFLOP/s", "of peak", "of roof", "error")
    columns = ("engine", "version", "layout", *right, "time / ours", "remarks")
    lines = []
    for row in rows:
        time = row.wall_ms
        remarks = [row.status] if row.status != "ok" else []
        remarks += [row.reason] if row.reason else []
        remarks += ["tainted"] if row.tainted else []
        remarks += [row.settings.note]
        figures: tuple[str, ...] = ("",) * 4
        if time is not None:
            figures = tuple(f"{t:.3f}" for t in (time.median, time.p10, time.p90, time.minimum))
        lines.append(
            (
                row.engine,
                row.version,
                row.settings.layout,
                *figures,
                f"{row.gflops:.1f}" if row.gflops else "",
                _percent(row.peak_share),
                _percent(row.roof_share),
                "" if row.error is None else f"{row.error:.0e}",
                format_ratio(row.ratio),
                "; ".join(remarks),
            )
        )
    title = f"{first.case}, input {shape}, threads {first.threads}, isa {first.isa}"
    return Table(title, columns, tuple(lines), (*right, "time / ours"))


def remarks(result: Result) -> list[str]:
    """Why rows have no time, and what the marks mean."""
    lines = {
        f"{row.engine}: {row.status}: {row.reason}": None
        for row in result.rows
        if row.status != "ok"
    }
    if any(row.tainted for row in result.rows):
        lines["* threads waited for a core in too many rounds, for other work or each other"] = None
    if any(row.ratio is not None for row in result.rows):
        base = " or ".join(OURS)
        way = "median over rounds, of several threads 2nd percentiles of calls"
        lines[f"ratios: time / time of {base}, {way}, 95 % interval"] = None
    return [*lines, *_slowdowns(result.context)]


def _slowdowns(context: dict[str, Any]) -> list[str]:
    """Whether the machine itself got slower during the run, as far as it tells."""
    lines = []
    before, after = context.get("throttle_count"), context.get("throttle_count_end")
    if before is not None and after is not None and after > before:
        lines.append(f"the CPU was throttled {after - before} times during the run: cool it")
    start, end = context.get("mhz_per_cpu"), context.get("mhz_per_cpu_end")
    if start and end and abs(end / start - 1.0) > 0.1:
        lines.append(f"the clock was {start:.0f} MHz at the start and {end:.0f} at the end")
    return lines


def cold_table(result: Result) -> Table:
    """Cold start and memory."""
    keys = ("import_ms", "load_ms", "first_ms", "steady_ms")
    memory = ("library_mib", "model_mib", "peak_mib")
    right = ("threads", *(key.replace("_", " ") for key in (*keys, *memory)))
    lines = [
        (
            str(row["case"]),
            str(row["engine"]),
            str(row["threads"]),
            *("" if row["reason"] else f"{row[key]:.2f}" for key in keys),
            *("" if row["reason"] else f"{row[key]:.0f}" for key in memory),
            str(row["reason"]),
        )
        for row in result.cold
    ]
    columns = ("case", "engine", *right, "remarks")
    return Table("cold start: one process per engine", columns, tuple(lines), right)


def stage_tables(result: Result) -> list[Table]:
    """Where the time of each case goes."""
    cases: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result.stages:
        cases.setdefault((row["case"], row["isa"]), []).append(row)
    columns = ("stage", "kernel", "calls", "us", "share", "GFLOP/s", "of peak")
    tables = []
    for (case, isa), rows in cases.items():
        lines = [
            (
                row["stage"],
                row["kernel"],
                str(row["calls"] or ""),
                f"{row['microseconds']:.1f}",
                _percent(row["share"]),
                f"{2e-3 * row['macs'] / row['microseconds']:.1f}" if row["macs"] else "",
                _percent(row["peak_share"]),
            )
            for row in rows
        ]
        saved = rows[-1]["saved_bytes"]
        title = f"{case}, isa {isa}"
        if saved:
            title += f", fusion moves {saved / 1e6:.2f} MB of activations less"
        tables.append(Table(title, columns, tuple(lines), columns[2:]))
    return tables
