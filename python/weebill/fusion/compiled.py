"""The fused call inside graphs: torch.compile and torch.export.

torch.compile. A graph that outlives the weights it was made with must not hold them packed. So it
holds `weebill::run_module`: the fused op on the records of a module, which it asks, at every call,
for those that are right now. That is what the module does in eager mode: the guard looks, records
of changed weights are packed again, and while a module inside trains or has hooks, the plain
forward runs (in eager torch). The module is named by a number; the graph is guarded by its
identity.

Where a gradient is wanted when the graph is made, it holds `weebill::run_differentiable`, whose
forward is the same and whose backward is that of the plain forward, compiled.

torch.export. A program is a snapshot: `weebill::run` on the records as a constant. A trace that is
not strict runs the forward on fake tensors, put in the place of the module's own; the own ones are
found in the memory of the mode that made the fakes, and are put back while the records are made.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, maybe_get_fake_mode
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import _AttrProxy
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from weebill import _fake
from weebill.fusion.packed import Packed
from weebill.fusion.replay import Replay

if TYPE_CHECKING:
    from weebill.fusion.module import FusedModule

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])


def constant_in_graphs(function: _F) -> _F:
    """As `torch.compiler.assume_constant_result`, which imports torch's compiler to set this mark:
    more than a second for everybody who never compiles."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


#: Modules that graphs call, by their number. A number is never used again. References, and no
#: WeakValueDictionary: that looks up with Python code.
_modules: dict[int, weakref.ref[FusedModule]] = {}
_numbers = itertools.count(1)


class Form(NamedTuple):
    """From what a result's shape follows: the arguments of `run`."""

    geometry: list[int]
    flatten: bool


#: Forms in graphs, by `form_key`: torch takes 20 us to hand on a network's some hundred integers.
_forms: dict[int, Form] = {}

_library = torch.library.Library("weebill", "FRAGMENT")  # type: ignore[no-untyped-call]
for _schema in (
    "run_module(Tensor x, int module, int form) -> Tensor",
    "run_differentiable(Tensor x, Tensor[] weights, int module, int form) -> Tensor",
):
    _library.define(_schema)  # type: ignore[no-untyped-call]


