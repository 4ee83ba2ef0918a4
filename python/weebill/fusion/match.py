"""Finds what can be fused in a module, by its structure.

A module's chain of links (links.py) becomes layers (convolution, BatchNorm, activation), and these
become blocks, the largest first:

    [pointwise] depthwise [squeeze] [pointwise] [+ residual]     one inverted residual
    depthwise, pointwise, dense convolution, linear              alone
    squeeze, global pool, max pool, channel shuffle              alone
    separable block, or two, concatenated and shuffled           one unit of ShuffleNetV2
    1 x 1 in groups, shuffle, depthwise, 1 x 1 in groups
        [+ residual, or average pool concatenated] [activation]  one unit of ShuffleNetV1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import nn

from weebill.fusion.concats import move_in_front
from weebill.fusion.layers import NotFusable
from weebill.fusion.links import Link, follow
from weebill.fusion.spec import BlockSpec, Layer, Squeeze, Sum, Window
from weebill.fusion.symbols import NotTraceable
from weebill.fusion.trace import Graph


@dataclass(frozen=True)
class Program:
    """A whole forward as blocks.

    Attributes:
        blocks: Run one after another.
        input_rank, output_rank: 4 for (N, C, H, W), 2 for (N, C).
    """

    blocks: tuple[BlockSpec, ...]
    input_rank: int
    output_rank: int


@dataclass(frozen=True)
class Pool:
    """Global average pool of `channels`."""

    channels: int


@dataclass(frozen=True)
class Residual:
    """The input added to what the inner tokens compute, then an activation.

    With `pool` the input is not added: its average pool is concatenated before.
    """

    inner: tuple[Token, ...]
    pool: Window | None = None
    activation: str = "none"


@dataclass(frozen=True)
class MaxPool:
    """Max pool of `channels`."""

    channels: int
    window: Window


@dataclass(frozen=True)
class Shuffle:
    """Channel shuffle of `channels`."""

    channels: int
    groups: int


@dataclass(frozen=True)
class Unit:
    """Two branches concatenated and shuffled by two; without a shortcut, on halves of the input."""

    branch: tuple[Token, ...]
    shortcut: tuple[Token, ...] | None


Token: TypeAlias = Layer | Squeeze | Pool | MaxPool | Shuffle | Residual | Unit


def graph_of(owner: nn.Module) -> Graph:
    """The module's forward in evaluation. Raises NotFusable: the text says why it has no graph."""
    for path, parameter in owner.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            kind = f"{parameter.dtype} on {parameter.device}".removeprefix("torch.")
            raise NotFusable(f"{path} is {kind}, not float32 on cpu")
    try:
        graph = Graph(owner)
    except NotTraceable as error:
        raise NotFusable(str(error)) from error
    move_in_front(graph)
    return graph


def match(graph: Graph) -> Program:
    """The forward as a program. Raises NotFusable if it is no chain of blocks."""
    chain = follow(graph, graph.input)
    if chain.reason:
        raise NotFusable(chain.reason)
    blocks = tuple(block for _, block in blocks_of(tokens(graph, chain.links)))
    if chain.end is not graph.output or not blocks:
        raise NotFusable("nothing in it is fused")
    ranks = len(graph.shape(graph.input)), len(graph.shape(graph.output))
    return Program(blocks, *ranks)


