"""A graph as a chain of links: layers, norms, activations, pools, squeezes and residuals.

The chain is followed from one value to the next. A value with several users goes on only where
they form one of the diamonds that lightweight CNNs are made of:

    activation   x -> f(x) -> x * f(x)
    squeeze      x -> pool -> layer -> act -> layer -> gate -> x * gate
    residual     x -> ... -> x + ..., or average pool of x -> concat with ...
    sum          x -> several layers, or norms of x -> +
    unit         x -> two halves, or two branches -> concat -> channel shuffle
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from weebill.fusion import activations
from weebill.fusion.layers import NotFusable, check_norm, conv_layer, linear_layer
from weebill.fusion.shuffles import (
    average_window,
    find_halves,
    find_shuffle,
    is_concat,
)
from weebill.fusion.spec import Layer, Norm, Window
from weebill.fusion.trace import SQUEEZE, Graph, evaluate, has_hooks, is_norm, squeezes_batch

#: Longest piece of elementwise graph that is tried as an activation.
_MAX_ACTIVATION_NODES = 8

_ADD = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})
_MUL = frozenset({operator.mul, operator.imul, torch.mul, "mul", "mul_"})
_MEAN = frozenset({torch.mean, "mean"})
_RESHAPE = frozenset(
    {torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze}
    | {"flatten", "reshape", "view", "squeeze", "unsqueeze", "contiguous"}
)
_EXPAND = frozenset({"expand_as", "expand"})
#: What may take a part only of a larger batch than the trial's, or drop the dimension of one image.
_SELECTS = SQUEEZE | {operator.getitem, torch.narrow, "narrow"}


@dataclass
class Link:
    """One step of the chain, from the value `entry` to the value `exit`."""

    kind: Literal[
        "layer",
        "norm",
        "activation",
        "pool",
        "max_pool",
        "squeeze",
        "residual",
        "reshape",
        "expand",
        "shuffle",
        "unit",
        "sum",
    ]
    entry: fx.Node
    exit: fx.Node
    layer: Layer | None = None
    norm: Norm | None = None
    name: str = ""  # of the activation
    inner: list[Link] = field(default_factory=list)
    shortcut: list[Link] | None = None  # of a unit that has two branches
    branches: list[list[Link]] = field(default_factory=list)  # of a sum
    groups: int = 1  # of a shuffle
    window: Window | None = None  # of a max pool, or of the average pool beside a residual branch

    @property
    def makes_token(self) -> bool:
        """Whether it stands for something by itself, and is not part of what comes before it."""
        return self.kind not in ("norm", "activation", "reshape", "expand")

    @property
    def keeps_linear(self) -> bool:
        """Whether a layer can take it in and be a layer still: a norm, or nothing at all."""
        return self.kind == "norm" or (self.kind == "activation" and self.name == "none")


@dataclass(frozen=True)
class PartOfNorm:
    """A BatchNorm on some of its channels, as a step of a graph."""

    module: nn.Module
    norm: Norm
    channels: int

    def __call__(self, x: Tensor) -> Tensor:
        def mine(name: str) -> Any:
            tensor: Any = getattr(self.module, name)
            last = self.norm.first + self.channels
            return None if tensor is None else tensor[self.norm.first : last]

        mean, variance = mine("running_mean"), mine("running_var")
        eps = cast(float, self.module.eps)
        return F.batch_norm(x, mean, variance, mine("weight"), mine("bias"), eps=eps)


@dataclass
class Chain:
    """Links, the value after the last one, and why there are no more (empty at the end)."""

    links: list[Link]
    end: fx.Node
    reason: str


def follow(
    graph: Graph, start: fx.Node, first: fx.Node | None = None, last: fx.Node | None = None
) -> Chain:
    """The longest chain from the value `start`.

    Args:
        graph: Where `start` lies.
        start: The value that the first link takes.
        first: The only user of `start` that counts. Default: all.
        last: The chain may end at a value that only this node uses.
    """
    links: list[Link] = []
    node = start
    while True:
        users = [first] if first is not None and node is start else graph.users(node)
        if not users or users == [last]:
            return Chain(links, node, "")
        try:
            link = _step(graph, node, users)
        except NotFusable as error:
            return Chain(links, node, str(error))
        links.append(link)
        node = link.exit


def simple_step(graph: Graph, node: fx.Node, users: list[fx.Node]) -> Link | None:
    """The step that the users of a value make, if it has no branches. Raises NotFusable."""
    link = _single(graph, node, users[0]) if len(users) == 1 else None
    return link or _activation(graph, node, users)


def _step(graph: Graph, node: fx.Node, users: list[fx.Node]) -> Link:
    link = simple_step(graph, node, users)
    if link is not None:
        return link
    for diamond in (_squeeze, _residual, _pooled, _sum, _unit, _shuffle):
        link = diamond(graph, node, users)
        if link is not None:
            return link
    if len(users) == 1:
        raise NotFusable(f"{_describe(graph, users[0])} has no fused form")
    names = ", ".join(_describe(graph, user) for user in users)
    raise NotFusable(f"one value goes to {names}: no form that is fused")


def _single(graph: Graph, node: fx.Node, user: fx.Node) -> Link | None:
    module = graph.module(user)
    if module is not None and has_hooks(module):
        raise NotFusable(f"{user.target} has hooks")
    path = str(user.target)
    try:
        if isinstance(module, nn.Conv2d):
            return Link("layer", node, user, layer=conv_layer(module, path))
        if isinstance(module, nn.Linear):
            if len(graph.shape(node)) != 2:
                raise NotFusable(f"its input has {len(graph.shape(node))} dimensions")
            return Link("layer", node, user, layer=linear_layer(module, path))
        if module is not None and is_norm(module):
            check_norm(module)
            return Link("norm", node, user, norm=Norm(path))
        if user.target is F.batch_norm:
            return Link("norm", node, user, norm=Norm(_functional_norm(graph, user)))
        if isinstance(user.target, PartOfNorm):
            return Link("norm", node, user, norm=user.target.norm)
    except NotFusable as error:
        raise NotFusable(f"{user.target}: {error}") from error
    if type(module) is nn.MaxPool2d:
        return Link("max_pool", node, user, window=_max_pool_window(module, path))
    if _is_global_pool(graph, node, user):
        return Link("pool", node, user)
    if _is_reshape(graph, node, user):
        return Link("reshape", node, user)
    if _target(user) in _EXPAND and graph.shape(node)[2:] == (1, 1):
        return Link("expand", node, user)
    return None


def _target(node: fx.Node) -> Callable[..., object] | str | None:
    """What a function or method node calls; None for the other kinds."""
    return node.target if node.op in ("call_function", "call_method") else None


def _functional_norm(graph: Graph, node: fx.Node) -> str:
    """The module whose buffers and parameters an F.batch_norm uses under their usual names."""
    bound = dict(zip(("input", *_NORM_ARGUMENTS), node.args, strict=False)) | node.kwargs
    mean = bound.get("running_mean")
    if not isinstance(mean, fx.Node) or mean.op != "get_attr":
        raise NotFusable("batch_norm without running statistics")
    path = str(mean.target).rpartition(".")[0]
    module = graph.owner.get_submodule(path)
    check_norm(module)
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = bound.get(name)
        target = value.target if isinstance(value, fx.Node) else None
        expected = f"{path}.{name}".lstrip(".") if getattr(module, name) is not None else None
        if target != expected:
            raise NotFusable(f"batch_norm with a {name} that is not its module's")
    if bound.get("training", False) is not False or bound.get("eps", 1e-5) != module.eps:
        raise NotFusable("batch_norm with an eps or mode that is not its module's")
    return path


_NORM_ARGUMENTS = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


def _is_global_pool(graph: Graph, node: fx.Node, user: fx.Node) -> bool:
    if len(graph.shape(node)) != 4:
        return False
    module = graph.module(user)
    if type(module) is nn.AdaptiveAvgPool2d:
        return module.output_size in (1, (1, 1), [1, 1])
    arguments = (*user.args[1:], *user.kwargs.values())
    if _target(user) is F.adaptive_avg_pool2d:
        return arguments in ((1,), ((1, 1),), ([1, 1],))
    if _target(user) not in _MEAN or "dtype" in user.kwargs:
        return False
    dims = user.args[1] if len(user.args) > 1 else user.kwargs.get("dim")
    if not isinstance(dims, (tuple, list)) or not all(isinstance(dim, int) for dim in dims):
        return False
    return sorted(dim % 4 for dim in dims) == [2, 3]


def _is_reshape(graph: Graph, node: fx.Node, user: fx.Node) -> bool:
    """Whether the user only adds or drops the two 1s of a pooled image."""
    module = graph.module(user)
    if type(module) not in (nn.Flatten, nn.Unflatten) and _target(user) not in _RESHAPE:
        return False
    if squeezes_batch(user, len(graph.shape(node))):
        return False
    source, result = graph.shape(node), graph.shape(user)
    if source == result:
        return len(source) == 2 or source[2:] == (1, 1)
    pooled = (4, 2), (2, 4)
    return (
        (len(source), len(result)) in pooled
        and source[:2] == result[:2]
        and {source[2:], result[2:]} == {(), (1, 1)}
    )


def _activation(graph: Graph, node: fx.Node, users: list[fx.Node]) -> Link | None:
    if len(users) == 1:
        module = graph.module(users[0])
        if module is not None:
            name = activations.of_module(module)
            if name is not None:
                return Link("activation", node, users[0], name=name)
    region = [node]
    pending = list(users)
    while pending and len(region) <= _MAX_ACTIVATION_NODES:
        candidate = pending.pop(0)
        inside = all(source in region for source in candidate.all_input_nodes)
        if not inside or not _maybe_elementwise(graph, node, candidate):
            continue
        region.append(candidate)
        pending += [user for user in graph.users(candidate) if user not in region]
        if _only_exit(graph, node, users, region):
            name = activations.of_function(_interpreted(graph, region))
            if name is not None:
                return Link("activation", node, candidate, name=name)
    return None


def _maybe_elementwise(graph: Graph, node: fx.Node, candidate: fx.Node) -> bool:
    if graph.shape(candidate) != graph.shape(node) or _target(candidate) in _SELECTS:
        return False
    module = graph.module(candidate)
    if module is None:
        return candidate.op in ("call_function", "call_method")
    return not has_hooks(module) and not [*module.parameters(), *module.buffers()]


def _only_exit(graph: Graph, node: fx.Node, users: list[fx.Node], region: list[fx.Node]) -> bool:
    """Whether values leave the region only through its last node."""
    return all(
        user in region
        for member in region[:-1]
        for user in (users if member is node else graph.users(member))
    )


def _interpreted(graph: Graph, region: list[fx.Node]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        values: dict[fx.Node, Any] = {region[0]: x}
        for node in region[1:]:
            values[node] = evaluate(node, graph.module(node), values)
        result = values[region[-1]]
        assert isinstance(result, Tensor)
        return result

    return run


def _squeeze(graph: Graph, node: fx.Node, users: list[fx.Node]) -> Link | None:
    if len(users) != 2:
        return None
    for pool, product in (users, reversed(users)):
        if not _is_global_pool(graph, node, pool) or _target(product) not in _MUL:
            continue
        inner = follow(graph, node, pool, product)
        if _joins(product, node, inner.end):
            if graph.shape(inner.end)[:2] != graph.shape(node)[:2]:
                raise NotFusable("squeeze-excite: a gate of other channels than its input")
            return Link("squeeze", node, product, inner=inner.links)
        if inner.reason:
            raise NotFusable(f"squeeze-excite: {inner.reason}")
    return None


def _residual(graph: Graph, node: fx.Node, users: list[fx.Node]) -> Link | None:
    if len(users) != 2:
        return None
    for branch, total in (users, reversed(users)):
        if _target(total) not in _ADD or "alpha" in total.kwargs:
            continue
        inner = follow(graph, node, branch, total)
        if _joins(total, node, inner.end):
            if graph.shape(inner.end) != graph.shape(node):
                raise NotFusable("residual: something else than a branch of its input's shape")
            return Link("residual", node, total, inner=inner.links)
        if inner.reason:
            raise NotFusable(f"residual: {inner.reason}")
    return None


def _pooled(graph: Graph, node: fx.Node, users: list[fx.Node]) -> Link | None:
    if len(users) != 2:
        return None
    for branch, pool in (users, reversed(users)):
        window = average_window(graph, pool)
        ends = graph.users(pool)
        if window is None or len(ends) != 1:
            continue
        inner = follow(graph, node, branch, ends[0])
        if inner.links and is_concat(ends[0], pool, inner.end):
            return Link("residual", node, ends[0], inner=inner.links, window=window)
    return None


def _sum(graph: Graph, node: fx.Node, users: list[fx.Node]) -> Link | None:
    if len(users) < 2:
        return None
    branches, ends = [], []
    for user in users:
        links, end = _linear(graph, node, user)
        if not links:
            return None
        branches.append(links)
        ends.append(end)
    while len(ends) > 1:
        for end in ends:
            total, *others = graph.users(end)
            joined = [value for value in ends if value in total.all_input_nodes]
            if (
                not others
                and len(joined) == 2
                and _target(total) in _ADD
                and _joins(total, *joined)
                and graph.shape(joined[0]) == graph.shape(joined[1])
            ):
                break
        else:
            return None
        if any(graph.users(value) != [total] for value in joined):
            return None
        ends = [*(value for value in ends if value not in joined), _past_identities(graph, total)]
    return Link("sum", node, ends[0], branches=branches)


def _past_identities(graph: Graph, node: fx.Node) -> fx.Node:
    """The node, or the last of the steps after it that change nothing."""
    users = graph.users(node)
    while len(users) == 1:
        link = _activation(graph, node, users)
        if link is None or link.name != "none":
            break
        node = link.exit
        users = graph.users(node)
    return node


def _linear(graph: Graph, node: fx.Node, user: fx.Node) -> tuple[list[Link], fx.Node]:
    """Layers and norms one after the other, from the user of the node; where they end."""
    links: list[Link] = []
    users = [user]
    while len(users) == 1:
        link = simple_step(graph, node, users)
        if link is None or not (link.kind == "layer" or link.keeps_linear):
            break
        links.append(link)
        node = link.exit
        users = graph.users(node)
    return links, node


def _unit(graph: Graph, node: fx.Node, users: list[fx.Node]) -> Link | None:
    if users != graph.users(node):
        return None
    halves = find_halves(graph, node)
    if halves is not None:
        first, second = halves
        branch, shortcut, left = follow(graph, second), None, first
    elif len(users) == 2:
        chains = [follow(graph, node, user) for user in users]
        joined = [graph.users(chain.end) for chain in chains]
        if joined[0] != joined[1] or len(joined[0]) != 1:
            return None
        if is_concat(joined[0][0], chains[1].end, chains[0].end):
            chains.reverse()
        shortcut, branch = chains
        left = shortcut.end
    else:
        return None
    ends = graph.users(branch.end)
    if len(ends) != 1 or not branch.links or not is_concat(ends[0], left, branch.end):
        return None
    if graph.users(left) != ends:
        return None
    shuffle = find_shuffle(graph, ends[0])
    if shuffle is None or shuffle[0] != 2:
        raise NotFusable("two branches that are concatenated, but not shuffled by two")
    return Link(
        "unit",
        node,
        shuffle[1],
        inner=branch.links,
        shortcut=None if shortcut is None else shortcut.links,
    )


def _shuffle(graph: Graph, node: fx.Node, users: list[fx.Node]) -> Link | None:
    found = find_shuffle(graph, node) if users == graph.users(node) else None
    return None if found is None else Link("shuffle", node, found[1], groups=found[0])


def _max_pool_window(module: nn.MaxPool2d, path: str) -> Window:
    if module.ceil_mode or module.return_indices:
        raise NotFusable(f"{path}: a max pool with ceil_mode or return_indices")
    kernel, stride, padding, dilation = (
        (value, value) if isinstance(value, int) else (value[0], value[1])
        for value in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    return Window(kernel, stride, (*padding, *padding), dilation)


def _joins(node: fx.Node, a: fx.Node, b: fx.Node) -> bool:
    """Whether the node's operands are exactly these two values."""
    return a is not b and list(node.args) in ([a, b], [b, a]) and not node.kwargs


def _describe(graph: Graph, node: fx.Node) -> str:
    module = graph.module(node)
    if module is not None:
        return f"{type(module).__name__} ({node.target})"
    if node.op == "output":
        return "the output"
    return f"{getattr(node.target, '__name__', node.target)}"
