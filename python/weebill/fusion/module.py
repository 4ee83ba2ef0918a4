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

import contextlib
import contextvars
import copy
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from weebill import _fake
from weebill.fusion import compiled, cost
from weebill.fusion.compiled import call
from weebill.fusion.fold import source_names
from weebill.fusion.guard import BUSY, CHANGED, FRESH, Guard, packable
from weebill.fusion.layers import NotFusable
from weebill.fusion.match import Program, graph_of, match
from weebill.fusion.packed import Packed
from weebill.fusion.split import Recipe, Split, sources, split
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
    def forward(
        ctx: Any, owner: nn.Module, packed: Runnable, plain: Forward, x: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.owner, ctx.plain = owner, plain
        ctx.save_for_backward(x, *weights)
        return packed.run(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        sources = ctx.saved_tensors
        higher = torch.is_grad_enabled()
        with torch.enable_grad():
            y = ctx.plain(ctx.owner, sources[0])
        wanted = [i for i, source in enumerate(sources) if ctx.needs_input_grad[3 + i]]
        found = torch.autograd.grad(
            y, [sources[i] for i in wanted], gradients, create_graph=higher, allow_unused=True
        )
        result: list[Tensor | None] = [None] * (3 + len(sources))
        for i, gradient in zip(wanted, found, strict=True):
            result[3 + i] = gradient
        return tuple(result)


class _Forward(nn.Module):
    """Calls a module's forward without its hooks."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.owner = owner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.owner.forward(x)
        return y


_unfused = contextvars.ContextVar("weebill_unfused", default=False)


def is_unfused() -> bool:
    """Whether this runs inside `unfused()`."""
    return _unfused.get()


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """Inside this context every module runs its plain torch forward, in evaluation too.

    For comparisons: results and times of a fused model against the same model in torch eager. It
    holds for the current thread (or task).
    """
    token = _unfused.set(True)
    try:
        yield
    finally:
        _unfused.reset(token)


class Fusion:
    """The fused side of one module. Copies and pickles carry the program, not the records.

    Attributes:
        program: The forward as blocks; None before matching, and if it has no fused form.
        splits: Whether a forward that is no chain of blocks is run in parts (split.py).
        recipe: The parts; None before matching, and if it is not split.
        reason: Why there is neither; empty before matching.
    """

    def __init__(self, program: Program | None = None, splits: bool = False) -> None:
        self.program = program
        self.splits = splits
        self.recipe: Recipe | None = None
        self.reason = ""
        self.number = 0  # in graphs, see compiled.py
        self.packed: Runnable | None = None
        self.guard: Guard | None = None
        self._owner: nn.Module | None = None  # of the packed records
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Fusion], tuple[Program | None, bool]]:
        return Fusion, (self.program, self.splits)

    def run(self, owner: FusedModule, plain: Forward, x: Tensor) -> Tensor | None:
        """The forward of `owner` on x, or None where the plain one has to run."""
        if _unfused.get() or compiled.transformed():
            return None
        if type(x) is not Tensor and compiled.is_fake(x) and torch.compiler.is_exporting():
            return compiled.exported(owner, x)
        packed = self._current(owner)
        if packed is None or x.dim() != packed.input_rank:
            return None
        if torch.is_grad_enabled():
            assert self.guard is not None
            wanted = [tensor for tensor in self.guard.tensors if tensor.requires_grad]
            if wanted or x.requires_grad:
                if not _is_quiet(owner):
                    return None
                y: Tensor = _Differentiable.apply(owner, packed, plain, x, *wanted)  # type: ignore[no-untyped-call]
                return y
        return packed.run(x)

    def run_in_graph(self, owner: FusedModule, x: Tensor, form: compiled.Form) -> Tensor:
        """The forward as a graph calls it: (N, C, H, W) to what `run` would give."""
        geometry, flatten = form
        packed = None if _unfused.get() else self._current(owner)
        if packed is not None and (packed.geometry is geometry or packed.geometry == geometry):
            return packed.run_records(x, flatten)
        expected = _fake.run(x, x, geometry, flatten)
        y = self.plain(owner, x) if packed is None else packed.run_records(x, flatten)
        if y.numel() != expected.numel() or y.shape[:2] != expected.shape[:2]:
            raise RuntimeError(
                f"run: the module must give a result of shape {tuple(expected.shape)} as it did "
                f"when the graph was made, got {tuple(y.shape)}; compile it again"
            )
        return expected.copy_(y.reshape(expected.shape))

    @staticmethod
    def plain(owner: FusedModule, x: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
        """The plain forward, without hooks of the owner; on other tensors than the owner's."""
        with unfused():
            if state is None:
                y: Tensor = owner.forward(x)
            else:
                state = {f"owner.{name}": tensor for name, tensor in state.items()}
                y = torch.func.functional_call(_Forward(owner), state, (x,))
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

    def _current(self, owner: nn.Module, graph: Graph | None = None) -> Runnable | None:
        packed = self.packed
        if packed is not None and self.guard is not None and self._owner is owner:
            state = self.guard.state()
            if state == FRESH:
                return packed
            if state == BUSY:
                return None
            self.forget(structure=state == CHANGED)
        if self.reason or not _is_quiet(owner):
            return None
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if not packable(_tensors(owner)):
                return None
            return self._pack(owner, graph)

    def _pack(self, owner: nn.Module, graph: Graph | None) -> Runnable | None:
        try:
            packed: Runnable
            if self.program is None and self.recipe is None:
                graph = graph or graph_of(owner)
                packed = self._first(owner, graph)
                check(packed, owner, graph)
                if isinstance(packed, Split):
                    self.recipe = packed.recipe
                else:
                    self.program = packed.program
            elif self.program is not None:
                packed = self._watched(owner, self.program)
            else:
                assert self.recipe is not None
                packed = self._watched(owner, self.recipe)
        except NotFusable as error:
            self.reason = str(error)
            logger.debug("%s runs plain: %s", type(owner).__name__, error)
            return None
        self.packed, self._owner = packed, owner
        return packed

    def _first(self, owner: nn.Module, graph: Graph) -> Runnable:
        return self._watched(owner, split(graph) if self.splits else match(graph))

    def _watched(self, owner: nn.Module, found: Program | Recipe) -> Runnable:
        # watched before it is read: a change in between makes the records stale, not wrong
        if isinstance(found, Recipe):
            self.guard = Guard(owner, sources(owner, found))
            return Split(owner, found)
        self.guard = Guard(owner, source_names(owner, found.blocks))
        return Packed(owner, found)

    def forget(self, structure: bool = False) -> None:
        """Drops the records, and what was found out about the structure."""
        self.packed = self.guard = None
        self.reason = ""
        if structure:
            self.program = self.recipe = None


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
    scale = float(plain.abs().max())
    if _distance(fused, plain) <= TOLERANCE * scale:
        return
    # a network that amplifies rounding errors: the truth is what both have to be near
    with unfused():
        exact = copy.deepcopy(owner).double()(graph.trial_input.double())
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
            y = (self.__dict__.get("_fusion") or self.fusion).run(self, plain, x)
        return plain(self, *args, **kwargs) if y is None else y

    @compiled.constant_in_graphs
    def is_owner(module: FusedModule) -> bool:
        """Whether this is its own forward, not one that a subclass calls through super()."""
        return type(module).forward is forward

    forward.switches = True  # type: ignore[attr-defined]
    return forward


_fused_classes: dict[type[nn.Module], type[FusedModule]] = {}


def fused_class(base: type[nn.Module]) -> type[FusedModule]:
    """`base` with a forward that runs fused in evaluation; instances pickle as `base` plus that."""
    if base not in _fused_classes:
        namespace = {
            "__module__": base.__module__,
            "__doc__": base.__doc__,
            "__reduce_ex__": _reduce,
            "_fused_base": base,
        }
        made = type(f"Fused{base.__name__}", (FusedModule, base), namespace)
        # another thread may have been first: all instances share one class
        _fused_classes.setdefault(base, made)
    return _fused_classes[base]


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    return _new, (type(self)._fused_base,), self.__dict__  # type: ignore[attr-defined]


def _new(base: type[nn.Module]) -> nn.Module:
    cls = fused_class(base)
    module: nn.Module = cls.__new__(cls)
    return module


def fuse_in_place(module: nn.Module) -> None:
    """Makes the module's class the fused one. Nothing else about the module changes."""
    if not isinstance(module, FusedModule):
        module.__class__ = fused_class(type(module))
