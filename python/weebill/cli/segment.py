"""`weebill segment`: what every pixel of a photo belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import weebill.data
from weebill.cli._output import print_json, print_line

__all__ = ["segment"]


def segment(
    image: Annotated[Path, typer.Argument(help="A photo.")],
    model: Annotated[
        str, typer.Option(help="lraspp_mobilenet_v3_large or deeplabv3_mobilenet_v3_large.")
    ] = "lraspp_mobilenet_v3_large",
    weights: Annotated[
        str, typer.Option(help="Trained weights: a name from 'weebill models', or a file.")
    ] = "DEFAULT",
    out: Annotated[
        Path | None, typer.Option(help="The picture; if not given, NAME-segment.png here.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; if not given, as many as torch takes.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Colour what is on a photo, pixel by pixel."""
    # The photo is read first, so that a mistyped file name is told at once.
    pixels = weebill.data.read_image(image)

    import numpy as np
    import torch
    from PIL import Image

    from weebill.cli import _task
    from weebill.cli._draw import draw_masks
    from weebill.models import LRASPP, DeepLabV3

    task = _task.load("segment", model, weights, (LRASPP, DeepLabV3), threads)
    with torch.inference_mode():
        classes = task.network(task.prepare(pixels).unsqueeze(0))["out"][0].argmax(dim=0)
    height, width = pixels.shape[:2]
    # of the size that the network saw, enlarged as it is: to the photo's pixels
    coarse = Image.fromarray(classes.numpy().astype(np.int32))
    mask = np.asarray(coarse.resize((width, height), Image.Resampling.NEAREST))
    indices, counts = np.unique(mask, return_counts=True)
    shares = sorted(zip(counts.tolist(), indices.tolist(), strict=True), reverse=True)
    found = [
        {"label": task.label(index), "index": index, "pixels": count, "share": count / mask.size}
        for count, index in shares
    ]
    path = _task.output_path(image, out, "segment")
    draw_masks(pixels, mask, found).save(path)
    if json:
        answer = {"image": str(image), "size": [height, width], "out": str(path), "classes": found}
        print_json({**task.facts(), **answer})
        return
    print_line(str(image), style="bold")
    for entry in found:
        print_line(f"  {entry['share']:6.1%}  {entry['label']}")
    print_line(f"{path} ({model}, {task.weights})", style="dim")
