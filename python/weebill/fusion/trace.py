"""A module's forward as a graph of primitive steps with known shapes.

`forward` runs on torch.fx's symbols: one that looks at values or sizes in Python, or does anything
but compute on tensors, fails and is left alone. A run on a small input then gives every value a
shape: that tells, for one, that a `view` only drops the two 1s that a global pooling left. It must
give what the forward itself gives, else the graph is none of it (trial.py).
"""

from __future__ import annotations

import copy
import inspect
import operator
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from weebill.fusion.effects import State, random_numbers_kept, undone
from weebill.fusion.symbols import NotTraceable, Shadows
from weebill.fusion.trial import difference, plain_result

#: Height and width of the trial input, odd and even, and larger ones for networks that need it.
TRIAL_SIZES = ((35, 42), (75, 90), (129, 136))
TRIAL_BATCH = 2


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module runs more than its forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class Graph:
    """A traced module and the shape of every value in it.

    Attributes:
        input, output: The node of the only tensor argument, and of the value returned.
        trial_input, trial_output: A small input, and what the module's own forward gives for it.
        reads: By module, the names of attributes that the forward has asked for.
    """

    def __init__(self, owner: nn.Module) -> None:
        # looked up once: get_submodule walks down from the owner at every call
        inside = owner.named_modules(remove_duplicate=False)
        self._modules: dict[str, nn.Module] = {
            path: module for path, module in inside if module is not owner
        }
        for path, module in self._modules.items():
            if has_hooks(module):
                raise NotTraceable(f"{path} has hooks")
        self._owner = weakref.ref(owner)  # which holds this, for networks in parts
        self._graph = fx.Graph()
        with undone(owner) as state:
            traced = trace(owner, self._graph, pure=True)
            if not isinstance(traced.result, fx.Proxy):
                raise NotTraceable("its forward does not return one tensor")
            self.input, self.output, self.reads = traced.argument, traced.result.node, traced.reads
            self._live = ancestors(self.output)
            self._check_writes()
            self.trial_input, self.trial_output, self._shapes = self._run(state)

    @property
    def owner(self) -> nn.Module:
        """The module."""
        owner = self._owner()
        assert owner is not None
        return owner

    @property
    def nodes(self) -> list[fx.Node]:
        """What the output is computed from, in the order of the forward."""
        return [node for node in self._graph.nodes if node in self._live]

    def users(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that compute with the node's values (not only with its shape)."""
        return [user for user in node.users if user in self._live and not _reads_shape(user, node)]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape in the trial run; () for what is no tensor."""
        return self._shapes.get(node, ())

    def shapes_for(self, shape: tuple[int, ...]) -> dict[fx.Node, tuple[int, ...]]:
        """The shape of every value for an input of this one: a run on zeros."""
        interpreter = ShapeInterpreter(self.owner, self._graph)
        with torch.no_grad():
            interpreter.run(torch.zeros(shape))
        return interpreter.shapes

    def module(self, node: fx.Node) -> nn.Module | None:
        """The leaf module that the node calls, or None."""
        if node.op != "call_module":
            return None
        return self._modules[str(node.target)]

    def tensors(self, node: fx.Node) -> Iterator[tuple[str, str]]:
        """(module, attribute) of the tensors that the node itself brings in."""
        module = self.module(node)
        if module is not None:
            for path, inner in module.named_modules(prefix=str(node.target)):
                for name in (*inner._parameters, *inner._buffers):
                    yield path, name
        elif node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            yield path, name

    def insert(self, place: fx.Node, function: Callable[[Tensor], Tensor], x: fx.Node) -> fx.Node:
        """A new step before the node `place`: a function of x that keeps its shape."""
        name = getattr(function, "__name__", type(function).__name__).strip("<>")
        with self._graph.inserting_before(place):
            node = self._graph.create_node("call_function", function, (x,), name=name)
        self._shapes[node] = self.shape(x)
        return node

    def redirect(self, old: fx.Node, new: fx.Node) -> None:
        """Whatever takes the value `old` takes `new` from now on."""
        old.replace_all_uses_with(new)
        if self.output is old:
            self.output = new
        self._live = ancestors(self.output)

    def _check_writes(self) -> None:
        """Raises unless values can be followed as if nothing were changed in place."""
        order = {node: index for index, node in enumerate(self._graph.nodes)}
        for node in self._graph.nodes:
            if not writes(node, self.module(node)) or not node.args:
                continue
            target = node.args[0]
            seen_later = isinstance(target, fx.Node) and any(
                order[user] > order[node] for user in self.users(target)
            )
            if node not in self._live or target is self.input or seen_later:
                raise NotTraceable(f"its forward changes a tensor in place ({node.name})")

    def _run(self, state: State) -> tuple[Tensor, Tensor, dict[fx.Node, tuple[int, ...]]]:
        channels, spatial = self._input_channels()
        failure = ""
        if any(_looks_up(node) for node in self._graph.nodes):
            raise NotTraceable("its forward takes no tensor but a dictionary")
        generator = torch.Generator().manual_seed(0)
        sizes = [(channels, *size) for size in (TRIAL_SIZES if spatial else ((),))]
        if spatial:
            # the first layer may see one half of the input: a unit of ShuffleNetV2 by itself
            sizes.append((2 * channels, *TRIAL_SIZES[0]))
        for size in sizes:
            x = torch.randn((TRIAL_BATCH, *size), generator=generator)
            for layout in _layouts(x):
                interpreter = ShapeInterpreter(self.owner, self._graph)
                try:
                    with torch.no_grad():
                        y = interpreter.run(x.clone(memory_format=layout))
                    plain = plain_result(self.owner, x.clone(memory_format=layout), self._weights())
                except NotTraceable:
                    raise
                except Exception as error:  # the forward is foreign code
                    failure = failure or f"{type(error).__name__}: {error}".splitlines()[0]
                    continue
                if name := state.changed():
                    raise NotTraceable(f"its forward changes {name}")
                self._check_ranks(interpreter.shapes)
                if found := difference(y, plain):
                    raise NotTraceable(f"its forward is not what was traced, which gives {found}")
                return x, plain, interpreter.shapes
        raise NotTraceable(f"it fails on a trial input ({failure})")

    def _check_ranks(self, shapes: Mapping[fx.Node, tuple[int, ...]]) -> None:
        """Raises if steps take a value of other dimensions where the batch is one image."""
        for node in self._live - {self.output}:
            source = node.args[0] if node.args else None
            rank = len(shapes.get(source, ())) if isinstance(source, fx.Node) else 0
            if squeezes_batch(node, rank):
                raise NotTraceable(f"its forward squeezes the batch's dimension ({node.name})")

    def _weights(self) -> Iterator[Tensor]:
        """The parameters that go into the output."""
        for node in self._live:
            for path, name in self.tensors(node):
                value = getattr(self._modules.get(path, self.owner), name)
                if isinstance(value, nn.Parameter):
                    yield value

    def _input_channels(self) -> tuple[int, bool]:
        """Channels of the input and whether it has height and width, from the first layer."""
        pooled = False
        for node in self._graph.nodes:
            module = self.module(node)
            if isinstance(module, nn.Conv2d):
                return module.in_channels, True
            if isinstance(module, nn.Linear):
                return module.in_features, pooled
            if isinstance(module, nn.AdaptiveAvgPool2d) or node.target in _POOLS:
                pooled = True
            if is_norm(module):
                return len(module.running_mean), True  # type: ignore[union-attr, arg-type]
        raise NotTraceable("it has no convolution or linear layer")


def _layouts(x: Tensor) -> tuple[torch.memory_format, ...]:
    """The layout in which torch is faster, and the one that every forward takes."""
    if x.dim() != 4:
        return (torch.contiguous_format,)
    return torch.channels_last, torch.contiguous_format


class Traced(NamedTuple):
    """What a trace has found.

    Attributes:
        argument: The node of the forward's argument.
        result: A symbol, or what the forward has put symbols into.
        reads: By module, the names of attributes that the forward has asked for.
    """

    argument: fx.Node
    result: Any
    reads: dict[str, set[str]]


def trace(
    owner: nn.Module,
    graph: fx.Graph,
    is_leaf: Callable[[nn.Module], bool] | None = None,
    *,
    pure: bool = False,
) -> Traced:
    """Writes the owner's forward into the graph.

    Args:
        owner: The module.
        graph: An empty graph.
        is_leaf: Whether calls of a module are one node. Default: those of torch.nn's modules.
        pure: Whether the forward may set no attribute.

    Raises:
        NotTraceable: The forward does more than compute on one tensor.
    """
    required = [
        parameter
        for parameter in inspect.signature(owner.forward).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(required) != 1 or required[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise NotTraceable(f"its forward takes {len(required)} arguments")
    shadows = Shadows(graph, is_leaf or is_torch_module)
    try:
        result = shadows.run(owner)
    except Exception as error:  # foreign code on symbols: anything can be raised
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise NotTraceable(f"its forward cannot be traced ({reason})") from error
    if pure and (name := shadows.changed()):
        raise NotTraceable(f"its forward changes {name}")
    graph.output(fx.node.map_aggregate(result, lambda v: v.node if isinstance(v, fx.Proxy) else v))
    if any(isinstance(value, nn.Parameter) for node in graph.nodes for value in _constants(node)):
        raise NotTraceable("its forward takes a parameter from somewhere else than its module")
    return Traced(shadows.argument, result, shadows.reads)


def _constants(node: fx.Node) -> list[Any]:
    """What the node takes that no other node gives."""
    found: list[Any] = []
    fx.node.map_aggregate((node.args, node.kwargs), lambda value: found.append(value))
    return found


def is_norm(module: nn.Module | None) -> bool:
    """Whether it is a BatchNorm, or a class of its own that computes one with fixed statistics."""
    return isinstance(module, _BatchNorm) or (module is not None and _is_frozen_norm(module))


def _is_frozen_norm(module: nn.Module) -> bool:
    """Tried on random statistics: detection networks bring their own FrozenBatchNorm2d."""
    if isinstance(module, _BatchNorm) or module._modules:
        return False
    tensors = {**module._parameters, **module._buffers}
    names = {"weight", "bias", "running_mean", "running_var"}
    if not names <= tensors.keys() or not tensors.keys() <= {*names, "num_batches_tracked"}:
        return False
    if not isinstance(getattr(module, "eps", None), (int, float)):
        return False
    try:
        probe: Any = copy.deepcopy(module).eval()
        known = {name: getattr(probe, name) for name in names}
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((2, len(known["weight"]), 3, 2), generator=generator)
        with torch.no_grad(), random_numbers_kept():
            for tensor in known.values():
                tensor.uniform_(0.5, 2.0, generator=generator)
            y = probe(x)
            expected = F.batch_norm(x, **known, eps=probe.eps)
    except Exception:  # foreign code
        return False
    return (
        isinstance(y, Tensor)
        and y.shape == expected.shape
        and torch.allclose(y, expected, rtol=1e-5, atol=1e-5)
    )


def is_torch_module(module: nn.Module) -> bool:
    """Whether calls of the module are one node: torch.nn's, all convolutions, frozen norms."""
    if isinstance(module, (nn.Conv2d, nn.Linear)) or _is_frozen_norm(module):
        return True
    if isinstance(module, _BatchNorm):
        # one that adds to torch's forward (an activation, say) is looked into
        return type(module).forward.__module__.startswith("torch.nn.")
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return type(module).__module__.startswith("torch.nn.") and not isinstance(module, containers)


def ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and all that it is computed from."""
    found = {node}
    stack = [node]
    while stack:
        for source in stack.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                stack.append(source)
    return found


def _reads_shape(node: fx.Node, source: fx.Node) -> bool:
    if node.op == "call_method":
        if node.target in ("expand_as", "view_as", "reshape_as"):
            return node.args[0] is not source
        return node.target in ("size", "dim", "numel", "ndimension")
    return (
        node.op == "call_function"
        and node.target is getattr
        and node.args[1] in ("shape", "ndim", "dtype", "device")
    )


def _looks_up(node: fx.Node) -> bool:
    """Whether the node takes a value by its name."""
    return node.target is operator.getitem and isinstance(node.args[1], str)


SQUEEZE = frozenset({torch.squeeze, "squeeze"})


def squeezes_batch(node: fx.Node, rank: int) -> bool:
    """Whether the node drops the batch's dimension if there is one image: as any that it does not
    name, on values of this rank."""
    if node.op not in ("call_function", "call_method") or node.target not in SQUEEZE:
        return False
    named = (*node.args[1:], *node.kwargs.values())
    dims = named[0] if len(named) == 1 and isinstance(named[0], (tuple, list)) else named
    return not dims or not all(isinstance(dim, int) and dim % max(rank, 1) for dim in dims)


_POOLS = frozenset({"mean", torch.mean, torch.nn.functional.adaptive_avg_pool2d})

_IN_PLACE_OPERATORS = frozenset(
    {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem}
)


def writes(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node changes one of its inputs."""
    if node.op == "call_module":
        return bool(getattr(module, "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    return (
        node.target in _IN_PLACE_OPERATORS
        or bool(node.kwargs.get("inplace"))
        or getattr(node.target, "__name__", "").endswith("_")
    )


def evaluate(node: fx.Node, module: nn.Module | None, values: Mapping[fx.Node, Any]) -> Any:
    """What a node that calls something gives.

    Args:
        node: The node.
        module: The one that it calls, if it calls a module.
        values: Those of the nodes that it takes.
    """
    args: Any = fx.node.map_arg(node.args, values.__getitem__)
    kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__) if node.kwargs else {}
    if module is not None:
        return module(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


class ShapeInterpreter:
    """Runs a graph and keeps the shape of every tensor.

    fx.Interpreter does that too, in 30 us a node more than the node takes.
    """

    def __init__(self, owner: nn.Module, graph: fx.Graph) -> None:
        self.owner = owner
        self.graph = graph
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run(self, x: Tensor) -> Any:
        """The graph's output for the input x."""
        modules: dict[str, nn.Module] = dict(self.owner.named_modules(remove_duplicate=False))
        nodes = list(self.graph.nodes)
        last_use = {source: node for node in nodes for source in node.all_input_nodes}
        values: dict[fx.Node, Any] = {}
        result = None
        for node in nodes:
            if node.op == "placeholder":
                value: Any = x
            elif node.op == "output":
                result = value = fx.node.map_arg(node.args[0], values.__getitem__)
            elif node.op == "get_attr":
                path, _, name = str(node.target).rpartition(".")
                value = getattr(modules[path], name)
            else:
                module = modules[str(node.target)] if node.op == "call_module" else None
                value = evaluate(node, module, values)
            values[node] = value
            if isinstance(value, Tensor):
                self.shapes[node] = tuple(value.shape)
            for source in node.all_input_nodes:
                if last_use[source] is node:
                    del values[source]
        return result
