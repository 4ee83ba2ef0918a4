"""`weebill classify`: what is on a photo, by a network with fused blocks."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import weebill.config
import weebill.data
from weebill.cli._output import print_json, print_line, print_table

__all__ = ["classify"]

#: A model of this suffix is a file of `weebill.save`, and needs no torch.
_SUFFIX = ".weebill"


class Precision(str, Enum):
    """What `weebill.runtime.load` takes."""

    float32 = "float32"
    float16 = "float16"
    auto = "auto"


def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Photos.")],
    model: Annotated[
        str,
        typer.Option(
            help="A network that 'weebill models' lists, or a .weebill file, which needs no torch."
        ),
    ] = "efficientnet_lite0",
    weights: Annotated[
        str, typer.Option(help="Trained weights: a name from 'weebill models', or a file.")
    ] = "DEFAULT",
    topk: Annotated[int, typer.Option(min=1, help="Classes to print per photo.")] = 5,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Threads; if not given, as many as are the default."),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="What a .weebill file is computed in; float16 needs a processor with such "
            "arithmetic, auto takes it where it is there.",
            show_default="float32",
        ),
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
    if model.endswith(_SUFFIX):
        if compare or weights != "DEFAULT":
            option = "--compare" if compare else "--weights"
            raise ValueError(f"classify: {option} must go with a network's name, got '{model}'")
        scores, answer = _run_file(model, pixels, threads, precision or Precision.float32)
    else:
        if precision is not None:
            raise ValueError(f"classify: --precision must go with a .weebill file, got '{model}'")
        scores, answer = _run_model(model, weights, pixels, threads, compare)
    labels = answer.pop("labels") or [f"class {index}" for index in range(len(scores[0]))]
    comparison = answer.pop("compare", None)
    answer["results"] = [
        {"image": str(path), "classes": _top(row, labels, topk)}
        for path, row in zip(images, scores, strict=True)
    ]
    if comparison is not None:
        answer["compare"] = comparison
    if json:
        print_json(answer)
    else:
        _print(answer)


def _run_file(
    path: str, pixels: Sequence[NDArray[np.uint8]], threads: int | None, precision: Precision
) -> tuple[list[NDArray[np.float32]], dict[str, Any]]:
    """Scores of every photo, and what there is to tell about the network; without torch."""
    import weebill.runtime

    if threads is not None:
        weebill.config.set_threads(threads)
    model = weebill.runtime.load(path, precision=precision.value)
    inputs = [model.preprocess(image) for image in pixels]
    found = [model(x) for x in inputs]
    scores = [y[0] for y in found if isinstance(y, np.ndarray) and y.ndim == 2]
    if len(scores) != len(found):
        raise ValueError(
            f"classify: --model must give scores of classes, got one with results "
            f"{model.output_shapes()}"
        )
    labels = model.categories
    if labels is not None and len(labels) != len(scores[0]):
        raise ValueError(
            f"classify: --model must have a name for each of its {len(scores[0])} classes, "
            f"got {len(labels)}"
        )
    return scores, {
        "model": path,
        "weights": f"saved by weebill {model.version}",
        "isa": weebill.config.isa(),
        "threads": weebill.config.threads(),
        "precision": model.precision,
        "input": list(inputs[0].shape),
        "labels": labels,
    }


def _run_model(
    name: str,
    weights: str,
    pixels: Sequence[NDArray[np.uint8]],
    threads: int | None,
    compare: bool,
) -> tuple[list[NDArray[np.float32]], dict[str, Any]]:
    """As `_run_file`, for a network of `weebill.models`."""
    import torch

    from weebill.cli._compare import compare_with_eager
    from weebill.models import create_model, get_weights

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = get_weights(name, weights)
    eager = create_model(name, weights=chosen).eval()
    fused = weebill.convert(eager)
    prepare = chosen.transforms()
    inputs = [prepare(image).unsqueeze(0) for image in pixels]
    with torch.inference_mode():
        scores = [fused(x)[0].numpy() for x in inputs]
        comparison = compare_with_eager(fused, eager, inputs) if compare else None
    return scores, {
        "model": name,
        "weights": str(chosen),
        "isa": weebill.config.isa(),
        "threads": torch.get_num_threads(),
        "input": list(inputs[0].shape),
        "labels": chosen.meta.get("categories"),
        "compare": comparison,
    }


def _top(
    scores: NDArray[np.float32], labels: Sequence[str], count: int
) -> list[dict[str, int | float | str]]:
    """The classes with the largest probabilities (softmax), the largest first."""
    powers = np.exp(scores.astype(np.float64) - scores.max())
    probabilities = powers / powers.sum()
    best = np.argsort(-probabilities, kind="stable")[:count]
    return [
        {"index": int(i), "label": labels[i], "probability": float(probabilities[i])} for i in best
    ]


def _print(answer: dict[str, Any]) -> None:
    for result in answer["results"]:
        print_line(result["image"], style="bold")
        for entry in result["classes"]:
            print_line(f"  {entry['probability']:6.1%}  {entry['label']}")
    size = " x ".join(map(str, answer["input"]))
    print_line(
        f"{answer['model']} ({answer['weights']}), input {size}, {answer['isa']}, "
        f"threads {answer['threads']}, {answer.get('precision', 'float32')}",
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
