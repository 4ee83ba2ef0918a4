"""`weebill bench`: this library against other engines, on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weebill.cli._output import print_json, print_line, print_table

if TYPE_CHECKING:
    from weebill.bench.results import Result

__all__ = ["bench"]

bench = typer.Typer(
    help="Measure operators, blocks and networks in all installed engines.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Select = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False)]
ListOption = Annotated[bool, typer.Option("--list", help="List what there is, and stop.")]
SizeOption = Annotated[str, typer.Option(help="Image sizes: 96,224,320x256 (height x width).")]
BatchOption = Annotated[str, typer.Option(help="Batch sizes: 1,8.")]
ThreadsOption = Annotated[
    str | None, typer.Option(help="Thread counts: 1,2. Default: one; models: one and all.")
]
BackendOption = Annotated[
    str | None,
    typer.Option(help="Engines, comma separated, or all. Default: all but those slow to compile."),
]
IsaOption = Annotated[
    str | None, typer.Option(help="Limit engines that can be limited: avx2,scalar.")
]
CpuOption = Annotated[
    str | None, typer.Option(help="Cores to pin to: 1 or 0-1. Default: the last.")
]
MinTimeOption = Annotated[
    float, typer.Option(min=0.01, help="Seconds of timed calls per row and engine.")
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Seconds that the run should take, with fewer rounds if it must; 0: as many rounds as "
        "--min-time means. Default: 120 for models, else 0.",
        show_default=False,
    ),
]
TurnOption = Annotated[float, typer.Option(min=0.1, help="Timed calls per turn, milliseconds.")]
WaitOption = Annotated[
    str, typer.Option(help="OMP_WAIT_POLICY of the engines: default (each its own) or passive.")
]
ToleranceOption = Annotated[
    float, typer.Option(min=0.0, help="Relative error to float64 that makes an engine wrong.")
]
CacheOption = Annotated[
    Path | None, typer.Option(help="Folder of converted models. Default: ~/.cache/weebill/bench.")
]
OutOption = Annotated[Path | None, typer.Option(help="Write the result to this file, as JSON.")]
DetailOption = Annotated[bool, typer.Option("--detail", help="All figures of every case.")]
ColdOption = Annotated[
    bool, typer.Option("--cold", help="Import, load, first call and memory instead of speed.")
]
StreamOption = Annotated[
    bool,
    typer.Option(
        "--single-stream", help="One query after another: at least 1024 and 60 s, 90th percentile."
    ),
]
StagesOption = Annotated[
    bool,
    typer.Option(
        "--stages", help="Where weebill's own time goes, kernel by kernel, on one thread."
    ),
]
FormatOption = Annotated[
    str, typer.Option("--format", help="Of what is printed: table, csv or markdown.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _command(kind: str, turn: float, text: str, seconds: float = 0.0) -> None:
    """Adds a command that measures: all take the same options."""

    def measure(
        select: Select = None,
        list_: ListOption = False,
        size: SizeOption = "224",
        batch: BatchOption = "1",
        threads: ThreadsOption = None,
        backend: BackendOption = None,
        isa: IsaOption = None,
        cpu: CpuOption = None,
        min_time: MinTimeOption = 0.3,
        budget: BudgetOption = None,
        turn_ms: TurnOption = turn,
        wait_policy: WaitOption = "default",
        tolerance: ToleranceOption = 1e-4,
        cache: CacheOption = None,
        out: OutOption = None,
        detail: DetailOption = False,
        cold: ColdOption = False,
        single_stream: StreamOption = False,
        stages: StagesOption = False,
        format_: FormatOption = "table",
        json: JsonOption = False,
    ) -> None:
        _run(kind, {**locals(), "budget": seconds if budget is None else budget})

    bench.command(kind, help=text)(measure)


_command("models", 10.0, "Measure whole networks; NAMEs are networks.", 120.0)
_command("blocks", 5.0, "Measure blocks; NAMEs are suites or parts of block names.")
_command(
    "ops",
    5.0,
    "Measure single operators of a suite's blocks; NAMEs are suites or parts of names.",
)


@bench.command()
def training(
    select: Select = None,
    size: Annotated[int, typer.Option(min=1, help="Image size of the networks.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    backend: Annotated[str, typer.Option(help="Comma separated.")] = "weebill,eager,compile",
    min_time: Annotated[
        float, typer.Option(min=0.01, help="Seconds per network; a tenth per convolution.")
    ] = 10.0,
    json: JsonOption = False,
) -> None:
    """Measure training steps; NAMEs are networks, or depthwise for its forward and backward."""
    from weebill.bench.training import geometric_mean, measure

    rows = measure(
        select or (),
        size=size,
        batch=batch,
        threads=threads,
        seconds=min_time,
        engines=backend.split(","),
    )
    if json:
        print_json([row.as_dict() for row in rows])
        return
    columns = ("case", "engine", "ms", "speed-up", "rounds")
    cells = [
        (row.case, row.engine, f"{row.milliseconds:.2f}", f"{row.speedup:.2f}", row.rounds)
        for row in rows
    ]
    print_table(columns, cells, right=columns[2:])
    convolutions = [r.speedup for r in rows if r.engine == "weebill" and " k" in r.case]
    if len(convolutions) > 1:
        print_line(f"depthwise, geometric mean: {geometric_mean(convolutions):.2f}")


def _default_threads(kind: str) -> str:
    cores = len(os.sched_getaffinity(0))
    return f"1,{cores}" if kind == "models" and cores > 1 else "1"


def _run(kind: str, given: dict[str, object]) -> None:
    from weebill.bench.session import list_choices, make_options, measure

    given = {**given, "threads": given["threads"] or _default_threads(kind)}
    options = make_options(kind, given)
    if given["list_"]:
        columns, rows = list_choices(options)
        if given["json"]:
            print_json([dict(zip(columns, row, strict=True)) for row in rows])
        else:
            print_table(columns, rows)
        return
    out = given["out"]
    result = measure(options, out if isinstance(out, Path) else None)
    _show(result, given)
    failed = any(row.status in ("wrong", "failed") for row in result.rows)
    raise typer.Exit(130 if result.context["interrupted"] else int(failed))


def _show(result: Result, given: dict[str, object]) -> None:
    from weebill.bench import tables
    from weebill.bench.results import as_document, grouped

    if given["json"]:
        print_json(as_document(result))
        return
    if given["format_"] == "csv":
        typer.echo(tables.to_csv(result), nl=False)
        return
    shown = [tables.cold_table(result)] if result.cold else []
    shown += tables.stage_tables(result)
    if result.rows:
        shown += [tables.detail_table(rows) for rows in grouped(result.rows) if given["detail"]]
        shown.append(tables.summary_table(result))
    for table in shown:
        if given["format_"] == "markdown":
            typer.echo(tables.to_markdown(table))
            continue
        print_line(table.title, style="bold")
        print_table(table.columns, table.rows, right=table.right)
        print_line()
    for line in tables.remarks(result):
        print_line(line)


@bench.command()
def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT.json...")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Make one self-contained HTML page from results."""
    from weebill.bench.page import render_page
    from weebill.bench.results import read_result

    out.write_text(render_page([read_result(path) for path in results]))
    print_line(str(out))
