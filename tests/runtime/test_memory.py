"""What a network of a file may ask for: known, and bounded, before anything is computed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.files import document, layer, tensors, write_file
from weebill import runtime
from weebill.runtime._memory import MAX_HELD

NO_TENSORS: dict[str, Any] = dict.fromkeys(tensors())


def network(
    path: Path,
    nodes: list[dict[str, Any]],
    programs: list[list[dict[str, Any]]] | None = None,
    outputs: int = 1,
    weights: dict[str, Any] | None = None,
) -> runtime.Model:
    """The last values of the nodes, for images of 3 channels and 4 x 4 pixels."""
    last = range(len(nodes), len(nodes) - outputs, -1)
    text = {
        "format": 1,
        "weebill": "0.1.0",
        "input_shape": [1, 3, 4, 4],
        "programs": programs or [],
        "nodes": nodes,
        "outputs": [{"value": value} for value in last],
        "structure": "array" if outputs == 1 else "tuple",
    }
    found = {**NO_TENSORS, **(weights or {})}
    return runtime.load(write_file(path / "a.weebill", json.dumps(text), **found))


def pointwise(path: str, pad: int) -> dict[str, Any]:
    found = layer(path, 3, 3)
    found["window"] = {"kernel": [1, 1], "padding": [pad] * 4}
    return {"kind": "conv2d", "layer": found}


def padded(path: Path, count: int, pad: int) -> runtime.Model:
    """1 x 1 convolutions of which each makes its image larger, and the mean of the last one."""
    blocks = [pointwise(f"w{i}", pad) for i in range(count)]
    weights = {f"w{i}.weight": np.ones((3, 3, 1, 1), np.float32) for i in range(count)}
    return network(
        path,
        [{"op": "run", "inputs": [0], "program": 0, "flatten": True}],
        [[*blocks, {"kind": "global_avg_pool2d", "channels": 3}]],
        weights=weights,
    )


def test_values_between_the_blocks_of_a_program(tmp_path: Path) -> None:
    assert padded(tmp_path, 2, 64).output_shapes() == (1, 3)
    for count in (2, 64):
        with pytest.raises(ValueError, match=rf"load: .* at most {MAX_HELD} elements at a time"):
            padded(tmp_path, count, 4096)


def test_values_inside_a_block(tmp_path: Path) -> None:
    width = 20_000
    blocks = [
        pointwise("first", 2048),
        {
            "kind": "separable",
            "expand": layer("expand", 3, width),
            "depthwise": layer("depthwise", width, width, width),
            "squeeze": {"reduce": layer("down", width, 1), "expand": layer("up", 1, width)},
            "project": layer("project", width, 3),
        },
    ]
    shapes = {
        "first": (3, 3),
        "expand": (width, 3),
        "depthwise": (width, 1),
        "down": (1, width),
        "up": (width, 1),
        "project": (3, width),
    }
    weights = {f"{k}.weight": np.zeros((*v, 1, 1), np.float32) for k, v in shapes.items()}
    with pytest.raises(ValueError, match="elements at a time"):
        network(tmp_path, [{"op": "run", "inputs": [0], "program": 0}], [blocks], weights=weights)


def test_values_that_are_held_together(tmp_path: Path) -> None:
    large = {"op": "resize", "inputs": [0], "mode": "bilinear", "size": [8000, 8000]}
    # one after the other it is memory for a few
    chain = [large, *({**large, "inputs": [i]} for i in range(1, 32))]
    assert network(tmp_path, chain).output_shapes() == (1, 3, 8000, 8000)
    with pytest.raises(ValueError, match="elements at a time"):
        network(tmp_path, [large] * 32, outputs=32)
    # a pixel of each, which keeps the whole
    nodes: list[dict[str, Any]] = []
    for i in range(0, 64, 2):
        nodes.append(large)
        nodes.append({"op": "slice", "inputs": [i + 1], "axis": 3, "start": 0, "stop": 1})
    nodes.append({"op": "concat", "inputs": list(range(2, 65, 2)), "axis": 3})
    with pytest.raises(ValueError, match="elements at a time"):
        network(tmp_path, nodes)


@pytest.mark.parametrize("count", [62, 63, 70, 1100, 16_000])
@pytest.mark.parametrize(
    "last",
    [
        {"op": "run", "program": 0, "flatten": True},
        {"op": "resize", "mode": "nearest", "scale": [0.001, 1.0]},
        {"op": "max_pool", "kernel": [1, 1], "stride": [65536, 1]},
    ],
)
def test_doubled_values(tmp_path: Path, count: int, last: dict[str, Any]) -> None:
    nodes = [{"op": "concat", "inputs": [i, i], "axis": 2} for i in range(count)]
    begin = time.perf_counter()
    with pytest.raises(ValueError, match="load: .* a value must not be as large"):
        network(
            tmp_path,
            [*nodes, {**last, "inputs": [count]}],
            [[{"kind": "global_avg_pool2d", "channels": 3}]],
        )
    assert time.perf_counter() - begin < 3


@pytest.mark.parametrize("depth", [1, 50, 200, 300, 400, 2000])
def test_blocks_in_blocks(tmp_path: Path, depth: int) -> None:
    unit = '{"kind": "shuffle_unit"'
    block = f'{unit}, "branch": ' * depth + unit + "}" * (depth + 1)
    text = json.dumps(document() | {"programs": [["here"]]}).replace('"here"', block)
    with pytest.raises(ValueError, match="nested too deeply|a branch of a unit must be separable"):
        runtime.load(write_file(tmp_path / "a.weebill", text))


def test_another_input_that_asks_for_too_much(tmp_path: Path) -> None:
    """The file's own shape is small: what a call takes is refused there."""
    model = padded(tmp_path, 1, 4096)
    with pytest.raises(ValueError, match=r"model: x must give values of at most .* elements at a"):
        model(np.zeros((64, 3, 4, 4), np.float32))
    with pytest.raises(ValueError, match="x must give values of at most"):
        model.output_shapes((64, 3, 4, 4))
    grown = [{"op": "concat", "inputs": [i, i], "axis": 0} for i in range(20)]
    model = network(tmp_path, grown)
    with pytest.raises(ValueError, match="x must give values of at most"):
        model(np.zeros((1, 3, 64, 64), np.float32))
    # with no images all other sizes still are bounded
    grown = [{"op": "concat", "inputs": [i, i], "axis": 2} for i in range(20)]
    model = network(tmp_path, grown)
    with pytest.raises(ValueError, match="x must give values of at most"):
        model(np.zeros((0, 3, 256, 4), np.float32))


