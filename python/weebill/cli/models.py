"""`weebill models`: the networks and the trained weights that exist for them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from weebill.cli._output import print_json, print_table

__all__ = ["models"]


def models(
    pattern: Annotated[
        str | None, typer.Argument(help="Only names that match, such as 'mobilenet*'.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List networks and the trained weights that exist for them."""
    from weebill.models import get_model_weights, list_models, model_entry

    names = list_models(pattern)
    if not names:
        known = ", ".join(list_models())
        raise ValueError(f"models: pattern must match a name, got {pattern!r}; there are {known}")
    rows = [
        {
            "name": name,
            "summary": model_entry(name).summary,
            "weights": [
                {
                    "name": member.name,
                    "file": member.weights.name,
                    **{key: member.meta.get(key) for key in _FACTS},
                }
                for member in get_model_weights(name)
            ],
        }
        for name in names
    ]
    if json:
        print_json(rows)
    else:
        print_table(
            ["model", "weights", "parameters", "multiply-adds", "top-1"],
            [cells for row in rows for cells in _cells(row)],
            right=["parameters", "multiply-adds", "top-1"],
        )


# Of a Weights' meta; what is not known is null.
_FACTS = ("num_params", "multiply_adds", "acc@1", "license")


def _cells(row: dict[str, Any]) -> list[tuple[str, ...]]:
    """A table row for each of the model's weights."""
    return [
        (
            row["name"],
            weights["name"],
            _millions(weights["num_params"]),
            _millions(weights["multiply_adds"]),
            "" if weights["acc@1"] is None else f"{weights['acc@1']:.1f} %",
        )
        for weights in row["weights"]
    ] or [(row["name"], "none", "", "", "")]


def _millions(count: float | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f} M"
