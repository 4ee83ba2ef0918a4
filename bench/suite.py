"""The loop over cases that ``bench.models`` and ``bench.blocks`` share."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.engines import ENGINES, make_engine
from bench.environment import describe_environment
from bench.options import Options, apply_environment, native_isa

if TYPE_CHECKING:
    from bench.case import Case
    from bench.run import Row

# Builds the cases of one (height, width, batch); called after the environment is set.
CaseMaker = Callable[[tuple[int, int], int, Path], Iterable["Case"]]


def make_console() -> Console:
    """A console as wide as the tables need where the output is not a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=250)


def list_engines(console: Console) -> None:
    """Print every engine with its version, or why it cannot run here."""
    for name in ENGINES:
        engine = make_engine(name)
        reason = engine.missing()
        settings = engine.settings
        facts = f"{settings.precision}, {settings.layout}, {settings.note}"
        console.print(f"  {name:14}{reason or f'{engine.version()} ({facts})'}", highlight=False)


def run_suite(options: Options, make_cases: CaseMaker) -> int:
    """Measure, print and store; the exit code is 1 when an engine was wrong or failed."""
    apply_environment(options)
    from bench.peak import measure_peak
    from bench.report import print_rows, write_json
    from bench.run import FAILED, WRONG, measure_case, set_peak_shares

    console = make_console()
    isa = options.isa or native_isa()
    peak = measure_peak(isa)
    context = describe_environment(options)
    cases: list[Case] = []
    for size in options.sizes:
        for batch in options.batches:
            cases.extend(make_cases(size, batch, options.cache))
    if options.cold:
        return run_cold(options, cases, context)
    rows: list[Row] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(cases) * len(options.threads) * options.rounds)
        try:
            for number, (case, threads) in enumerate(itertools.product(cases, options.threads)):

                def show(
                    stage: str,
                    done: int,
                    title: str = case.name,
                    before: int = number * options.rounds,
                ) -> None:
                    bar.update(task, description=f"{title}: {stage}", completed=before + done)

                rows += measure_case(case, threads, options, show)
                # A neighbour on the same physical core lowers the peak for a while, so the
                # best of all readings counts.
                if peak is not None:
                    peak = max(peak, measure_peak(isa, seconds=0.1) or 0.0)
                    set_peak_shares(rows, peak)
                    context["fma_peak_gflops"] = peak
                if options.json is not None:
                    write_json(options.json, context, rows)
        except KeyboardInterrupt:
            console.print("Interrupted; what was measured until then:")
    print_rows(console, rows, detail=options.detail, limited_isa=options.isa is not None)
    return int(any(row.status in (FAILED, WRONG) for row in rows))


def run_cold(options: Options, cases: Sequence[Case], context: dict[str, object]) -> int:
    """Cold start, first call and memory of every engine in processes of their own."""
    from bench.cold import cold_table, measure_cold, write_cold

    console = make_console()
    rows = [
        measure_cold(case, name, threads, options)
        for case in cases
        for threads in options.threads
        for name in options.engines
    ]
    if options.json is not None:
        write_cold(options.json, context, rows)
    console.print(cold_table(rows))
    return 0