def test_large_inputs_are_the_callers_own(tmp_path: Path) -> None:
    """Many images ask for much, as they should."""
    model = runtime.load(write_file(tmp_path / "a.weebill"))
    assert model.output_shapes((20_000, 3, 224, 224))["scores"] == (20_000, 5)


@pytest.mark.parametrize(
    ("shape", "error", "text"),
    [
        ([1, 3, 4.0, 4], TypeError, r"shape must be a sequence of integers, got \[1, 3, 4.0, 4\]"),
        ("abcd", TypeError, "shape must be a sequence of integers, got 'abcd'"),
        (7, TypeError, "shape must be a sequence of integers, got 7"),
        ((1, 3), ValueError, r"shape must be \(N, 3, H, W\), got \(1, 3\)"),
        ((1, 4, 16, 12), ValueError, r"shape must be \(N, 3, H, W\), got \(1, 4, 16, 12\)"),
        ((1, 3, -4, 4), ValueError, r"shape must be \(N, 3, H, W\), got"),
        ((1 << 70, 3, 4, 4), ValueError, r"shape must have at most 2\^40 elements, got"),
        ((0, 3, 1 << 62, 4), ValueError, r"shape must have at most 2\^40 elements, got"),
    ],
)
def test_wrong_shapes(tmp_path: Path, shape: Any, error: type[Exception], text: str) -> None:
    model = runtime.load(write_file(tmp_path / "a.weebill"))
    with pytest.raises(error, match=f"^output_shapes: {text}"):
        model.output_shapes(shape)


def test_numpys_integers_are_sizes(tmp_path: Path) -> None:
    model = runtime.load(write_file(tmp_path / "a.weebill"))
    sizes: list[Any] = [np.int64(2), 3, 16, 12]
    assert model.output_shapes(sizes)["scores"] == (2, 5)


def test_one_step_checks_its_input(tmp_path: Path) -> None:
    model = padded(tmp_path, 1, 0)
    huge = np.broadcast_to(np.float32(1), (1, 3, 1 << 20, 1 << 20))
    with pytest.raises(ValueError, match=r"model: x must have at most 2\^40 elements"):
        model(huge)
    text = document()
    text["nodes"] = [{"op": "run", "inputs": [0], "program": 0, "flatten": True}]
    text |= {"input_shape": [1, 3, 2, 2], "outputs": [{"value": 1}], "structure": "array"}
    text["programs"] = text["programs"][:1]
    kept = {name: None for name in tensors() if not name.startswith("stem")}
    model = runtime.load(write_file(tmp_path / "b.weebill", text, **kept))
    assert model(np.zeros((1, 3, 2, 2), np.float32)).shape == (1, 8)
    with pytest.raises(ValueError, match="must end in a 1 x 1 image to be flattened"):
        model(np.zeros((1, 3, 8, 8), np.float32))
