"""Goes through the graph of a converted model and writes down the nodes of a file.

Fused modules are single steps of the graph. Convolutions and linear layers that stand alone become
programs of one block, and take a BatchNorm and an activation that follow them. The steps between
them are in steps.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from weebill.fusion import activations
from weebill.fusion.layers import check_norm, conv_layer, linear_layer
from weebill.fusion.match import Program
from weebill.fusion.module import FusedModule
from weebill.fusion.spec import BlockSpec, Layer, Norm, Sum, joined
from weebill.fusion.split import Part, Recipe
from weebill.fusion.trace import writes
from weebill.runtime import nodes
from weebill.runtime.description import Output

Blocks: TypeAlias = tuple[BlockSpec, ...]
#: Appends the nodes of a step: called with the builder and the step's arguments.
Step: TypeAlias = Callable[..., Any]


@dataclass
class Network:
    """Programs of the owner's modules, nodes, and outputs."""

    programs: list[Blocks]
    nodes: list[nodes.Node]
    outputs: tuple[Output, ...] = ()
    structure: str = "array"


@dataclass(frozen=True)
class Value:
    """A tensor of the forward: the index of a value of the file."""

    index: int


@dataclass(frozen=True)
class Size:
    """A size that depends on the input's: axis `axis` of value `index`."""

    index: int
    axis: int


class NotSaved(Exception):
    """A step without a form in a file; the text says which."""


def program_of(module: nn.Module) -> Program | None:
    """What a fused module runs; None for any other, and one that runs plain."""
    if isinstance(module, FusedModule) and module.fusion.prepare(module):
        return module.fusion.program
    return None


def recipe_of(module: nn.Module) -> Recipe | None:
    """How a module runs in parts; None for one that does not."""
    if isinstance(module, FusedModule) and module.fusion.prepare(module):
        return module.fusion.recipe
    return None


