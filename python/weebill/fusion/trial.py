"""A run of a module's own forward, which its graph is held against.

Tracing sees one way through the forward: that of symbols, outside of its contexts. Branches on the
type of the input or on the gradient mode, `torch.autocast`, `torch.no_grad` and numbers that are
drawn leave no trace in the graph; in its result they do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from weebill.fusion.switch import unfused
from weebill.fusion.symbols import NotTraceable

#: Largest difference of the graph's result to the forward's, relative to the largest value. The
#: operations are the same, in the same layouts: more than a bit or two is another computation.
_TOLERANCE = 1e-5


def plain_result(owner: nn.Module, x: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """What the forward gives where gradients are wanted.

    Args:
        owner: The module; its hooks are not run.
        x: The input, which the forward may write to.
        weights: Tensors that go into the result.

    Raises:
        NotTraceable: It gives something else than a tensor, or one without the gradients that its
            operations have.
        Exception: Whatever the forward raises.
    """
    forward: Any = type(owner).forward
    source = x.requires_grad_()
    with unfused(), torch.enable_grad():
        # a copy: a forward may write to its input, but not to one that it is to be derived by
        y = forward(owner, source.clone())
    if not isinstance(y, Tensor):
        raise NotTraceable("its forward does not return one tensor")
    if y.is_floating_point():
        wanted = [source, *(weight for weight in weights if weight.requires_grad)]
        reached = _leaves(y)
        if not all(id(tensor) in reached for tensor in wanted):
            raise NotTraceable("its forward stops gradients (no_grad, inference_mode or detach)")
    return y.detach()


def _leaves(y: Tensor) -> set[int]:
    """The ids of all tensors that y has a gradient to."""
    pending: list[Any] = [y.grad_fn]
    seen: set[Any] = {None}
    found: set[int] = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # where a gradient ends
        if variable is not None:
            found.add(id(variable))
        pending += [source for source, _ in node.next_functions]
    return found


def difference(found: object, plain: Tensor) -> str:
    """In what a graph's result is not the forward's; empty if it is."""
    if not isinstance(found, Tensor):
        return "no tensor"
    if found.dtype != plain.dtype:
        return f"{found.dtype}, not {plain.dtype}".replace("torch.", "")
    if found.shape != plain.shape:
        return f"shape {tuple(found.shape)}, not {tuple(plain.shape)}"
    if torch.equal(found, plain):
        return ""
    scale = float(plain.abs().max())
    distance = float((found - plain).abs().max())
    # not the other way round: of values that are no numbers nothing is known
    return "" if distance <= _TOLERANCE * scale else f"values that differ by {distance:.1e}"
