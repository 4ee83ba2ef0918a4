"""One HTML page that shows results: no network, no other file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from weebill.bench import charts
from weebill.bench.charts import Axis, Bar, Series
from weebill.bench.results import OURS, SKIPPED, Result, Row, grouped, ours
from weebill.bench.suites import NETWORKS, load_suite
from weebill.bench.tables import Table, cold_table, format_ratio, remarks

__all__ = ["render_page"]

MARKS = 10  # colours of the page; the first is ours


@dataclass(frozen=True)
class Section:
    """A heading with its charts (caption and SVG) or its table."""

    title: str
    text: str
    figures: Sequence[tuple[str, Markup]] = ()
    table: Table | None = None


def render_page(results: Sequence[Result]) -> str:
    """The page of several results of one machine.

    Raises:
        ValueError: No result has a row or a cold start.
    """
    import jinja2

    if not any(result.rows or result.cold for result in results):
        raise ValueError("report: the results must hold at least one row, got none")
    rows = [row for result in results for row in result.rows]
    marks = _marks(rows)
    sections = [
        _speedups(rows, marks),
        _roofline(results, marks),
        _accuracy(rows, marks),
        _against(rows, marks, "threads", "threads"),
        _against(rows, marks, "size", "image height, pixels"),
        _cold(results),
        _engines(rows),
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("weebill.bench"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    context = results[0].context
    return environment.get_template("report.html.j2").render(
        machine=f"{context['cpu_model']}, {context['num_cpus']} cores, {context['kernel']}",
        made=f"weebill {context['versions']['weebill']}, {context['date']}",
        sections=[section for section in sections if section],
        legend=charts.legend(list(marks.items())),
        table=_all_rows(rows),
        environment=[(key, str(value)) for key, value in context.items()],
        remarks=[line for result in results for line in remarks(result)],
    )


def _marks(rows: Sequence[Row]) -> dict[str, str]:
    """Every engine's colour class."""
    engines = list(dict.fromkeys(row.engine for row in rows if row.wall_ms is not None))
    peers = [engine for engine in engines if engine not in OURS]
    # ours in shades of one colour: the base of ratios, and what is measured beside it
    marks = {
        engine: "s0 second" if i else "s0"
        for i, engine in enumerate(engine for engine in engines if engine in OURS)
    }
    return marks | {peer: f"s{1 + i % (MARKS - 1)}" for i, peer in enumerate(peers)}


def _speedups(rows: Sequence[Row], marks: dict[str, str]) -> Section | None:
    figures = []
    for group in grouped(rows):
        base = ours(group)
        peers = sorted(
            (row for row in group if row.ratio is not None),
            key=lambda row: row.ratio.value if row.ratio else 0.0,
        )
        if base is None or base.wall_ms is None or not peers:
            continue
        bars = [Bar(base.engine, 1.0, 1.0, 1.0, "s0", f"{base.wall_ms.median:.3f} ms")]
        for row in peers:
            assert row.ratio is not None
            assert row.wall_ms is not None
            ratio, note = row.ratio, f"{row.wall_ms.median:.3f} ms"
            bars.append(
                Bar(row.engine, ratio.value, ratio.low, ratio.high, marks[row.engine], note)
            )
        isa = "" if base.isa == "native" else f", {base.isa}"
        caption = f"{base.case}, {_plural(base.threads, 'thread')}{isa}"
        figures.append((caption, charts.bar_chart(bars, caption)))
    if not figures:
        return None
    text = (
        "Time of an engine over ours: to the right of the line it is slower than weebill, to the "
        "left faster. Median over interleaved rounds, with its 95 % interval."
    )
    return Section("Time, relative to weebill", text, figures)


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _roofline(results: Sequence[Result], marks: dict[str, str]) -> Section | None:
    figures = []
    for result in results:
        for peaks in result.context.get("peaks", ()):
            forced = [isa for isa in result.context["isa_forced"] if isa == peaks["isa"]]
            name = forced[0] if forced else "native"
            rows = [
                row
                for row in result.rows
                if row.gflops and row.macs and row.threads == 1 and row.isa == name
            ]
            if rows:
                caption = f"{result.context['kind']}, one core, {peaks['isa']}"
                figures.append((caption, _roofline_chart(rows, peaks, marks, caption)))
    if not figures:
        return None
    text = (
        "A case's operations per byte that must be moved (input, weights, output), and the rate "
        "that engines reach. The lines are measured on the same core: multiply-adds from "
        "registers, and reads from each cache."
    )
    return Section("Roofline", text, figures)


def _roofline_chart(
    rows: Sequence[Row], peaks: dict[str, Any], marks: dict[str, str], caption: str
) -> Markup:
    def intensity(row: Row) -> float:
        return 2.0 * row.macs / row.bytes

    slowest = min(row.gflops or 0.0 for row in rows) / 1.5
    ridges = [peaks["gflops"] / level["gbps"] for level in peaks["levels"]]
    high = 1.5 * max(*map(intensity, rows), *ridges)
    series = []
    for level, ridge in zip(peaks["levels"], ridges, strict=True):
        label = f"{level['name']} {level['gbps']:.0f} GB/s"
        slope = ((slowest / level["gbps"], slowest), (ridge, peaks["gflops"]))
        series.append(Series(label, slope, "roof", dots=False))
    roof = ((min(ridges), peaks["gflops"]), (high, peaks["gflops"]))
    top = f"peak {peaks['gflops']:.0f} GFLOP/s"
    series.append(Series(top, roof, "roof", dots=False))
    for engine, mark in marks.items():
        own = [row for row in rows if row.engine == engine]
        if own:
            points = tuple((intensity(row), row.gflops or 0.0) for row in own)
            names = tuple(row.case for row in own)
            series.append(Series(engine, points, mark, names, line=False))
    x_axis = Axis("operations per byte", log=True)
    return charts.xy_chart(series, x_axis, Axis("GFLOP/s", log=True), caption)


