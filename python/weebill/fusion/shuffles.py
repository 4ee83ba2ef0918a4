"""Channel shuffles and ShuffleNetV2's units in a graph, found by what their values are.

The nodes between two tensors are run on numbers that tell where each came from: `view`, `reshape`,
`transpose`, `permute`, `chunk`, `split` and slices are all one then, however they are spelled.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from weebill.fusion.spec import Window
from weebill.fusion.trace import Graph, ancestors, has_hooks

#: Longest piece of graph that is tried as a shuffle.
_MAX_NODES = 10
_CONCAT = frozenset({torch.cat, torch.concat, torch.concatenate})


def find_shuffle(graph: Graph, start: fx.Node) -> tuple[int, fx.Node] | None:
    """(groups, last node) of the channel shuffle that the value `start` goes through, if any."""
    shape = graph.shape(start)
    if len(shape) != 4:
        return None
    x = _numbered(shape)
    node = start
    for _ in range(_MAX_NODES):
        users = graph.users(node)
        if len(users) != 1 or not _moves_only(graph, users[0]):
            return None
        node = users[0]
        if graph.shape(node) != shape:
            continue
        y = _evaluate(graph, node, start, x)
        if y is None or y.shape != x.shape:
            return None
        groups = _groups(x, y)
        if groups is not None:
            return groups, node
    return None


def find_halves(graph: Graph, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The nodes of the first and the second half of the channels, if that is all that is used."""
    n, c, *size = graph.shape(node) if len(graph.shape(node)) == 4 else (0, 1)
    if c % 2:
        return None
    parts: list[fx.Node] = []
    for user in graph.users(node):
        parts += (
            [user] if graph.shape(user) else graph.users(user)
        )  # a list of tensors has no shape
    if len(parts) != 2 or any(graph.shape(part) != (n, c // 2, *size) for part in parts):
        return None
    x = _numbered(graph.shape(node))
    found: dict[int, fx.Node] = {}
    for part in parts:
        if not _moves_only(graph, part):
            return None
        y = _evaluate(graph, part, node, x)
        for index, half in enumerate(x.chunk(2, 1)):
            if y is not None and torch.equal(y, half):
                found[index] = part
    return (found[0], found[1]) if len(found) == 2 else None


def is_concat(node: fx.Node, first: fx.Node, second: fx.Node) -> bool:
    """Whether the node joins exactly these two along the channels."""
    return concatenated(node) == [first, second]


def concatenated(node: fx.Node) -> list[fx.Node]:
    """The images that the node joins along the channels; none if it does something else."""
    if node.op != "call_function" or node.target not in _CONCAT or not node.args:
        return []
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    tensors = node.args[0]
    if not isinstance(tensors, (list, tuple)) or dim not in (1, -3):
        return []
    return [tensor for tensor in tensors if isinstance(tensor, fx.Node)]


def average_window(graph: Graph, node: fx.Node) -> Window | None:
    """The window of an average pool that counts the zeros of its padding; None for other nodes."""
    module = graph.module(node)
    if type(module) is nn.AvgPool2d:
        if has_hooks(module) or module.divisor_override is not None:
            return None
        bound = {name: getattr(module, name) for name in _POOL_ARGUMENTS}
    elif node.op == "call_function" and node.target is F.avg_pool2d:
        bound = dict(zip(("input", *_POOL_ARGUMENTS), node.args, strict=False)) | node.kwargs
        if bound.get("divisor_override") is not None or len(node.args) > 1 + len(_POOL_ARGUMENTS):
            return None
    else:
        return None
    kernel = _both(bound.get("kernel_size"))
    stride = kernel if not bound.get("stride") else _both(bound["stride"])
    padding = _both(bound.get("padding", 0))
    if kernel is None or stride is None or padding is None or bound.get("ceil_mode", False):
        return None
    padded = padding != (0, 0)
    if padded and not bound.get("count_include_pad", True):
        return None
    return Window(kernel, stride, (*padding, *padding))


_POOL_ARGUMENTS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")


def _both(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, (tuple, list)) and all(isinstance(v, int) for v in value):
        return value[0], value[-1]
    return None


def _numbered(shape: tuple[int, ...]) -> Tensor:
    """A number of its own for every element, of both signs: no activation leaves them all alone."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) - count // 2 + 0.25).reshape(shape)


def _groups(x: Tensor, y: Tensor) -> int | None:
    channels = x.shape[1]
    for groups in range(2, channels):
        if channels % groups == 0 and torch.equal(y[0, 1], x[0, channels // groups]):
            return groups if torch.equal(y, F.channel_shuffle(x, groups)) else None
    return None


def _moves_only(graph: Graph, node: fx.Node) -> bool:
    module = graph.module(node)
    if module is None:
        return node.op in ("call_function", "call_method")
    return not has_hooks(module) and not [*module.parameters(), *module.buffers()]


def _evaluate(graph: Graph, node: fx.Node, start: fx.Node, x: Tensor) -> Tensor | None:
    """The node's value where `start` is x; None if more than that and shapes goes into it."""
    values: dict[fx.Node, Any] = {start: x}

    def value(of: fx.Node) -> Any:
        if of not in values:
            if graph.shape(of) and start not in ancestors(of):
                # of another tensor only the shape may be asked for
                values[of] = torch.empty(graph.shape(of), device="meta")
            else:
                args: Any = fx.map_arg(of.args, value)
                kwargs: Any = fx.map_arg(of.kwargs, value)
                module = graph.module(of)
                if module is not None:
                    values[of] = module(*args, **kwargs)
                elif of.op == "call_method":
                    values[of] = getattr(args[0], str(of.target))(*args[1:], **kwargs)
                else:
                    values[of] = of.target(*args, **kwargs)  # type: ignore[operator]
        return values[of]

    try:
        result = value(node)
    except Exception:  # foreign code: whatever it raises, it only moves nothing then
        return None
    return result if isinstance(result, Tensor) and result.device.type == "cpu" else None
