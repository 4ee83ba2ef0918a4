"""BatchNorms and activations behind a concatenation, moved in front of it.

    layer a -> concat -> norm -> activation      layer a -> norm of a -> activation -> concat
    layer b ->                               to  layer b -> norm of b -> activation ->

They act on every channel by itself, so each branch can have its part of them, and its layer takes
that in. MixNet's convolutions of several sizes side by side are of this form.
"""

from __future__ import annotations

from torch import fx

from weebill.fusion import activations
from weebill.fusion.layers import NotFusable
from weebill.fusion.links import Link, PartOfNorm, simple_step
from weebill.fusion.shuffles import concatenated
from weebill.fusion.spec import Norm
from weebill.fusion.trace import Graph


def move_in_front(graph: Graph) -> None:
    """Does so wherever each branch of a concatenation ends in a layer, and goes nowhere else."""
    for concat in graph.nodes:
        branches = concatenated(concat)
        ends = [graph.users(branch) == [concat] for branch in branches]
        if not branches or not all(ends) or len(set(branches)) < len(branches):
            continue
        steps = _steps_after(graph, concat)
        if steps and all(_ends_in_layer(graph, branch) for branch in branches):
            _move(graph, concat, branches, steps)


def _steps_after(graph: Graph, concat: fx.Node) -> list[Link]:
    """BatchNorms and activations behind it, up to the first that changes anything but by a norm."""
    steps: list[Link] = []
    node, last = concat, 0
    while users := graph.users(node):
        step = _step(graph, node, users)
        if step is None or step.kind not in ("norm", "activation"):
            break
        steps.append(step)
        node = step.exit
        if step.kind == "norm":
            last = len(steps)
        elif step.name != "none":
            return steps
    return steps[:last]


def _ends_in_layer(graph: Graph, node: fx.Node) -> bool:
    """Whether the value is that of a convolution, or of BatchNorms behind one."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return False
    step = _step(graph, source, [node])
    if step is None or step.exit is not node:
        return False
    if step.kind == "layer":
        return len(graph.shape(node)) == 4
    behind = step.keeps_linear and graph.users(source) == [node]
    return behind and _ends_in_layer(graph, source)


def _step(graph: Graph, node: fx.Node, users: list[fx.Node]) -> Link | None:
    try:
        return simple_step(graph, node, users)
    except NotFusable:
        return None


def _move(graph: Graph, concat: fx.Node, branches: list[fx.Node], steps: list[Link]) -> None:
    moved: list[fx.Node] = []
    first = 0
    for branch in branches:
        node, channels = branch, graph.shape(branch)[1]
        for step in steps:
            if step.norm is not None:
                module = graph.owner.get_submodule(step.norm.path)
                part = PartOfNorm(module, Norm(step.norm.path, first), channels)
                node = graph.insert(concat, part, node)
            elif step.name != "none":
                node = graph.insert(concat, activations.ACTIVATIONS[step.name], node)
        moved.append(node)
        first += channels
    concat.args = (moved, *concat.args[1:])
    graph.redirect(steps[-1].exit, concat)