def tokens(graph: Graph, links: Sequence[Link]) -> list[Token]:
    """Links with norms and activations merged into the layers before them. Raises NotFusable."""
    found: list[Token] = []
    for link in links:
        last = found[-1] if found else None
        if link.kind == "layer":
            assert link.layer is not None
            found.append(link.layer)
        elif link.kind == "norm":
            assert link.norm is not None
            if not isinstance(last, Layer) or last.activation != "none":
                raise NotFusable(f"{link.norm.path}: a BatchNorm that follows no convolution")
            found[-1] = replace(last, norms=(*last.norms, link.norm))
        elif link.kind == "activation" and link.name != "none":
            if not isinstance(last, (Layer, Residual)) or last.activation != "none":
                raise NotFusable(f"{link.exit.name}: an activation that follows no convolution")
            found[-1] = replace(last, activation=link.name)
        elif link.kind == "pool":
            found.append(Pool(graph.shape(link.entry)[1]))
        elif link.kind == "max_pool":
            assert link.window is not None
            found.append(MaxPool(graph.shape(link.entry)[1], link.window))
        elif link.kind == "shuffle":
            found.append(Shuffle(graph.shape(link.entry)[1], link.groups))
        elif link.kind == "sum":
            found.append(_sum([_branch_layer(graph, branch) for branch in link.branches]))
        elif link.kind == "unit":
            shortcut = None if link.shortcut is None else tuple(tokens(graph, link.shortcut))
            found.append(Unit(tuple(tokens(graph, link.inner)), shortcut))
        elif link.kind == "squeeze":
            # the gate may be expanded to the size of the image before it multiplies
            inner = link.inner[:-1] if link.inner[-1].kind == "expand" else link.inner
            found.append(_squeeze(tokens(graph, inner)))
        elif link.kind == "residual":
            found.append(Residual(tuple(tokens(graph, link.inner)), link.window))
        elif link.kind == "expand":
            raise NotFusable(f"{link.exit.name} outside a squeeze-excite")
    return found


def _branch_layer(graph: Graph, branch: Sequence[Link]) -> Layer:
    """What one summand computes: a layer with its norms, or norms of the input itself."""
    found: Layer | None = None
    if branch[0].kind != "layer":
        channels = graph.shape(branch[0].entry)[1]
        found = Layer("", channels, channels)
    for link in branch:
        if link.kind == "layer" and found is None:
            found = link.layer
        elif link.norm is not None and found is not None:
            found = replace(found, norms=(*found.norms, link.norm))
        elif link.kind != "activation":
            raise NotFusable("a sum of branches with more than one layer")
    assert found is not None
    return found


def _sum(branches: Sequence[Layer]) -> Layer:
    """The layer that equals the sum: the one of the largest window takes in the others."""
    largest = max((b for b in branches if b.path), key=lambda b: b.window.kernel, default=None)
    if largest is None:
        raise NotFusable("a sum without a convolution")
    merged = Sum(**vars(largest), beside=tuple(b for b in branches if b is not largest))
    window = largest.window
    for other in merged.beside:
        same = (
            (other.in_channels, other.out_channels) == (merged.in_channels, merged.out_channels)
            and other.window.stride == window.stride
            and (other.window.kernel == (1, 1) or other.window.dilation == window.dilation)
            and (other.groups == merged.groups or not other.path)
        )
        if not same or "same" in (window.padding, other.window.padding):
            raise NotFusable("a sum of layers of different geometry")
        if not all(
            start >= 0 and start % step == 0 and start // step + small <= large
            for start, step, small, large in zip(
                merged.offset(other),
                window.dilation,
                other.window.kernel,
                window.kernel,
                strict=True,
            )
        ):
            raise NotFusable("a sum of layers whose windows do not lie in one of them")
    return merged


def _squeeze(inner: list[Token]) -> Squeeze:
    layers = [token for token in inner[1:] if isinstance(token, Layer) and token.pointwise]
    if len(inner) != 3 or len(layers) != 2 or not isinstance(inner[0], Pool):
        raise NotFusable("a squeeze-excite that is not pool, layer, layer, gate")
    return Squeeze(*layers)


def blocks_of(found: Sequence[Token]) -> Iterator[tuple[int, BlockSpec]]:
    """Blocks for the tokens, from the front, the largest first, and how many tokens each takes.

    Raises:
        NotFusable: Some of them have no block.
    """
    index = 0
    while index < len(found):
        token = found[index]
        if isinstance(token, Residual):
            block, used = _residual(token), 1
        else:
            separable, used = _separable(found[index:])
            if separable is None:
                separable, used = _unit_v1(found[index:])
            if separable is None:
                separable, used = _single(token), 1
            block = separable
        yield used, block
        index += used


