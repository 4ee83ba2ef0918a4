"""A forward that is no chain: its chains run as fused calls, the steps between them as they are.

    x -> [stem] -> split -> [depthwise 3x3] -> cat -> norm -> ... -> [squeeze-excite, 1 x 1] -> +
                         -> [depthwise 5x5] ->

In brackets are parts: chains that are packed. The other steps are the torch functions and modules
of the forward. Convolutions that torch runs as fast as the kernels (cost.py) are parts of their
own, run by torch with their BatchNorms folded.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from weebill import _C
from weebill.fusion import cost
from weebill.fusion.fold import fold, source_names
from weebill.fusion.layers import NotFusable
from weebill.fusion.links import Link, follow
from weebill.fusion.match import Program, blocks_of, tokens
from weebill.fusion.packed import Packed
from weebill.fusion.spec import BlockSpec, Layer
from weebill.fusion.trace import Graph

#: A step of the forward: takes the values so far and puts its own among them.
Step = Callable[[list[Any]], None]


@dataclass(frozen=True)
class Part:
    """A chain of the graph: from the value of the node `entry` to that of `exit`.

    `torchs` is the convolution that torch runs, if this is one.
    """

    program: Program
    entry: fx.Node
    exit: fx.Node
    torchs: Layer | None


@dataclass(frozen=True)
class Recipe:
    """How a forward is run in parts.

    Attributes:
        graph: The forward.
        parts: By the node whose value they give.
        order: The nodes to run; a part stands at its exit, nodes within one are left out.
        reasons: Why a chain did not go on, by the node at which it ended.
    """

    graph: Graph
    parts: dict[fx.Node, Part]
    order: tuple[fx.Node, ...]
    reasons: dict[fx.Node, str]


def split(graph: Graph) -> Recipe:
    """The forward in parts. Raises NotFusable if no part gains anything."""
    parts: dict[fx.Node, Part] = {}
    reasons: dict[fx.Node, str] = {}
    hidden: set[fx.Node] = set()
    for node in graph.nodes:
        if node in hidden or node.op == "get_attr" or not graph.shape(node):
            continue
        users = graph.users(node)
        for first in (None, *users) if len(users) > 1 else (None,):
            chain = follow(graph, node, first)
            links, blocks = _assembled(graph, chain.links)
            if not blocks:
                for user in users if first is None else [first]:
                    reasons.setdefault(user, chain.reason)
                continue
            found = _parts(graph, links, blocks)
            parts |= {part.exit: part for part in found}
            hidden |= _between(node, links[-1].exit)
            if first is None:
                break
    if not any(_gains(part) for part in parts.values()):
        raise NotFusable("nothing in it is fused")
    return Recipe(graph, parts, _order(graph, parts), reasons)


def _assembled(
    graph: Graph, links: Sequence[Link]
) -> tuple[list[Link], list[tuple[int, BlockSpec]]]:
    """The longest run of links from the first that makes blocks, and these with their tokens."""
    for count in range(len(links), 0, -1):
        try:
            blocks = list(blocks_of(tokens(graph, links[:count])))
        except NotFusable:
            continue
        return list(links[:count]), blocks
    return [], []


def _parts(
    graph: Graph, links: Sequence[Link], blocks: Sequence[tuple[int, BlockSpec]]
) -> Iterator[Part]:
    """Blocks side by side in one part; those that torch runs alone."""
    starts = [i for i, link in enumerate(links) if link.makes_token]
    ends = [*starts[1:], len(links)]
    first, position = 0, 0
    waiting: list[BlockSpec] = []

    def part(last: int) -> Part:
        entry, exit = links[first].entry, links[last].exit
        ranks = len(graph.shape(entry)), len(graph.shape(exit))
        torchs = waiting[0].layer if cost.is_torchs(waiting[0]) else None
        return Part(Program(tuple(waiting), *ranks), entry, exit, torchs)

    for index, (used, block) in enumerate(blocks):
        waiting.append(block)
        last = ends[position + used - 1] - 1
        position += used
        following = blocks[index + 1][1] if index + 1 < len(blocks) else None
        if following is None or cost.is_torchs(block) or cost.is_torchs(following):
            yield part(last)
            first, waiting = last + 1, []


def _gains(part: Part) -> bool:
    """Whether more than a layer runs in one call: torch runs a bare layer as well."""
    if part.torchs is not None:
        return False
    return any(
        block.layer.norms or block.layer.activation != "none"
        if block.layer is not None
        else bool(block.layers())
        for block in part.program.blocks
    )


def _between(entry: fx.Node, exit: fx.Node) -> set[fx.Node]:
    """The nodes whose values a chain goes through, without those at its ends."""
    inner: set[fx.Node] = set()
    pending = [exit]
    while pending:
        for source in pending.pop().all_input_nodes:
            # what was computed before the entry is outside: sizes of other values lead there
            if entry < source and source not in inner:
                inner.add(source)
                pending.append(source)
    return inner


def _order(graph: Graph, parts: dict[fx.Node, Part]) -> tuple[fx.Node, ...]:
    """The nodes that the output needs, where a part needs its entry only."""
    needed = {graph.output}
    pending = [graph.output]
    while pending:
        node = pending.pop()
        for source in [parts[node].entry] if node in parts else node.all_input_nodes:
            if source not in needed:
                needed.add(source)
                pending.append(source)
    return tuple(node for node in graph.nodes if node in needed)


class Split:
    """A recipe with its weights packed, ready to run. The interface is that of `Packed`."""

    def __init__(self, owner: nn.Module, recipe: Recipe) -> None:
        self.recipe = recipe
        self.packed: dict[fx.Node, Packed] = {}
        self.input_rank = len(recipe.graph.shape(recipe.graph.input))
        self.output_rank = len(recipe.graph.shape(recipe.graph.output))
        #: As of records, where the shape of the result follows from the forward: scores of classes.
        self.geometry = _geometry(recipe)
        places = {node: index for index, node in enumerate(recipe.order)}
        last_use: dict[fx.Node, fx.Node] = {}
        for node in recipe.order:
            part = recipe.parts.get(node)
            for source in [part.entry] if part else node.all_input_nodes:
                last_use[source] = node
        self._steps: list[Step] = []
        for node in recipe.order:
            if node is recipe.graph.input:
                continue
            run = self._runner(owner, node, places)
            free = [places[source] for source, user in last_use.items() if user is node]
            self._steps.append(_step(run, places[node], free))
        self._start, self._result = places[recipe.graph.input], places[recipe.graph.output]

    def run(self, x: Tensor) -> Tensor:
        """The forward on x."""
        values: list[Any] = [None] * len(self.recipe.order)
        values[self._start] = x
        for step in self._steps:
            step(values)
        result: Tensor = values[self._result]
        return result

    def run_records(self, x: Tensor, flatten: bool = False) -> Tensor:
        """(N, C, H, W) to (N, O, 1, 1) or (N, O), where there is a geometry."""
        y = self.run(x)
        if flatten:
            return y.contiguous()
        y = y[:, :, None, None]
        return torch.empty_like(y, memory_format=torch.channels_last).copy_(y)

    def _runner(
        self, owner: nn.Module, node: fx.Node, places: dict[fx.Node, int]
    ) -> Callable[[list[Any]], Any]:
        part = self.recipe.parts.get(node)
        if part is None:
            return _plain_step(owner, self.recipe.graph.module(node), node, places)
        entry = places[part.entry]
        if part.torchs is not None:
            convolution = TorchConvolution(owner, part.torchs, part.program.output_rank)
            return lambda values: convolution(values[entry])
        packed = self.packed[node] = Packed(owner, part.program)
        return lambda values: packed.run(values[entry])


def _geometry(recipe: Recipe) -> list[int] | None:
    output = recipe.graph.output
    shapes = recipe.graph.shape(recipe.graph.input), recipe.graph.shape(output)
    linear = output in recipe.parts or isinstance(recipe.graph.module(output), nn.Linear)
    if [len(shape) for shape in shapes] != [4, 2] or not linear:
        return None
    return _C.geometry(_C.pack_global_avg_pool2d(shapes[1][1]))


def sources(owner: nn.Module, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(module, attribute) of every tensor that goes into the result."""
    for part in recipe.parts.values():
        yield from source_names(owner, part.program.blocks)
    for node in recipe.order:
        if node not in recipe.parts:
            yield from recipe.graph.tensors(node)


