"""Modules that run their forward as one fused call in evaluation.

A `FusedModule` is an ordinary module: parameters, children, state dict and training are those of
its plain forward. In evaluation, once, the forward is matched to a program of blocks (match.py);
the weights are packed into records, and calls become one call of `torch.ops.weebill.run`. The
records are a cache: a guard tells before each call whether they still are what the module holds.

Where a gradient is wanted, the forward still is the fused one: the backward computes the plain
forward again, and differentiates that.

The plain forward runs
- in training, and while any module inside is in training mode or has hooks;
- for weights that are not float32 on the CPU, under autocast, in torch.func transforms and forward
  mode differentiation;
- for calls with more than one argument, or a tensor of another rank;
- inside `unfused()`.

In graphs of torch.compile and torch.export the fused call is an op too (compiled.py).
"""

from __future__ import annotations

import copy
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack
from torch.compiler import is_dynamo_compiling

from weebill import _fake
from weebill.fusion import compiled, cost, optimizers
from weebill.fusion.compiled import call
from weebill.fusion.effects import same
from weebill.fusion.fold import source_names
from weebill.fusion.guard import BUSY, CHANGED, FRESH, Guard, packable
from weebill.fusion.layers import NotFusable
from weebill.fusion.match import Program, graph_of, match
from weebill.fusion.packed import Packed
from weebill.fusion.replay import Replay
from weebill.fusion.split import Recipe, Split, sources, split
from weebill.fusion.switch import UNFUSED, unfused
from weebill.fusion.trace import Graph, has_hooks

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("weebill")

#: Largest difference to the plain forward on the trial input, relative to its largest value.
TOLERANCE = 1e-5

Forward = Callable[..., Any]
Runnable = Packed | Split


