"""What the commands print: tables for people, JSON for programs.

A terminal gets colours (unless NO_COLOR is set) and fits its width; a pipe or a file gets plain
text, one row a line, never wrapped.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["print_json", "print_line", "print_pairs", "print_table"]

# Wider than any row: rich would cut or wrap rows at 80 columns where there is no terminal.
_PLAIN_WIDTH = 10_000


def _print(renderable: Text | Table) -> None:
    console = Console(highlight=False, emoji=False, markup=False)
    if console.is_terminal:
        console.print(renderable)
        return
    plain = Console(file=io.StringIO(), width=_PLAIN_WIDTH, color_system=None)
    with plain.capture() as capture:
        plain.print(renderable)
    # A table pads its last column.
    console.file.writelines(line.rstrip() + "\n" for line in capture.get().splitlines())


def print_json(value: Mapping[str, object] | Sequence[object]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_line(text: str = "", style: str = "") -> None:
    """One line of text."""
    _print(Text(text, style=style))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """Rows under a header; the columns named in `right` are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    _print(table)


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values, two columns without a header."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for name, value in pairs:
        table.add_row(name, Text(str(value)))
    _print(table)
