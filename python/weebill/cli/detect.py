"""`weebill detect`: boxes around what is on a photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import weebill.data
from weebill.cli._output import print_json, print_line

__all__ = ["detect"]


def detect(
    image: Annotated[Path, typer.Argument(help="A photo.")],
    model: Annotated[
        str, typer.Option(help="A detector; 'weebill models \"ssd*\"' lists them.")
    ] = "ssdlite320_mobilenet_v3_large",
    weights: Annotated[
        str, typer.Option(help="Trained weights: a name from 'weebill models', or a file.")
    ] = "DEFAULT",
    out: Annotated[
        Path | None, typer.Option(help="The picture; if not given, NAME-detect.png here.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least score of a box that is shown.")
    ] = 0.5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; if not given, as many as torch takes.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draw boxes around what is on a photo."""
    # The photo is read first, so that a mistyped file name is told at once.
    pixels = weebill.data.read_image(image)

    import torch

    from weebill.cli import _task
    from weebill.cli._draw import draw_boxes
    from weebill.models import SSD

    task = _task.load("detect", model, weights, (SSD,), threads)
    with torch.inference_mode():
        (found,) = task.network([task.prepare(pixels)])
    rows = zip(*(found[key].tolist() for key in ("boxes", "labels", "scores")), strict=True)
    detections = [
        {"label": task.label(index), "index": index, "score": score, "box": box}
        for box, index, score in rows
        if score >= threshold
    ]
    path = _task.output_path(image, out, "detect")
    draw_boxes(pixels, detections).save(path)
    if json:
        size = list(pixels.shape[:2])
        answer = {"image": str(image), "size": size, "out": str(path), "detections": detections}
        print_json({**task.facts(), **answer})
        return
    print_line(str(image), style="bold")
    for entry in detections:
        box = ", ".join(f"{value:.0f}" for value in entry["box"])
        print_line(f"  {entry['score']:6.1%}  {entry['label']}  ({box})")
    if not detections:
        print_line(f"  nothing with a score of {threshold:g} or more")
    print_line(f"{path} ({model}, {task.weights})", style="dim")