def _separable(found: Sequence[Token]) -> tuple[BlockSpec | None, int]:
    """The separable block at the front and how many tokens it takes."""
    index = 0

    def layer(kind: str) -> Layer | None:
        nonlocal index
        token = found[index] if index < len(found) else None
        if isinstance(token, Layer) and getattr(token, kind):
            index += 1
            return token
        return None

    expand = layer("pointwise")
    depthwise = layer("depthwise")
    if depthwise is None:
        return None, 0
    squeeze = None
    if index < len(found) and isinstance(found[index], Squeeze):
        squeeze = found[index]
        index += 1
    project = layer("pointwise")
    if not (expand or squeeze or project):
        return None, 0
    assert squeeze is None or isinstance(squeeze, Squeeze)
    block = BlockSpec(
        "separable", expand=expand, depthwise=depthwise, squeeze=squeeze, project=project
    )
    return block, index


def _single(token: Token) -> BlockSpec:
    if isinstance(token, Layer):
        return BlockSpec("conv2d", layer=token)
    if isinstance(token, Squeeze):
        return BlockSpec("squeeze_excite", squeeze=token)
    if isinstance(token, MaxPool):
        return BlockSpec("max_pool2d", channels=token.channels, window=token.window)
    if isinstance(token, Shuffle):
        return BlockSpec("channel_shuffle", channels=token.channels, groups=token.groups)
    if isinstance(token, Unit):
        shortcut = None if token.shortcut is None else _branch(token.shortcut)
        return BlockSpec("shuffle_unit", branch=_branch(token.branch), shortcut=shortcut)
    assert isinstance(token, Pool)
    return BlockSpec("global_avg_pool2d", channels=token.channels)


def _residual(token: Residual) -> BlockSpec:
    block, used = _separable(token.inner)
    separable = block is not None and block.project is not None and used == len(token.inner)
    if block is not None and separable and token.pool is None and token.activation == "none":
        return replace(block, residual=True)
    unit, used = _unit_v1(token.inner, shuffled=False)
    if unit is None or unit.depthwise is None or used != len(token.inner):
        raise NotFusable("a residual around something else than one depthwise-pointwise block")
    if unit.activation != "none":
        raise NotFusable("a branch with an activation at its end, before it joins its input")
    if token.pool is not None and token.pool != unit.depthwise.window:
        raise NotFusable("an average pool with another window than the depthwise convolution's")
    concat = token.pool is not None
    return replace(unit, residual=not concat, concat=concat, activation=token.activation)


def _unit_v1(found: Sequence[Token], *, shuffled: bool = True) -> tuple[BlockSpec | None, int]:
    """The unit of ShuffleNetV1 at the front, without what joins it, and its number of tokens."""
    if not found:
        return None, 0
    expand, *rest = found
    shuffle = rest[0] if rest and isinstance(rest[0], Shuffle) else None
    if shuffle is None and shuffled:
        return None, 0
    if shuffle is not None:
        del rest[0]
    if len(rest) < 2 or not isinstance(expand, Layer) or not expand.one_by_one:
        return None, 0
    depthwise, project = rest[:2]
    if not isinstance(depthwise, Layer) or not depthwise.depthwise:
        return None, 0
    if not isinstance(project, Layer) or not project.one_by_one:
        return None, 0
    block = BlockSpec(
        "shuffle_unit_v1",
        expand=expand,
        depthwise=depthwise,
        project=replace(project, activation="none"),
        groups=1 if shuffle is None else shuffle.groups,
        activation=project.activation,
    )
    return block, 3 if shuffle is None else 4


def _branch(inner: tuple[Token, ...]) -> BlockSpec:
    block, used = _separable(inner)
    if block is None or used != len(inner):
        raise NotFusable("a branch of a shuffle unit that is no depthwise-pointwise block")
    return block