def _step(run: Callable[[list[Any]], Any], place: int, free: Sequence[int]) -> Step:
    def step(values: list[Any]) -> None:
        values[place] = run(values)
        for index in free:
            values[index] = None

    return step


def _plain_step(
    owner: nn.Module, module: nn.Module | None, node: fx.Node, places: dict[fx.Node, int]
) -> Callable[[list[Any]], Any]:
    """The node as it is: a module, a function, a method or an attribute of a module."""
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        holder = weakref.ref(owner.get_submodule(path))  # which may hold all of this
        return lambda values: getattr(holder(), name)
    function: Any = module if module is not None else node.target
    if node.op == "call_method":
        name = str(node.target)
        if name == "view" and not any(isinstance(value, torch.dtype) for value in node.args):
            name = "reshape"  # parts give channels_last, of which not every view is one

        def function(x: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(x, name)(*args, **kwargs)

    if not node.kwargs and all(isinstance(argument, fx.Node) for argument in node.args):
        indices = tuple(places[argument] for argument in node.args)  # type: ignore[index]
        if len(indices) == 1:
            only = indices[0]
            return lambda values: function(values[only])
        return lambda values: function(*[values[index] for index in indices])

    def general(values: list[Any]) -> Any:
        def value(of: fx.Node) -> Any:
            return values[places[of]]

        args: Any = fx.node.map_arg(node.args, value)
        kwargs: Any = fx.node.map_arg(node.kwargs, value)
        return function(*args, **kwargs)

    return general


class TorchConvolution:
    """A convolution with its BatchNorms folded and its activation, by torch."""

    def __init__(self, owner: nn.Module, layer: Layer, rank: int) -> None:
        folded = fold(owner, layer)
        weight = torch.from_numpy(folded.weight)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias = None if folded.bias is None else torch.from_numpy(folded.bias)
        self._layer = layer
        self._rank = rank
        self._activate = _IN_PLACE[layer.activation]

    def __call__(self, x: Tensor) -> Tensor:
        """As the layer."""
        window = self._layer.window
        padding = window.padding
        if padding == "same":
            padding = _same(x, window.kernel, window.stride, window.dilation)
        top, left, bottom, right = padding
        if (top, left) != (bottom, right):
            x = F.pad(x, (left, right, top, bottom))
            top = left = 0
        y = F.conv2d(
            x,
            self._weight,
            self._bias,
            window.stride,
            (top, left),
            window.dilation,
            self._layer.groups,
        )
        y = self._activate(y)
        return y if self._rank == 4 else y.flatten(1)


def _same(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int, int, int]:
    """TensorFlow's padding: the odd pixel at the bottom and right."""
    totals = [
        max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        for size, s, d, k in zip(x.shape[2:], stride, dilation, kernel, strict=True)
    ]
    top, left = totals[0] // 2, totals[1] // 2
    return top, left, totals[0] - top, totals[1] - left


_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu_,
    "relu6": lambda x: F.relu6(x, inplace=True),
    "hardswish": lambda x: F.hardswish(x, inplace=True),
    "hardsigmoid": lambda x: F.hardsigmoid(x, inplace=True),
    "hardsigmoid_paddle": lambda x: x.div_(5).add_(0.5).clamp_(0, 1),
    "silu": lambda x: F.silu(x, inplace=True),
    "sigmoid": torch.sigmoid_,
}