def transformed() -> bool:
    """Whether the operations inside the forward are wanted as they are."""
    return (
        # asking for one kind of device has torch parse its name: 3 us where no cache has that code
        (_any_autocast() and torch.is_autocast_enabled("cpu"))
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


_any_autocast: Callable[[], bool] = torch._C._is_any_autocast_enabled


def call(owner: FusedModule, x: Tensor) -> Tensor | None:
    """Traced by torch.compile: the owner's forward on x as one op; None if it must run plain.

    Every name that is looked up here or in the caller is one more thing that torch checks before
    each call of the graph, some with Python code: the decisions are in `_plan`, which is constant.
    """
    plan = _plan(owner)
    if plan is None or x.dim() != 4 or x.dtype != plan.dtype:
        return None
    if plan.exporting:
        records = _records(owner)
        return None if records is None else _RUN(x, records, *plan.form)
    weights = _wanted(owner, x) if plan.grad else []
    if weights:
        if plan.leads_back:
            return None
        return _RUN_DIFFERENTIABLE(x, weights, plan.module, plan.key)
    return _RUN_MODULE(x, plan.module, plan.key)


def exported(owner: FusedModule, x: Tensor) -> Tensor | None:
    """Run by torch.export on fake tensors: the owner's forward on x; None if it must run plain."""
    if isinstance(owner, _AttrProxy):  # how the tracer shows a module that has several names
        owner = owner.get_base()  # type: ignore[operator]
    with _own_tensors(owner) as found:
        plan = _plan(owner) if found else None
        records = _records(owner) if plan else None
    if not found:
        warnings.warn(
            f"weebill: {type(owner).__name__} is exported plain: this torch keeps no trace of the "
            "tensors behind its fake ones",
            stacklevel=2,
        )
    if plan is None or records is None or x.dim() != 4 or x.dtype != plan.dtype:
        return None
    return _RUN(x, records, *plan.form)


def is_fake(x: Tensor) -> bool:
    """Whether x is a fake tensor, as forwards get them that are exported without strictness."""
    return isinstance(x, (FakeTensor, FunctionalTensor))


@constant_in_graphs
def _records(owner: FusedModule) -> Tensor | None:
    packed = owner.fusion.packed
    return packed.records if isinstance(packed, Packed) else None


@contextlib.contextmanager
def _own_tensors(owner: FusedModule) -> Iterator[bool]:
    """Puts the module's own tensors in the place of fake ones. Yields False if one is not known."""
    places: list[tuple[dict[str, Any], str, Tensor]] = [
        (table, name, tensor)
        for module in owner.modules()
        for table in _tables(module)
        for name, tensor in table.items()
        if tensor is not None
    ]
    known: dict[int, Tensor] = {}
    for _, _, tensor in places:
        mode = maybe_get_fake_mode(tensor)
        if mode is not None and not known:
            converter = mode.fake_tensor_converter.meta_converter
            memory: Any = converter.describer.lookup_tensor
            own = {number: tensor for tensor, number in memory.items()}
            known = {
                id(fake): own[number]
                for number, fake in converter.tensor_memo.items()
                if number in own
            }
    found = {id(tensor): known.get(id(_inner(tensor))) for _, _, tensor in places}
    for _, _, tensor in places:
        if not is_fake(tensor):
            found[id(tensor)] = tensor
    if any(tensor is None for tensor in found.values()):
        yield False
        return
    try:
        for table, name, tensor in places:
            table[name] = found[id(tensor)]
        yield True
    finally:
        for table, name, tensor in places:
            table[name] = tensor


def _tables(module: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return module._parameters, module._buffers


def _inner(tensor: Tensor) -> Tensor:
    if isinstance(tensor, FunctionalTensor):
        inner: Tensor = torch._from_functional_tensor(tensor.elem)
        return inner
    return tensor


def _wanted(owner: FusedModule, x: Tensor) -> list[Tensor]:
    """All tensors of the module if a gradient to any of them, or to x, is wanted."""
    parameters = list(owner.parameters())
    if not x.requires_grad and not any(parameter.requires_grad for parameter in parameters):
        return []
    return [*parameters, *owner.buffers()]


class _Plan(NamedTuple):
    """How a graph calls a module."""

    module: int  # its number
    form: Form
    key: int  # of the form
    exporting: bool
    dtype: torch.dtype  # of inputs: others are for the forward to cast, or to refuse
    leads_back: bool  # as Replay has it
    grad: bool  # whether gradients are switched on: torch checks that before each call


@constant_in_graphs
def _plan(owner: FusedModule) -> _Plan | None:
    """For a module of images that runs fused now; else None."""
    exporting, grad = torch.compiler.is_exporting(), torch.is_grad_enabled()
    if transformed() or not apart(lambda: owner.fusion.prepare(owner)):
        return None
    packed = owner.fusion.packed
    # of linear layers alone, or in parts that give an image: the modules inside are fused then
    if packed is None or packed.input_rank != 4 or packed.geometry is None:
        return None
    form = Form(packed.geometry, packed.output_rank == 2)
    back = Replay(owner).leads_back
    return _Plan(number(owner), form, form_key(form), exporting, torch.float32, back, grad)


def number(owner: FusedModule) -> int:
    """The module's number in graphs."""
    fusion = owner.fusion
    known = _modules.get(fusion.number)
    if known is None or known() is not owner:
        fusion.number = made = next(_numbers)
        _modules[made] = weakref.ref(owner, lambda _: _modules.pop(made, None))
    return fusion.number


def form_key(form: Form) -> int:
    """What stands for a form in graphs.

    Made of what it holds: torch keeps compiled graphs on disk, and must not take one for another.
    """
    values = np.asarray([*form.geometry, form.flatten], dtype="<i8")
    key = int.from_bytes(hashlib.sha256(values.tobytes()).digest()[:7], "little")
    _forms[key] = form
    return key


def apart(function: Callable[[], _T]) -> _T:
    """The function's result, in a thread without the modes of the trace that is under way."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # raised again where it belongs
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _owner(module: int) -> FusedModule:
    reference = _modules.get(module)
    owner = None if reference is None else reference()
    if owner is None:
        raise RuntimeError(
            f"run: module must be the number of a living module, got {module}; compile again"
        )
    return owner


def _form(key: int) -> Form:
    found = _forms.get(key)
    if found is None:
        raise RuntimeError(
            f"run: form must be the key of one that was compiled here, got {key}; compile again"
        )
    return found


def _run_module(x: Tensor, module: int, form: int) -> Tensor:
    # looked up here and not by functions: behind a network each frame of Python takes 2 to 4 us
    reference, shape = _modules.get(module), _forms.get(form)
    owner = None if reference is None else reference()
    if owner is None or shape is None:
        owner, shape = _owner(module), _form(form)  # which tell what is wrong
    y: Tensor = owner.__dict__["_fusion"].run_in_graph(owner, x, shape)
    return y


def _run_differentiable(x: Tensor, weights: Sequence[Tensor], module: int, form: int) -> Tensor:
    return _run_module(x, module, form)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weights, ctx.module, _ = inputs
    ctx.save_for_backward(x, *weights)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    """Of the plain forward, computed again on the weights that the graph was given."""
    owner = _owner(ctx.module)
    x, *weights = ctx.saved_tensors
    others = dict(zip((*owner.parameters(), *owner.buffers()), weights, strict=True))
    needed = [tensor.requires_grad for tensor in ctx.saved_tensors]
    found = Replay(owner).gradients(x, others, needed, gradient)
    return found[0], found[1:], None, None


def _flops(x: Tensor, module: int, form: int) -> int:
    """Those of what the call runs: of the records, of parts, or of the plain forward."""
    with FlopCounterMode(display=False) as counter:
        _run_module(x, module, form)
    return int(counter.get_total_flops())


def _register() -> None:
    run = _fake.KERNELS["run"]
    kernels: dict[str, Callable[..., Tensor]] = {
        "run_module": _run_module,
        "run_differentiable": _run_differentiable,
    }
    for name, function in kernels.items():
        torch.library.impl(f"weebill::{name}", "CPU", function, lib=_library)
        torch.library.register_autocast(f"weebill::{name}", "cpu", torch.float32, lib=_library)
    torch.library.register_fake(
        "weebill::run_module",
        lambda x, module, form: run(x, x, *_form(form)),
        lib=_library,
    )
    torch.library.register_fake(
        "weebill::run_differentiable",
        lambda x, weights, module, form: run(x, x, *_form(form)),
        lib=_library,
    )
    torch.library.register_autograd(
        "weebill::run_differentiable", _backward, setup_context=_save, lib=_library
    )
    register_flop_formula(torch.ops.weebill.run_module, get_raw=True)(
        lambda x, module, form, **_: _flops(x, module, form)
    )
    register_flop_formula(torch.ops.weebill.run_differentiable, get_raw=True)(
        lambda x, weights, module, form, **_: _flops(x, module, form)
    )


_register()

# as globals, for `call`: not looked up through torch.ops each time
_RUN: Callable[..., Tensor] = torch.ops.weebill.run.default
_RUN_MODULE: Callable[..., Tensor] = torch.ops.weebill.run_module.default
_RUN_DIFFERENTIABLE: Callable[..., Tensor] = torch.ops.weebill.run_differentiable.default