class Builder:
    """Goes through a traced graph once, node by node.

    `values` has what every node of the graph is: a `Value`, a number, a `Size`, or a tuple of
    such.
    """

    def __init__(
        self,
        owner: nn.Module,
        shape: tuple[int, ...],
        functions: Mapping[Any, Step],
        modules: Mapping[type[nn.Module], Step],
    ) -> None:
        self.owner = owner
        self.prefix = ""  # the owner's name in the model that is saved
        self.input = Value(0)
        self.functions = functions
        self.modules = modules
        self.network = Network([], [])
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.values: dict[fx.Node, Any] = {}
        self.live: set[fx.Node] = set()
        self.current: fx.Node | None = None
        self._shapes = {0: shape}
        self._names: dict[int, list[fx.Node]] = {}  # by value: all nodes that are this value
        self._users: dict[int, int] = {}

    def build(
        self,
        order: Sequence[fx.Node],
        shapes: dict[fx.Node, tuple[int, ...]],
        result: Any,
        parts: Mapping[fx.Node, Part] = MappingProxyType({}),
    ) -> Network:
        """Programs, nodes and outputs of the owner's forward.

        Args:
            order: The nodes of its graph that the result needs.
            shapes: Those of their values.
            result: A node, or a tuple, list or dict of nodes.
            parts: Nodes that are values of programs, see split.py.
        """
        self._go(order, shapes, parts)
        self._set_outputs(result)
        self._merge_runs()
        return self.network

    def _go(
        self,
        order: Sequence[fx.Node],
        shapes: dict[fx.Node, tuple[int, ...]],
        parts: Mapping[fx.Node, Part],
    ) -> None:
        self.shapes, self.live = shapes, set(order)
        self._check_writes([node for node in order if node not in parts])
        for node in order:
            self.current = node
            if node in parts:
                part = parts[node]
                value = self.run(self.values[part.entry], part.program.blocks, node)
            else:
                value = self._step(node)
            self.values[node] = value
            if node in self.shapes and isinstance(value, Value):
                self._shapes[value.index] = self.shapes[node]
                self._names.setdefault(value.index, []).append(node)

    def _in_parts(self, path: str, module: nn.Module, recipe: Recipe, x: Value) -> Any:
        """A module inside that runs in parts."""
        inner = copy.copy(self)
        inner.owner, inner.prefix, inner.input = module, joined(self.prefix, path), x
        inner.values = {}
        graph = recipe.graph
        inner._go(recipe.order, graph.shapes_for(self._shape(x)), recipe.parts)
        return inner.values[graph.output]

    def _check_writes(self, order: Sequence[fx.Node]) -> None:
        """Raises unless values can be followed as if nothing were changed in place."""
        for index, node in enumerate(order):
            module = self.owner.get_submodule(str(node.target)) if _calls_module(node) else None
            if not writes(node, module) or not node.args:
                continue
            target = node.args[0]
            later = set(order[index + 1 :])
            if isinstance(target, fx.Node) and any(user in later for user in target.users):
                raise NotSaved(f"its forward changes a tensor in place ({node.name})")

    def _step(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.input
        if node.op == "get_attr":
            raise NotSaved(f"it computes with {node.target} outside of a layer")
        args: Any = fx.node.map_arg(node.args, self.values.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self.values.__getitem__)
        if _calls_module(node):
            return self._module(node, args, kwargs)
        handler = self.functions.get(node.target)
        if handler is None:
            raise NotSaved(f"{getattr(node.target, '__name__', node.target)} has no saved form")
        try:
            return handler(self, *args, **kwargs)
        except (TypeError, AttributeError):
            name = getattr(node.target, "__name__", node.target)
            raise NotSaved(f"{name} has no saved form with {_shown(args, kwargs)}") from None

    def _module(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        path = str(node.target)
        module = self.owner.get_submodule(path)
        program = program_of(module)
        if len(args) != 1 or kwargs or not isinstance(args[0], Value):
            raise NotSaved(f"{path} is called with more than one tensor")
        x = args[0]
        if program is not None:
            return self.run(x, tuple(_inside(block, path) for block in program.blocks), node)
        recipe = recipe_of(module)
        if recipe is not None:
            return self._in_parts(path, module, recipe, x)
        if isinstance(module, nn.Conv2d):
            return self.run(x, (BlockSpec("conv2d", layer=conv_layer(module, path)),), node)
        if isinstance(module, nn.Linear):
            if self.rank(x) != 2:
                raise NotSaved(f"{path} is a linear layer on {self.rank(x)} dimensions")
            return self.run(x, (BlockSpec("conv2d", layer=linear_layer(module, path)),), node)
        if isinstance(module, _BatchNorm):
            check_norm(module)
            return self._into_layer(x, path, norm=Norm(joined(self.prefix, path)))
        name = activations.of_module(module)
        if name is not None:
            return self.activation(x, name)
        handler = self.modules.get(type(module))
        if handler is None:
            raise NotSaved(f"{type(module).__name__} ({path}) has no saved form")
        return handler(self, x, module)

    # --- the steps ---

    def add(self, node: nodes.Node) -> Value:
        """Appends a node; its value."""
        for index in node.inputs:
            self._users[index] = self._users.get(index, 0) + 1
        self.network.nodes.append(node)
        return Value(len(self.network.nodes))

    def run(self, x: Value, blocks: Blocks, node: fx.Node | None = None) -> Value:
        """A program on x; a network that calls the same modules again runs the same program."""
        blocks = tuple(_inside(block, self.prefix) for block in blocks)
        programs = self.network.programs
        if blocks in programs and any(block.layers() for block in blocks):
            index = programs.index(blocks)
        else:
            programs.append(blocks)
            index = len(programs) - 1
        flat = node is not None and len(self.shapes[node]) == 2
        return self.add(nodes.Run((x.index,), index, flat))

    def rank(self, x: Value) -> int:
        return len(self._shape(x))

    def channels(self, x: Value) -> int:
        return self._shape(x)[1]

    def _shape(self, x: Value) -> tuple[int, ...]:
        return self._shapes[x.index]

    def size(self, x: Value, axis: int) -> int | Size:
        """A size of x: a number where it is the same for every input."""
        axis %= self.rank(x)
        if self.rank(x) == 4 and axis == 1:
            return self.channels(x)
        return Size(x.index, axis)

    def activation(self, x: Value, name: str) -> Value:
        if name == "none":
            return x
        return self._into_layer(x, name, activation=name)

    def _into_layer(
        self, x: Value, what: str, *, norm: Norm | None = None, activation: str = ""
    ) -> Value:
        """A BatchNorm or an activation as part of the layers that have made x, if there are any."""
        layers = self._layers_of(x.index, self.current)
        if layers is not None:
            first = 0
            for index, layer in layers:
                if norm is not None:
                    mine = replace(norm, first=norm.first + first)
                    changed = replace(layer, norms=(*layer.norms, mine))
                else:
                    changed = replace(layer, activation=activation)
                *before, block = self.network.programs[index]
                self.network.programs[index] = (*before, replace(block, layer=changed))
                first += layer.out_channels
            return x
        if norm is not None:
            raise NotSaved(f"{what} is a BatchNorm that follows no convolution")
        return self.add(nodes.make_node("activation", inputs=[x.index], name=activation))

    def _layers_of(self, value: int, user: fx.Node | None) -> list[tuple[int, Layer]] | None:
        """The last layers of the programs whose results, concatenated, are a value.

        None unless the layers have no activation, and `user` alone takes what they give.
        """
        if value == self.input.index:
            return None  # of the module around, which may use it elsewhere
        last = self.network.nodes[value - 1] if value else None
        names = self._names.get(value, [])
        users = {u for name in names for u in name.users if u in self.live} - set(names)
        if users != {user}:
            return None
        if isinstance(last, nodes.Concat) and last.axis == 1:
            found: list[tuple[int, Layer]] = []
            for source in last.inputs:
                layers = self._layers_of(source, names[0])
                if layers is None:
                    return None
                found += layers
            return found
        if not isinstance(last, nodes.Run):
            return None
        runs = [node for node in self.network.nodes if isinstance(node, nodes.Run)]
        layer = self.network.programs[last.program][-1].layer
        used = sum(node.program == last.program for node in runs)
        if layer is None or layer.activation != "none" or used != 1:
            return None
        return [(last.program, layer)]

    def pool(self, x: Value) -> Value:
        """The mean over height and width, which stay as 1 x 1."""
        block = BlockSpec("global_avg_pool2d", channels=self.channels(x))
        value = self.run(x, (block,))
        self._shapes[value.index] = (*self._shape(x)[:2], 1, 1)
        return value

    # --- the end ---

    def _set_outputs(self, result: Any) -> None:
        if isinstance(result, fx.Node):
            named = [("", result)]
        elif isinstance(result, dict):
            self.network.structure = "dict"
            named = list(result.items())
        elif isinstance(result, (tuple, list)):
            self.network.structure = "tuple"
            named = [("", value) for value in result]
        else:
            raise NotSaved("its forward returns no tensor")
        outputs = []
        for name, node in named:
            value = self.values[node] if isinstance(node, fx.Node) else None
            if not isinstance(value, Value) or not isinstance(name, str):
                raise NotSaved("its forward returns more than tensors, or nests them")
            outputs.append(Output(value.index, name))
            self._users[value.index] = self._users.get(value.index, 0) + 1
        self.network.outputs = tuple(outputs)

    def _merge_runs(self) -> None:
        """Programs of which one only feeds the next become one program: one call."""
        old = self.network
        calls = [node.program for node in old.nodes if isinstance(node, nodes.Run)]
        once = {program for program in calls if calls.count(program) == 1}
        programs: list[Blocks] = []
        numbers: dict[int, int] = {}  # of a program that is run several times
        places = {0: 0}  # new index of every value
        merged: list[nodes.Node] = []
        for index, node in enumerate(old.nodes, 1):
            inputs = tuple(places[value] for value in node.inputs)
            if not isinstance(node, nodes.Run):
                merged.append(replace(node, inputs=inputs))
            else:
                blocks = old.programs[node.program]
                last = merged[-1] if merged else None
                follows = (
                    isinstance(last, nodes.Run)
                    and inputs[0] == len(merged)
                    and self._users.get(node.inputs[0]) == 1
                    and node.program in once
                    and last.program not in numbers.values()
                )
                if follows:
                    assert isinstance(last, nodes.Run)
                    programs[last.program] += blocks
                    merged[-1] = replace(last, flatten=node.flatten)
                    places[index] = len(merged)
                    continue
                number = numbers.get(node.program, len(programs))
                if number == len(programs):
                    programs.append(blocks)
                if node.program not in once:
                    numbers[node.program] = number
                merged.append(replace(node, inputs=inputs, program=number))
            places[index] = len(merged)
        outputs = tuple(replace(output, value=places[output.value]) for output in old.outputs)
        self.network = Network(programs, merged, outputs, old.structure)


def _calls_module(node: fx.Node) -> bool:
    return node.op == "call_module"


def _inside(block: BlockSpec, path: str) -> BlockSpec:
    """A block of the module at `path`, as one of the owner."""
    if not path:
        return block

    def inside(layer: Layer) -> Layer:
        moved = replace(
            layer,
            path=joined(path, layer.path) if layer.path else "",
            norms=tuple(replace(norm, path=joined(path, norm.path)) for norm in layer.norms),
        )
        if isinstance(moved, Sum):
            moved = replace(moved, beside=tuple(inside(other) for other in moved.beside))
        return moved

    return block.map_layers(inside)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for entry in value for leaf in _flat(entry)]
    if isinstance(value, dict):
        return _flat(list(value.values()))
    return [value]


def _shown(args: Any, kwargs: Any) -> str:
    words = [repr(value) for value in _flat((args, kwargs)) if not isinstance(value, Value)]
    return ", ".join(words) or "these arguments"
