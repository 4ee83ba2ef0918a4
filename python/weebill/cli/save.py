"""`weebill save`: a network with its weights as a file for machines without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weebill.cli._output import print_json, print_line

__all__ = ["save"]


def save(
    model: Annotated[str, typer.Argument(help="A network; 'weebill models' lists them.")],
    file: Annotated[Path, typer.Argument(help="The file to write, name.weebill.")],
    weights: Annotated[
        str, typer.Option(help="Trained weights: a name from 'weebill models', or a file.")
    ] = "DEFAULT",
    dtype: Annotated[
        str, typer.Option(help="float32, or float16: weights in half of the bytes, rounded.")
    ] = "float32",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a network to a file that runs without torch: weebill classify --model FILE."""
    import weebill
    from weebill.data import ImageClassification
    from weebill.models import create_model, get_weights

    if file.suffix != ".weebill":
        raise ValueError(f"save: FILE must end in .weebill, got '{file}'")
    chosen = get_weights(model, weights)
    preprocessing = chosen.transforms()
    if not isinstance(preprocessing, ImageClassification):
        raise NotImplementedError(f"save: MODEL must be a classifier, got {model!r}")
    network = create_model(model, weights=chosen)
    weebill.save(
        network,
        file,
        preprocessing=preprocessing,
        categories=chosen.meta.get("categories"),
        dtype=dtype,
    )
    size = file.stat().st_size
    if json:
        print_json({"file": str(file), "bytes": size, "model": model, "weights": str(chosen)})
    else:
        print_line(f"{file}: {model} ({chosen}), {size / 1e6:.1f} MB")