def _size_of(row: Row) -> int:
    return row.shape[2]


def _network_rows(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.suite in NETWORKS and "/" in row.case and row.wall_ms]


def _accuracy(rows: Sequence[Row], marks: dict[str, str]) -> Section | None:
    figures = []
    usual = [row for row in _network_rows(rows) if _size_of(row) == 224 and row.shape[0] == 1]
    for threads in sorted({row.threads for row in usual}):
        series = []
        for engine, mark in marks.items():
            own = [row for row in usual if row.engine == engine and row.threads == threads]
            points = [
                (row.wall_ms.median, top1, row.suite)
                for row in own
                if row.wall_ms and (top1 := load_suite(row.suite).top1)
            ]
            first = engine == next((name for name in OURS if name in marks), None)
            front = [p for p in points if first and not any(_better(q, p) for q in points)]
            for own_points, line in (
                (sorted(front), True),
                ([p for p in points if p not in front], False),
            ):
                if own_points:
                    places = tuple((x, y) for x, y, _ in own_points)
                    names = tuple(name for _, _, name in own_points)
                    series.append(Series(engine, places, mark, names, line=line, show_names=first))
        if len({name for one in series for name in one.names}) > 1:
            caption = f"ImageNet top-1 and latency, {_plural(threads, 'thread')}"
            x_axis, y_axis = Axis("median latency, ms", log=True), Axis("top-1, %")
            figures.append((caption, charts.xy_chart(series[::-1], x_axis, y_axis, caption)))
    if not figures:
        return None
    sources = sorted(
        f"{name}: {suite.top1} ({suite.top1_source})"
        for name in {row.suite for row in usual}
        if (suite := load_suite(name)).top1
    )
    text = "Published accuracies of trained weights: " + "; ".join(sources) + "."
    text += " The line leaves out what another network is both faster and better than."
    return Section("Accuracy and latency", text, figures)


def _better(one: tuple[float, float, str], other: tuple[float, float, str]) -> bool:
    """Whether a point (latency, accuracy, name) is ahead in one thing and behind in none."""
    return one[:2] != other[:2] and one[0] <= other[0] and one[1] >= other[1]


def _against(rows: Sequence[Row], marks: dict[str, str], what: str, title: str) -> Section | None:
    """Latency against threads, or against image size."""
    figures = []
    by_network: dict[tuple[str, int, int], list[Row]] = {}
    for row in _network_rows(rows):
        fixed = _size_of(row) if what == "threads" else row.threads
        by_network.setdefault((row.suite, row.shape[0], fixed), []).append(row)
    for (network, batch, fixed), own in by_network.items():
        series = []
        for engine, mark in marks.items():
            points = sorted(
                (float(row.threads if what == "threads" else _size_of(row)), row.wall_ms.median)
                for row in own
                if row.engine == engine and row.wall_ms
            )
            if points:
                series.append(Series(engine, tuple(points), mark))
        places = sorted({x for one in series for x, _ in one.points})
        if len(places) > 1:
            rest = f"{fixed} pixels" if what == "threads" else _plural(fixed, "thread")
            caption = f"{network}, batch {batch}, {rest}"
            x_axis = Axis(title, ticks=tuple(places))
            y_axis = Axis("median latency, ms", log=True)
            figures.append((caption, charts.xy_chart(series[::-1], x_axis, y_axis, caption)))
    if not figures:
        return None
    name = "threads" if what == "threads" else "image size"
    return Section(f"Latency and {name}", "", figures)


def _cold(results: Sequence[Result]) -> Section | None:
    lines = [line for result in results for line in result.cold]
    if not lines:
        return None
    table = cold_table(Result(results[0].context, cold=lines))
    return Section(
        "Cold start and memory", "One process per engine; the fastest of three.", table=table
    )


def _all_rows(rows: Sequence[Row]) -> Table:
    right = ("threads", "median ms", "p90 ms", "min ms", "time / ours", "of peak", "of roof")
    several_isas = len({row.isa for row in rows}) > 1
    columns = ("case", "engine", *(("isa",) if several_isas else ()), *right, "status")
    lines = []
    for row in rows:
        if row.status == SKIPPED:
            continue  # the remarks under the table say why
        time = row.wall_ms
        times = (time.median, time.p90, time.minimum) if time else ()
        shares = [f"{s:.0%}" if s else "" for s in (row.peak_share, row.roof_share)]
        status = row.status + (", tainted" if row.tainted else "")
        lines.append(
            (row.case, row.engine, *((row.isa,) if several_isas else ()), str(row.threads))
            + (tuple(f"{t:.3f}" for t in times) or ("",) * 3)
            + (re.sub(r" \[.*", "", format_ratio(row.ratio)), *shares, status)
        )
    return Table("All rows", columns, tuple(lines), right)


def _engines(rows: Sequence[Row]) -> Section | None:
    """What is the same in all rows of an engine, once."""
    lines = dict.fromkeys(
        (row.engine, row.version, row.settings.precision, row.settings.layout, row.settings.note)
        for row in rows
        if row.status != SKIPPED
    )
    if not lines:
        return None
    columns = ("engine", "version", "precision", "layout", "how it is run")
    return Section("Engines", "", table=Table("Engines", columns, tuple(lines)))