class _Differentiable(torch.autograd.Function):
    """The fused forward, with the gradient of the plain one."""

    @staticmethod
    def forward(ctx: Any, ready: _Ready, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.replay, ctx.weights = ready.replay, weights
        ctx.save_for_backward(x, *weights)
        return ready.packed.run(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        others = dict(zip(ctx.weights, weights, strict=True))
        needed, higher = ctx.needs_input_grad[1:], torch.is_grad_enabled()
        return None, *ctx.replay.gradients(x, others, needed, gradient, higher=higher)


class _Ready:
    """Records and what tells whether they are right: read and replaced as one, by all threads."""

    def __init__(self, owner: nn.Module, packed: Runnable, guard: Guard) -> None:
        self.owner = weakref.ref(owner)
        self.packed = packed
        self.guard = guard

    @functools.cached_property
    def tensors(self) -> list[Tensor]:
        """What was packed, or is read by the steps between parts: each once."""
        return list(dict.fromkeys(self.guard.tensors))

    @functools.cached_property
    def replay(self) -> Replay:
        """Of the owner as it was packed: asked for when the guard has looked."""
        owner = self.owner()
        assert owner is not None
        return Replay(owner)


class Fusion:
    """The fused side of one module. Copies and pickles carry the program, not the records.

    Attributes:
        program: The forward as blocks; None before matching, and if it has no fused form.
        splits: Whether a forward that is no chain of blocks is run in parts (split.py).
        recipe: The parts; None before matching, and if it is not split.
        reason: Why there is neither; empty before matching.
        reads: By module, the names of attributes that the forward reads.
    """

    def __init__(
        self,
        program: Program | None = None,
        splits: bool = False,
        reads: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        self.program = program
        self.splits = splits
        self.reads = reads
        self.recipe: Recipe | None = None
        self.reason = ""
        self.number = 0  # in graphs, see compiled.py
        self._ready: _Ready | None = None
        self._lock = threading.Lock()

    @property
    def packed(self) -> Runnable | None:
        """The records, ready to run, if there are any now."""
        ready = self._ready
        return None if ready is None else ready.packed

    def __reduce__(self) -> tuple[type[Fusion], tuple[Any, ...]]:
        return Fusion, (self.program, self.splits, dict(self.reads))

    def run(self, owner: FusedModule, x: Tensor) -> Tensor | None:
        """The forward of `owner` on x, or None where the plain one has to run."""
        if UNFUSED.get() or compiled.transformed():
            return None
        if type(x) is not Tensor and compiled.is_fake(x) and torch.compiler.is_exporting():
            return compiled.exported(owner, x)
        ready = self._current(owner)
        if ready is None or x.dim() != ready.packed.input_rank:
            return None
        if torch.is_grad_enabled():
            tensors = ready.tensors
            if x.requires_grad or any(tensor.requires_grad for tensor in tensors):
                if not _is_quiet(owner) or ready.replay.leads_back:
                    return None
                # statistics may move before the backward, as torch lets them
                saved = [t for t in tensors if t.requires_grad or isinstance(t, nn.Parameter)]
                y: Tensor = _Differentiable.apply(ready, x, *saved)  # type: ignore[no-untyped-call]
                return y
        return ready.packed.run(x)

    def run_in_graph(self, owner: FusedModule, x: Tensor, form: compiled.Form) -> Tensor:
        """The forward as a graph calls it: (N, C, H, W) to what `run` would give."""
        geometry, flatten = form
        ready = None if UNFUSED.get() else self._current(owner)
        packed = None if ready is None else ready.packed
        if packed is not None and (packed.geometry is geometry or packed.geometry == geometry):
            return packed.run_records(x, flatten)
        expected = _fake.run(x, x, geometry, flatten)
        y = self._plain(owner, x) if packed is None else packed.run_records(x, flatten)
        if y.numel() != expected.numel() or y.shape[:2] != expected.shape[:2]:
            raise RuntimeError(
                f"run: the module must give a result of shape {tuple(expected.shape)} as it did "
                f"when the graph was made, got {tuple(y.shape)}; compile it again"
            )
        return expected.copy_(y.reshape(expected.shape))

    @staticmethod
    def _plain(owner: FusedModule, x: Tensor) -> Tensor:
        """The plain forward, without hooks of the owner."""
        with unfused():
            y: Tensor = owner.forward(x)
        return y

    def prepare(self, owner: nn.Module, graph: Graph | None = None) -> bool:
        """Whether `owner` runs fused now; matches, checks and packs what has not been yet.

        Args:
            owner: The module that this belongs to.
            graph: Of its forward, if there is one already.
        """
        return self._current(owner, graph) is not None

    def records(self) -> list[NDArray[np.uint8]]:
        """The packed records, one per block of the program; empty before `prepare`."""
        return self.packed.separate if isinstance(self.packed, Packed) else []

    def _current(self, owner: nn.Module, graph: Graph | None = None) -> _Ready | None:
        ready = self._ready
        if ready is not None and ready.owner() is owner:
            state = ready.guard.state()
            if state == FRESH:
                return ready
            if state == BUSY:
                return None
            self.forget(structure=state == CHANGED)
        if self.reason or not _is_quiet(owner):
            return None
        if _len_torch_dispatch_stack() or _len_torch_function_stack():
            return compiled.apart(lambda: self._pack_once(owner, graph))  # modes see the call alone
        return self._pack_once(owner, graph)

    def _pack_once(self, owner: nn.Module, graph: Graph | None) -> _Ready | None:
        with self._lock, torch.inference_mode(False), torch.no_grad():
            return self._pack(owner, graph) if packable(_tensors(owner)) else None

    def _pack(self, owner: nn.Module, graph: Graph | None) -> _Ready | None:
        known = self.program or self.recipe
        try:
            if known is not None:
                ready = _packed(owner, known, self.reads)
            else:
                graph = graph or graph_of(owner)
                self.reads = graph.reads
                ready = _packed(owner, split(graph) if self.splits else match(graph), self.reads)
                check(ready.packed, owner, graph)
                if isinstance(ready.packed, Split):
                    self.recipe = ready.packed.recipe
                else:
                    self.program = ready.packed.program
        except NotFusable as error:
            self.reason = str(error)
            logger.debug("%s runs plain: %s", type(owner).__name__, error)
            return None
        self._ready = ready
        optimizers.watch(self)
        return ready

    def depends_on(self, tensors: set[int]) -> bool:
        """Whether any tensor with one of these ids is packed."""
        ready = self._ready
        return ready is not None and any(id(tensor) in tensors for tensor in ready.guard.tensors)

    def forget(self, structure: bool = False) -> None:
        """Drops the records, and what was found out about the structure."""
        self._ready = None
        self.reason = ""
        if structure:
            self.program = self.recipe = None


def _packed(
    owner: nn.Module, found: Program | Recipe, reads: Mapping[str, Collection[str]]
) -> _Ready:
    # watched before it is read: a change in between makes the records stale, not wrong
    for module in owner.modules():
        if isinstance(module, FusedModule):
            module.fusion  # noqa: B018  made here: an attribute more, later, would be a change
    if isinstance(found, Recipe):
        guard = Guard(owner, sources(owner, found), reads)
        return _Ready(owner, Split(owner, found), guard)
    guard = Guard(owner, source_names(owner, found.blocks), reads)
    return _Ready(owner, Packed(owner, found), guard)


def _tensors(owner: nn.Module) -> Iterator[Tensor]:
    for module in owner.modules():
        for table in (module._parameters, module._buffers):
            yield from (
                tensor
                for name, tensor in table.items()
                if tensor is not None and name != "num_batches_tracked"
            )


def _is_quiet(owner: nn.Module) -> bool:
    return not any(
        module.training or has_hooks(module) for module in owner.modules() if module is not owner
    )


def check(packed: Runnable, owner: nn.Module, graph: Graph) -> None:
    """Raises NotFusable if the records do not compute what the module does."""
    plain = graph.trial_output
    try:
        fused = packed.run(graph.trial_input.clone())
    except (ValueError, NotImplementedError) as error:
        raise NotFusable(f"the fused call refuses it: {error}") from error
    except RuntimeError as error:
        if isinstance(packed, Packed):  # which has no steps of others
            raise
        raise NotFusable(f"in parts it fails: {error}".splitlines()[0]) from error
    if fused.shape != plain.shape:
        raise NotFusable(
            f"the fused result has shape {tuple(fused.shape)}, not {tuple(plain.shape)}"
        )
    if fused.dtype != plain.dtype:
        raise NotFusable(
            f"the fused result is {fused.dtype}, not {plain.dtype}".replace("torch.", "")
        )
    scale = float(plain.abs().max())
    if _distance(fused, plain) <= TOLERANCE * scale:
        return
    # a network that amplifies rounding errors: the truth is what both have to be near
    try:
        with unfused():
            exact = copy.deepcopy(owner).double()(graph.trial_input.double())
    except Exception as error:  # foreign code, that may not run in float64
        raise NotFusable(f"in float64 it fails: {error}".splitlines()[0]) from error
    distance, own_distance = _distance(fused, exact), _distance(plain, exact)
    if not distance <= max(TOLERANCE * scale, 4 * own_distance):
        raise NotFusable(
            f"the fused result differs by {distance:.1e} where values reach {scale:.1e}"
        )


def why_not(owner: nn.Module) -> str:
    """Why the module's forward has no fused form, or one that does not pay; empty if it has one."""
    try:
        graph = graph_of(owner)
        packed = Packed(owner, match(graph))
        check(packed, owner, graph)
    except NotFusable as error:
        return str(error)
    return cost.objection(packed.program.blocks, packed.separate, graph.trial_input.shape)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


class FusedModule(nn.Module):
    """Base of modules whose forward runs as one fused call in evaluation.

    Subclass it instead of `nn.Module` and write `forward` in plain torch. If the forward takes one
    tensor and is made of convolutions, BatchNorms, activations, squeeze-excites, residuals, global
    pools and linear layers, evaluation without gradients runs it fused; if not, it runs as written.
    `weebill.report(module)` tells which, and why.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "_fused_base" not in cls.__dict__:  # what a class of the user does for its own ones
            super().__init_subclass__(**kwargs)
        if cls.forward is not nn.Module.forward and not hasattr(cls.forward, "switches"):
            cls.forward = _switching(cls.forward)

    @property
    def fusion(self) -> Fusion:
        """The fused side of this module."""
        # in __dict__ and not through __setattr__: it is no part of the module's state
        found = self.__dict__.get("_fusion")
        if found is None:
            found = self.__dict__.setdefault("_fusion", Fusion())
        assert isinstance(found, Fusion)
        return found

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`. Weights are packed again at the next fused call."""
        self.fusion.forget()
        return super().train(mode)

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__
        fusion = held.get("_fusion")
        before = held.get(name, held)
        super().__setattr__(name, value)
        # the guard looks at the modules inside, and at tensors: it may not hold what holds it
        if fusion is None or name == "training" or name not in fusion.reads.get("", ()):
            return
        if not same(before, held.get(name, held)):
            fusion.forget(structure=True)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.fusion.forget()
        applied: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return applied


def _switching(plain: Forward) -> Forward:
    """A forward that runs fused where it can and `plain` where it can't."""

    @functools.wraps(plain)
    def forward(self: FusedModule, *args: Any, **kwargs: Any) -> Any:
        if self.training or kwargs or not args:
            return plain(self, *args, **kwargs)
        x, *others = args
        y = None
        if others or not isinstance(x, Tensor):
            pass
        elif is_dynamo_compiling():
            y = call(self, x) if is_owner(self) else None
        elif type(self).forward is forward:
            # as few calls as possible: behind a network all of the interpreter is cold
            y = (self.__dict__.get("_fusion") or self.fusion).run(self, x)
        return plain(self, *args, **kwargs) if y is None else y

    @compiled.constant_in_graphs
    def is_owner(module: FusedModule) -> bool:
        """Whether this is its own forward, not one that a subclass calls through super()."""
        return type(module).forward is forward

    forward.switches = True  # type: ignore[attr-defined]
    return forward


#: By what they are made of. Weak: classes that a function makes end with it.
_fused_classes: weakref.WeakValueDictionary[type[nn.Module], type[FusedModule]] = (
    weakref.WeakValueDictionary()
)


def fused_class(base: type[nn.Module]) -> type[FusedModule]:
    """`base` with a forward that runs fused in evaluation; instances pickle as `base` plus that."""
    known = _fused_classes.get(base)
    if known is not None:
        return known
    namespace = {
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce,
        "_fused_base": base,
    }
    # another thread may have been first: all instances share one class
    made: type[FusedModule] = type(f"Fused{base.__name__}", (FusedModule, base), namespace)
    return _fused_classes.setdefault(base, made)


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    base = type(self)._fused_base  # type: ignore[attr-defined]
    own: Any = getattr(base, "__getstate__", None)  # of object, from Python 3.11 on
    given = own is None or own is getattr(object, "__getstate__", None)
    return _new, (base,), self.__dict__ if given else own(self)


def _new(base: type[nn.Module]) -> nn.Module:
    cls = fused_class(base)
    module: nn.Module = cls.__new__(cls)
    return module


def fuse_in_place(module: nn.Module) -> None:
    """Makes the module's class the fused one. Nothing else about the module changes."""
    if not isinstance(module, FusedModule):
        module.__class__ = fused_class(type(module))
