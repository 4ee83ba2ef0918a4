"""`weebill compare`: what got slower between two results of `weebill bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weebill.cli._output import print_json, print_line, print_table

__all__ = ["compare"]


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="The result before.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="The result after.")],
    backend: Annotated[
        str | None, typer.Option(help="Only these back ends, comma separated.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0.0, help="Relative difference that counts.")
    ] = 0.05,
    alpha: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Chance of any false alarm.")
    ] = 0.01,
    relative: Annotated[
        bool, typer.Option("--relative", help="Compare ratios to our time, not times.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two results; the exit code is 1 if a row got slower beyond chance."""
    from weebill.bench.compare import compare as compare_results
    from weebill.bench.results import read_result
    from weebill.bench.tables import to_markdown

    comparison = compare_results(
        read_result(a),
        read_result(b),
        engines=tuple(backend.split(",")) if backend else (),
        threshold=threshold,
        alpha=alpha,
        relative=relative,
    )
    if json:
        print_json(comparison.as_json())
    else:
        table = comparison.table()
        if markdown:
            typer.echo(to_markdown(table), nl=False)
        else:
            print_table(table.columns, table.rows, right=table.right)
        for note in comparison.notes:
            print_line(note)
        print_line(f"largest difference: {comparison.largest:.1%}")
    raise typer.Exit(int(comparison.slower))
