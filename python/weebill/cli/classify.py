"""`weebill classify`: what is on a photo, by a network with fused blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import weebill.config
import weebill.data
from weebill.cli._output import print_json, print_line, print_table

__all__ = ["classify"]


def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Photos.")],
    model: Annotated[
        str, typer.Option(help="A network; 'weebill models' lists them.")
    ] = "efficientnet_lite0",
    weights: Annotated[
        str, typer.Option(help="Trained weights: a name from 'weebill models', or a file.")
    ] = "DEFAULT",
    topk: Annotated[int, typer.Option(min=1, help="Classes to print per photo.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; if not given, as many as torch takes.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also run torch eager: latencies, and largest difference."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify photos with a fused network."""
    # Photos are read first, so that a mistyped file name is told at once, before torch is loaded.
    pixels = [weebill.data.read_image(path) for path in images]

    import torch

    from weebill.cli._compare import compare_with_eager
    from weebill.models import create_model, get_weights

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = get_weights(model, weights)
    eager = create_model(model, weights=chosen).eval()
    fused = weebill.convert(eager)
    prepare = chosen.transforms()
    inputs = [prepare(image).unsqueeze(0) for image in pixels]

    with torch.inference_mode():
        probabilities = [fused(x).softmax(dim=1)[0] for x in inputs]
        comparison = compare_with_eager(fused, eager, inputs) if compare else None
    classes = len(probabilities[0])
    labels = chosen.meta.get("categories") or [f"class {index}" for index in range(classes)]
    tops = [p.topk(min(topk, classes)) for p in probabilities]
    answer: dict[str, Any] = {
        "model": model,
        "weights": str(chosen),
        "isa": weebill.config.isa(),
        "threads": torch.get_num_threads(),
        "input": list(inputs[0].shape),
        "results": [
            {
                "image": str(path),
                "classes": [
                    {"index": index, "label": labels[index], "probability": probability}
                    for probability, index in zip(*map(torch.Tensor.tolist, top), strict=True)
                ],
            }
            for path, top in zip(images, tops, strict=True)
        ],
    }
    if comparison is not None:
        answer["compare"] = comparison
    if json:
        print_json(answer)
    else:
        _print(answer)


def _print(answer: dict[str, Any]) -> None:
    for result in answer["results"]:
        print_line(result["image"], style="bold")
        for entry in result["classes"]:
            print_line(f"  {entry['probability']:6.1%}  {entry['label']}")
    size = " x ".join(map(str, answer["input"]))
    print_line(
        f"{answer['model']} ({answer['weights']}), input {size}, {answer['isa']}, "
        f"threads {answer['threads']}",
        style="dim",
    )
    if "compare" in answer:
        _print_comparison(answer["compare"])


def _print_comparison(compare: dict[str, Any]) -> None:
    latencies = compare["latency_ms"]
    base = next(iter(latencies.values()))["median"]
    print_line()
    print_table(
        ["latency, ms", "median", "quartiles", "best", "relative"],
        [
            (
                name,
                f"{ms['median']:.2f}",
                f"{ms['lower_quartile']:.2f} - {ms['upper_quartile']:.2f}",
                f"{ms['minimum']:.2f}",
                f"{ms['median'] / base:.2f}",
            )
            for name, ms in latencies.items()
        ],
        right=["median", "quartiles", "best", "relative"],
    )
    rounds = next(iter(latencies.values()))["rounds"]
    print_line(f"{rounds} rounds, the contenders in turn, batch 1")
    print_line(
        "largest difference of a logit to torch eager, relative to the largest logit: "
        f"{compare['max_relative_difference']:.1e}"
    )
