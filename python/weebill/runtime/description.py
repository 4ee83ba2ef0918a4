"""The description of a saved network: what its file tells besides the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from weebill.data import ImageClassification
from weebill.fusion.spec import BlockSpec, Layer
from weebill.runtime._decode import decode
from weebill.runtime.nodes import NODES, Node, Run

FORMAT = 1
_MAX_NODES = 1 << 14
_MAX_BLOCKS = 1 << 14


@dataclass(frozen=True)
class Output:
    """One array of the result; names only where `structure` is "dict"."""

    value: int
    name: str = ""


@dataclass(frozen=True)
class Description:
    """All of a network but its weights.

    Attributes:
        format: Version of this description.
        weebill: Version of weebill that wrote the file.
        input_shape: (N, C, H, W) or (N, C) that it was saved for; C is fixed.
        programs: Blocks that run in one call. The weights of a layer are the tensors
            "<path>.weight" and, where there is one, "<path>.bias"; no two layers share them.
        nodes: The steps; see `nodes`.
        outputs: Which values are returned, `structure` tells how.
        preprocessing: How a photo becomes an input, if that is known.
        categories: Names of the classes, if they are known.
    """

    format: int
    weebill: str
    input_shape: tuple[int, ...]
    programs: tuple[tuple[BlockSpec, ...], ...]
    outputs: tuple[Output, ...]
    structure: Literal["array", "tuple", "dict"] = "array"
    preprocessing: ImageClassification | None = None
    categories: tuple[str, ...] | None = None
    nodes: tuple[Node, ...] = ()

    def check(self) -> None:
        """Raises ValueError unless all parts refer to each other as they may."""
        _check(len(self.input_shape) in (2, 4), "input_shape must have 2 or 4 sizes")
        _check(len(self.nodes) <= _MAX_NODES, f"there must be at most {_MAX_NODES} nodes")
        count = sum(len(blocks) for blocks in self.programs)
        _check(count <= _MAX_BLOCKS, f"there must be at most {_MAX_BLOCKS} blocks")
        for blocks in self.programs:
            _check(len(blocks) > 0, "a program must have blocks")
            for block in blocks:
                block.check()
        paths = [layer.path for layer in self.layers()]
        _check(len(set(paths)) == len(paths), "no two layers may have the same weights")
        for index, node in enumerate(self.nodes):
            for value in node.inputs:
                _check(
                    0 <= value <= index,
                    f"node {index} must take values from 0 to {index}, got {value}",
                )
            if isinstance(node, Run):
                fits = 0 <= node.program < len(self.programs)
                _check(fits, f"node {index} must have a program that is there, got {node.program}")
        for output in self.outputs:
            fits = 0 <= output.value <= len(self.nodes)
            _check(fits, f"an output must be a value that is there, got {output.value}")
        names = {output.name for output in self.outputs}
        counts = {"array": 1, "tuple": len(self.outputs), "dict": len(names)}
        _check(
            len(self.outputs) == counts[self.structure] > 0,
            f"the outputs must be those of a {self.structure}, got {len(self.outputs)}",
        )

    def layers(self) -> list[Layer]:
        """All layers of all programs."""
        return [layer for blocks in self.programs for block in blocks for layer in block.layers()]

    def to_json(self) -> dict[str, Any]:
        """Dicts, lists, strings and numbers."""
        found = dataclasses.asdict(self)
        found["nodes"] = [
            {"op": node.op, **fields}
            for node, fields in zip(self.nodes, found["nodes"], strict=True)
        ]
        return found

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Description:
        """Raises ValueError for what `to_json` can't have written."""
        document = dict(document)
        if document.get("format") != FORMAT:
            found = decode(int, document.get("format"), "format")
            raise ValueError(f"format must be {FORMAT}, got {found}; update weebill")
        nodes = document.pop("nodes", [])
        _check(isinstance(nodes, list), "nodes must be a list")
        try:
            description: Description = decode(cls, document, "description")
        except RecursionError:  # blocks in blocks; `check` knows a depth of two alone
            raise ValueError("description is nested too deeply") from None
        decoded = tuple(_node(node, f"nodes[{index}]") for index, node in enumerate(nodes))
        description = dataclasses.replace(description, nodes=decoded)
        description.check()
        return description


def _node(document: object, where: str) -> Node:
    _check(isinstance(document, dict), f"{where} must be an object")
    assert isinstance(document, dict)
    op = decode(str, document.get("op"), f"{where}.op")
    if op not in NODES:
        raise ValueError(f"{where}.op must be one of {', '.join(NODES)}, got {op[:40]!r}")
    node: Node = decode(NODES[op], {k: v for k, v in document.items() if k != "op"}, where)
    return node


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
