"""`weebill models`: the networks and the weights that exist for them."""

from __future__ import annotations

from typing import Annotated

import typer

from weebill.cli._output import print_json, print_table

__all__ = ["models"]


def models(
    pattern: Annotated[
        str | None, typer.Argument(help="Only names that match, e.g. 'mobilenet*'.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Networks that can be created, and the trained weights that exist for them."""
    import weebill.models
