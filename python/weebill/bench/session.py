"""What `weebill bench` does between its command line and its tables."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weebill.bench.case import default_cache
from weebill.bench.engines import ENGINES, make_engine
from weebill.bench.environment import describe_end, describe_environment
from weebill.bench.options import (
    Options,
    Progress,
    known_isas,
    parse_cpus,
    parse_names,
    parse_positives,
    parse_size,
)
from weebill.bench.results import Result, Row, write_result
from weebill.bench.roofline import machine_peaks
from weebill.bench.run import DEFAULT_NETWORKS, Runner, case_blocks, make_cases
from weebill.bench.suites import NETWORKS, load_suite, suite_names

__all__ = ["list_choices", "make_options", "measure", "show_progress"]


def make_options(kind: str, given: Mapping[str, Any]) -> Options:
    """Options from the command line's texts.

    Raises:
        ValueError: One that makes no sense, with what it may be.
    """
    select = tuple(given["select"] or ())
    if kind == "models":
        for name in select:
            parse_names("network", name, NETWORKS)
    threads = parse_positives("--threads", given["threads"])
    available = tuple(sorted(os.sched_getaffinity(0)))
    cpus = parse_cpus(given["cpu"]) if given["cpu"] else available[-max(threads) :]
    if len(cpus) < max(threads):
        raise ValueError(
            f"--threads must be at most the number of cores, {len(cpus)}, got {max(threads)}"
        )
    modes = [mode for mode in ("cold", "single_stream", "stages") if given[mode]]
    if len(modes) > 1:
        flags = " and ".join(f"--{mode.replace('_', '-')}" for mode in modes)
        raise ValueError(f"{flags} are different kinds of runs; give one of them")
    isas: tuple[str | None, ...] = (None,)
    if given["isa"]:
        isas = parse_names("--isa", given["isa"], known_isas())
    backends = tuple(ENGINES)
    if given["backend"] not in (None, "all"):
        backends = parse_names("--backend", given["backend"], backends)
    parse_names("--wait-policy", given["wait_policy"], ("default", "passive"))
    parse_names("--format", given["format_"], ("table", "csv", "markdown"))
    return Options(
        kind=kind,
        select=select,
        sizes=tuple(parse_size(part) for part in given["size"].split(",")),
        batches=parse_positives("--batch", given["batch"]),
        threads=threads,
        backends=backends,
        slow=given["backend"] is not None,
        isas=isas,
        cpus=cpus,
        min_time=given["min_time"],
        budget=given["budget"] or math.inf,
        turn_ms=given["turn_ms"],
        wait_policy=given["wait_policy"],
        tolerance=given["tolerance"],
        mode=modes[0].replace("_", "-") if modes else "steady",
        cache=given["cache"] or default_cache(),
    )


def list_choices(options: Options) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """What can be selected, and which engines can be used here or why not."""
    rows: list[tuple[str, ...]] = []
    if options.kind == "models":
        for name in NETWORKS:
            default = "by default" if name in DEFAULT_NETWORKS else ""
            rows.append(("network", name, default, load_suite(name).title))
    else:
        rows += [("suite", name, "", load_suite(name).title) for name in suite_names()]
        what = options.kind.rstrip("s")
        for name, _suite, blocks in case_blocks(options):
            macs = sum(block.macs for block in blocks) / 1e6
            rows.append((what, name, "", f"{macs:.2f} M multiply-adds"))
    for name in options.backends:
        engine = make_engine(name)
        reason = engine.missing()
        settings = engine.settings
        facts = f"{settings.precision}, {settings.layout}, {settings.note}"
        rows.append(("back end", name, "" if reason else engine.version(), reason or facts))
    return ("kind", "name", "", "description"), rows


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A bar with the remaining time on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


def measure(options: Options, out: Path | None = None) -> Result:
    """Run, and write the result to `out` after every case."""
    result = Result(describe_environment(options) | {"interrupted": False})

    def save(rows: list[Row]) -> None:
        result.rows = rows
        if out is not None:
            write_result(out, result)

    with show_progress() as progress:
        try:
            _measure(options, result, save, progress)
        except KeyboardInterrupt:
            result.context["interrupted"] = True
    result.context |= describe_end()
    save(result.rows)
    return result


def _measure(
    options: Options, result: Result, save: Callable[[list[Row]], None], progress: Progress
) -> None:
    deadline = time.monotonic() + options.budget
    cases = make_cases(options, progress)
    if options.mode == "cold":
        from weebill.bench.cold import measure_cold

        for row in measure_cold(cases, options, progress):
            result.cold.append(row)
            save([])
        return
    progress("measuring the machine's peaks", 0.0)
    peaks = {isa: machine_peaks(options.cpus, isa) for isa in options.isas}
    result.context["peaks"] = [p.as_json() for p in peaks.values()]
    if options.mode == "stages":
        from weebill.bench.stages import measure_stages

        for rows in measure_stages(cases, options, peaks, progress):
            result.stages += rows
            save([])
        return
    runner = Runner(options, cases, peaks, progress, save, deadline)
    runner.run()
    result.context["interrupted"] = runner.interrupted
