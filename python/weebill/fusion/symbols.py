"""Modules whose forward writes a graph when it runs: torch.fx's symbols in place of tensors.

torch.fx.Tracer is not used: while it traces, it replaces `nn.Module.__call__` for the whole
process, and another thread that runs a model meanwhile would get symbols. Here the modules are
shadowed instead: shallow copies whose class overrides `__call__`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from weebill.fusion.effects import Attributes, attributes_of


class NotTraceable(Exception):
    """The module's forward has no graph; the text says why."""


class Unannounced(nn.Module):
    """A first base of classes made here, of which those that they are made from hear nothing.

    A `__init_subclass__` may keep its classes by name, or take arguments that are not known here.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass


class Shadows:
    """Shadows of modules, which write into one graph.

    Args:
        graph: An empty graph.
        is_leaf: Whether calls of a module are one node.
    """

    def __init__(self, graph: fx.Graph, is_leaf: Callable[[nn.Module], bool]) -> None:
        self.argument: fx.Node = graph.placeholder("x")
        self._tracer = _Tracer(graph)
        self._is_leaf = is_leaf
        self._made: dict[nn.Module, nn.Module] = {}
        self._as_made: list[tuple[str, Attributes, nn.Module]] = []
        self._containers: dict[int, Any] = {}  # of the shadows, by the ids of the modules' own
        self._classes: dict[type[nn.Module], type[nn.Module]] = {}
        #: By module, the names of attributes that the forward has asked for.
        self.reads: dict[str, set[str]] = {}

    def run(self, owner: nn.Module) -> Any:
        """The result of the owner's forward on a symbol: a symbol, or what holds symbols.

        Raises:
            NotTraceable: A module has a forward of its own, not of its class.
            Exception: Whatever the forward raises.
        """
        return _plain_forward(owner)(self._of(owner, ""), self._tracer.proxy(self.argument))

    def changed(self) -> str:
        """The name of an attribute that the forward has set or filled; empty if there is none."""
        for prefix, attributes, shadow in self._as_made:
            name = attributes.changed()
            for table in ("_parameters", "_buffers"):
                name = name or shadow.__dict__[table].changed()
            if name:
                return prefix + name
        return ""

    def _of(self, module: nn.Module, path: str) -> nn.Module:
        """A shallow copy that writes nodes when it is called, and whose tensors are symbols."""
        if module in self._made:
            return self._made[module]
        tracer = self._tracer
        forward = None if self._is_leaf(module) else _plain_forward(module)

        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if forward is None:
                return tracer.create_proxy("call_module", path, args, kwargs)
            return forward(self, *args, **kwargs)

        shadow: nn.Module = object.__new__(self._class(type(module)))
        self._made[module] = shadow
        prefix = f"{path}." if path else ""
        # in a tuple: what is added is no attribute that the forward changes
        reads = (self.reads.setdefault(path, set()),)
        held = attributes_of(module, self._containers)
        shadow.__dict__.update(held, _shadow_call=call, _shadow_reads=reads)
        for table in ("_parameters", "_buffers"):
            shadow.__dict__[table] = _Tensors(tracer, prefix, module.__dict__[table])
        shadow.__dict__["_modules"] = {
            name: child if child is None else self._of(child, prefix + name)
            for name, child in module._modules.items()
        }
        self._as_made.append((prefix, Attributes(shadow), shadow))
        return shadow

    def _class(self, base: type[nn.Module]) -> type[nn.Module]:
        """`base`, but objects are called as their `_shadow_call` says."""

        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self.__dict__["_shadow_call"](self, *args, **kwargs)

        def get(self: nn.Module, name: str) -> Any:
            if not name.startswith("__"):
                object.__getattribute__(self, "__dict__")["_shadow_reads"][0].add(name)
            return base.__getattribute__(self, name)

        if base not in self._classes:
            namespace = {
                "__call__": call,
                "__getattribute__": get,
                "__module__": base.__module__,
            }
            self._classes[base] = type(base.__name__, (Unannounced, base), namespace)
        return self._classes[base]


def _plain_forward(module: nn.Module) -> Callable[..., Any]:
    """The unbound forward of the module's class."""
    if "forward" in module.__dict__:
        raise NotTraceable(f"{type(module).__name__} has a forward set on the object")
    forward: Callable[..., Any] = type(module).forward
    return forward


class _Symbol(fx.Proxy):
    """fx's symbol. That one lists all functions of torch to know its methods by: 10 ms, once."""

    @classmethod
    def __torch_function__(
        cls,
        orig_method: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> fx.Proxy:
        args, kwargs = args or (), kwargs or {}
        name = getattr(orig_method, "__name__", "")
        method = name == "__get__" or getattr(Tensor, name, None) is orig_method
        if method or not isinstance(orig_method, _FUNCTIONS):
            return super().__torch_function__(orig_method, types, args, kwargs)
        symbols: list[fx.Proxy] = []

        def collect(value: Any) -> Any:
            if isinstance(value, fx.Proxy):
                symbols.append(value)
            return value

        fx.node.map_aggregate((args, kwargs), collect)
        return symbols[0].tracer.create_proxy("call_function", orig_method, args, kwargs)


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


class _Tracer(fx.proxy.GraphAppendingTracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)


class _Tensors(dict[str, Any]):
    """A module's tensors, each a symbol from when the forward asks for it.

    Most belong to modules that are one node, and are never asked for. Until then their places hold
    nothing that could be computed with, however it is taken out.
    """

    def __init__(self, tracer: _Tracer, prefix: str, tensors: Mapping[str, Tensor | None]) -> None:
        super().__init__((name, None if t is None else _ASLEEP) for name, t in tensors.items())
        self._tracer = tracer
        self._prefix = prefix
        self._before = dict(super().items())
        self._awake: dict[str, Any] = {}

    def changed(self) -> str:
        """The name of a tensor that is another one now, or gone; empty if there is none."""
        now = dict(super().items())
        for name in self._before | now:
            if now.get(name, self) is not self._awake.get(name, self._before.get(name, self)):
                return name
        return ""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if value is _ASLEEP:
            # in the graph directly: it has no module yet that could be asked for the name
            node = self._tracer.graph.create_node("get_attr", self._prefix + name)
            value = self[name] = self._awake[name] = self._tracer.proxy(node)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


_ASLEEP = object()
