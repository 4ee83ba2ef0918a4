"""Puts the commands together and turns their errors into one line each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from weebill.cli.bench import bench
from weebill.cli.classify import classify
from weebill.cli.compare import compare
from weebill.cli.detect import detect
from weebill.cli.doctor import doctor
from weebill.cli.info import info
from weebill.cli.models import models
from weebill.cli.save import save
from weebill.cli.segment import segment
from weebill.cli.train import train

__all__ = ["app", "run"]

# Plain help and error texts: rich's frames are unreadable in a pipe and in a log.
app = typer.Typer(
    name="weebill",
    help="Small convolutional networks, fast on CPUs.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(info)
app.command()(doctor)
app.command()(models)
app.command()(classify)
app.command()(train)
app.add_typer(bench, name="bench")
app.command()(compare)
app.command()(save)
app.command()(detect)
app.command()(segment)

# ClickException, the base of all usage errors, by way of its one public subclass: where typer keeps
# it differs between versions.
_UsageError: Any = typer.BadParameter.__mro__[2]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"weebill {version('weebill')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[  # read by its callback
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and exit."),
    ] = False,
) -> None:
    """Small convolutional networks, fast on CPUs."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit code.

    The library's errors about the user's input (its texts are one sentence each) and usage errors
    go to stderr as one line.
    """
    command = typer.main.get_command(app)
    try:
        code = command.main(args=list(arguments), prog_name="weebill", standalone_mode=False)
    except _UsageError as error:
        return _fail(f"{error.format_message().rstrip('.')}; see weebill --help")
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        return _fail(str(error))
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    print("weebill: " + " ".join(message.split()), file=sys.stderr)
    return 2
