"""Blocks as the native core takes them: descriptions of saved networks, and packed records.

No torch: a board without it measures what it runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weebill import _C
from weebill.bench.suites import Block
from weebill.bench.weights import Floats, Weights, folded, layers
from weebill.fusion.pack import Folded, pack_all
from weebill.fusion.spec import BlockSpec, Layer, Squeeze, Window
from weebill.runtime import nodes
from weebill.runtime.description import FORMAT, Description, Output

__all__ = ["block_spec", "describe", "pack_blocks", "tensors", "unfused_specs"]


def block_spec(block: Block, name: str) -> BlockSpec:
    """The block as one record; `name` comes before the names of its layers."""
    window = Window((block.k, block.k), (block.s, block.s), (block.pad,) * 4)
    found = _layers(block, name, window)
    match block.kind:
        case "pool":
            return BlockSpec("global_avg_pool2d", channels=block.c_in)
        case "max_pool":
            return BlockSpec("max_pool2d", channels=block.c_in, window=window)
        case "conv2d" | "depthwise":
            return BlockSpec("conv2d", layer=found["conv"])
        case "squeeze_excite":
            return BlockSpec("squeeze_excite", squeeze=Squeeze(found["squeeze"], found["excite"]))
    separable = BlockSpec(
        "separable",
        expand=found.get("expand"),
        depthwise=found["depthwise"],
        squeeze=Squeeze(found["squeeze"], found["excite"]) if "squeeze" in found else None,
        project=found["project"],
        residual=bool(block.residual),
    )
    if block.kind == "separable":
        return separable
    shortcut = None
    if "side_depthwise" in found:
        shortcut = BlockSpec(
            "separable", depthwise=found["side_depthwise"], project=found["side_project"]
        )
    return BlockSpec("shuffle_unit", branch=separable, shortcut=shortcut)


def _layers(block: Block, name: str, window: Window) -> dict[str, Layer]:
    found = {}
    for role, (c_out, depth, *kernel), activation in layers(block):
        depthwise = block.kind == "depthwise" or role in ("depthwise", "side_depthwise")
        groups = c_out if depthwise else 1
        own = window if depthwise or role == "conv" else Window((kernel[0], kernel[1]))
        found[role] = Layer(
            f"{name}.{role}", depth * groups, c_out, groups, own, activation=activation
        )
    return found


def unfused_specs(spec: BlockSpec) -> tuple[BlockSpec, ...]:
    """What a block is made of, one record for each operator, in the order in which they run.

    The addition of a residual is not among them: it takes two inputs.

    Raises:
        NotImplementedError: The block is a shuffle unit.
    """
    if spec.kind == "shuffle_unit":
        raise NotImplementedError("unfused_specs: spec must not be a shuffle unit")
    if spec.kind != "separable":
        return (spec,)
    parts = []
    for layer in (spec.expand, spec.depthwise):
        if layer is not None:
            parts.append(BlockSpec("conv2d", layer=layer))
    if spec.squeeze is not None:
        parts.append(BlockSpec("squeeze_excite", squeeze=spec.squeeze))
    if spec.project is not None:
        parts.append(BlockSpec("conv2d", layer=spec.project))
    return tuple(parts)


def describe(blocks: Sequence[Block], shape: tuple[int, ...], *, fused: bool = True) -> Description:
    """The network of these blocks, as a file of ours holds it.

    Args:
        blocks: They run one after another.
        shape: (N, C, H, W) of the input.
        fused: One record for each block; otherwise one for each operator in it.
    """
    programs: list[tuple[BlockSpec, ...]] = []
    steps: list[nodes.Node] = []
    waiting: list[BlockSpec] = []

    def run_waiting() -> None:
        if waiting:
            programs.append(tuple(waiting))
            steps.append(nodes.Run((len(steps),), len(programs) - 1))
            waiting.clear()

    for index, block in enumerate(blocks):
        spec = block_spec(block, str(index))
        if fused:
            waiting.append(spec)
        elif spec.residual:
            run_waiting()
            start = len(steps)
            waiting += unfused_specs(spec)
            run_waiting()
            steps.append(nodes.Add((start, len(steps))))
        else:
            waiting += unfused_specs(spec)
    if waiting:
        run_waiting()
        if any(block.kind == "pool" for block in blocks):
            steps[-1] = nodes.Run(steps[-1].inputs, len(programs) - 1, flatten=True)
    return Description(
        format=FORMAT,
        weebill=_C.__version__,
        input_shape=shape,
        programs=tuple(programs),
        nodes=tuple(steps),
        outputs=(Output(len(steps)),),
    )


def tensors(blocks: Sequence[Block], weights: Sequence[Weights]) -> dict[str, Floats]:
    """The weights under the names that `describe` gives, BatchNorm folded."""
    found = {}
    for index, (block, own) in enumerate(zip(blocks, weights, strict=True)):
        for role, _, _ in layers(block):
            weight, bias = folded(own, role)
            found[f"{index}.{role}.weight"] = weight.astype(np.float32)
            found[f"{index}.{role}.bias"] = bias.astype(np.float32)
    return found


def pack_blocks(blocks: Sequence[Block], weights: Sequence[Weights]) -> npt.NDArray[np.uint8]:
    """One array of all blocks' records, BatchNorm folded."""
    named = tensors(blocks, weights)
    specs = [block_spec(block, str(index)) for index, block in enumerate(blocks)]

    def read(layer: Layer) -> Folded:
        return Folded(named[f"{layer.path}.weight"], named[f"{layer.path}.bias"])

    return pack_all(specs, read)[0]
