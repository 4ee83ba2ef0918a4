"""A small file that has one of everything, and how to write variants of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from weebill.runtime._container import write


def layer(path: str, c_in: int, c_out: int, groups: int = 1, kernel: int = 1) -> dict[str, Any]:
    window = {"kernel": [kernel, kernel], "padding": [kernel // 2] * 4}
    return {
        "path": path,
        "in_channels": c_in,
        "out_channels": c_out,
        "groups": groups,
        "window": window,
    }


def document() -> dict[str, Any]:
    """A stem, a block with everything, a sum, a resize, two outputs."""
    stem = {
        **layer("stem", 3, 8),
        "window": {"kernel": [3, 3], "stride": [2, 2], "padding": [1] * 4, "dilation": [1, 1]},
        "norms": [],
        "activation": "relu",
    }
    return {
        "format": 1,
        "weebill": "0.1.0",
        "input_shape": [1, 3, 16, 12],
        "programs": [
            [{"kind": "conv2d", "layer": stem}],
            [
                {
                    "kind": "separable",
                    "expand": layer("expand", 8, 20),
                    "depthwise": layer("depthwise", 20, 20, 20, 3),
                    "squeeze": {"reduce": layer("down", 20, 4), "expand": layer("up", 4, 20)},
                    "project": layer("project", 20, 8),
                    "residual": True,
                }
            ],
            [
                {"kind": "global_avg_pool2d", "channels": 8},
                {"kind": "conv2d", "layer": layer("head", 8, 5)},
            ],
        ],
        "nodes": [
            {"op": "run", "inputs": [0], "program": 0},
            {"op": "run", "inputs": [1], "program": 1},
            {"op": "add", "inputs": [1, 2]},
            {"op": "run", "inputs": [3], "program": 2, "flatten": True},
            {"op": "resize", "inputs": [3, 0], "mode": "bilinear"},
        ],
        "outputs": [{"value": 4, "name": "scores"}, {"value": 5, "name": "mask"}],
        "structure": "dict",
        "preprocessing": {"crop_size": 16, "resize_size": 16},
        "categories": ["a", "b", "c", "d", "e"],
    }


def tensors() -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    random = np.random.default_rng(0)
    shapes = {
        "stem.weight": (8, 3, 3, 3),
        "stem.bias": (8,),
        "expand.weight": (20, 8, 1, 1),
        "depthwise.weight": (20, 1, 3, 3),
        "depthwise.bias": (20,),
        "down.weight": (4, 20, 1, 1),
        "down.bias": (4,),
        "up.weight": (20, 4, 1, 1),
        "project.weight": (8, 20, 1, 1),
        "head.weight": (5, 8, 1, 1),
        "head.bias": (5,),
    }
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def write_file(path: Path, description: Any = None, **changes: Any) -> Path:
    """The document, or another, with the tensors (some replaced; None leaves one out)."""
    found = {**tensors(), **changes}
    text = description if isinstance(description, str) else json.dumps(description or document())
    kept = {name: array for name, array in found.items() if array is not None}
    write(path, {"weebill": text}, kept)
    return path


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header's JSON, and the tensors' bytes."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: Any, rest: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest
