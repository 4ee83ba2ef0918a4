"""Calls of the ops in eager mode, past the dispatcher's key for autograd.

Behind that key stands a kernel in Python (`torch.library.register_autograd`), which every call of
an op passes, with gradients or without: it packs and unpacks the arguments in both languages and
goes through the dispatcher again. On small tensors that is as much as all the rest, with the
interpreter in no cache several times that. A call that nothing looks into, no mode, transform,
trace or subclass of Tensor, needs none of it: without gradients it goes to the kernel at once, with
gradients through a node of our own. Where torch differentiates forward, or by a transform of
torch.func, the call is that of the op's formula in plain torch: the key has a backward alone, and
would lose a tangent without a word. All other calls are the op's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from torch.compiler import is_dynamo_compiling

# as globals: with cold caches each look-up costs
_function_modes: Any = getattr(torch._C, "_len_torch_function_stack", None)
_dispatch_modes: Any = getattr(torch._C, "_len_torch_dispatch_stack", None)
_transforms: Any = getattr(torch._C, "_are_functorch_transforms_active", None)
_is_wrapped: Any = getattr(torch._C._functorch, "is_functorch_wrapped_tensor", None)
_any_autocast: Any = getattr(torch._C, "_is_any_autocast_enabled", None)
_tracing_state: Any = getattr(torch._C, "_get_tracing_state", None)
_below_autograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", None)
_unpack_dual: Any = forward_ad.unpack_dual
_inference = torch.is_inference_mode_enabled
_grad_enabled = torch.is_grad_enabled

#: Whether this torch tells who looks in: these names are its own.
_KNOWN = None not in (
    *(_function_modes, _dispatch_modes, _transforms, _is_wrapped),
    *(_any_autocast, _tracing_state, _below_autograd),
)

_is_batched: Any = getattr(torch._C._functorch, "is_batchedtensor", None)
_unwrapped: Any = getattr(torch._C._functorch, "get_unwrapped", None)

_PLAIN = (Tensor, nn.Parameter)

Setup = Callable[[Any, tuple[Any, ...], Any], None]
Backward = Callable[..., tuple[Tensor | None, ...]]
#: Transforms of torch.func that need a derivative; vmap and functionalize take the op as it is.
_DERIVATIVES = ("Grad", "Jvp")


def differentiates() -> bool:
    """Whether this runs where torch differentiates without a backward of ours: in forward mode, or
    in a transform of torch.func."""
    if forward_ad._current_level >= 0:
        return True
    if _transforms is None or not _transforms():
        return False
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key().name in _DERIVATIVES for level in levels)


# Dynamo calls it while it traces, and has guards of its own on what it looks at.
differentiates._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_differentiated(x: Tensor) -> bool:
    """Whether x has a tangent or requires a gradient, for any transform that wraps it."""
    if _transforms is None or not (_transforms() or forward_ad._current_level >= 0):
        return False
    while True:
        if x.requires_grad and _grad_enabled():
            return True
        batched = _is_batched(x)  # by vmap, which knows no tangents
        if not batched and _unpack_dual(x, level=0).tangent is not None:
            return True
        if not _is_wrapped(x):
            return False
        x = _unwrapped(x)


def tensors_of(op: torch._ops.OpOverload) -> int:
    """How many arguments, the first ones, are tensors."""
    return sum("Tensor" in str(argument.type) for argument in op._schema.arguments)


def route(
    op: torch._ops.OpOverload, setup: Setup, backward: Backward, formula: Callable[..., Any]
) -> Callable[..., Any]:
    """The op, called with all of its arguments in order.

    Args:
        op: It takes tensors first, and gives new ones.
        setup, backward: As for `torch.library.register_autograd`.
        formula: Called as the op; torch can differentiate it in every mode.
    """
    if not _KNOWN:
        return op
    now, count = op._op, tensors_of(op)

    def forward(ctx: Any, *inputs: Any) -> Any:
        with _below_autograd():
            output = now(*inputs)
        setup(ctx, inputs, output)
        return output

    node: Any = type(
        op._opname,
        (Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )
    # what Function.apply calls after it has looked for transforms
    apply = getattr(super(Function, node), "apply", node.apply)

    def call(*arguments: Any) -> Any:
        if (
            is_dynamo_compiling()
            or _dispatch_modes()
            or _transforms()
            or _tracing_state() is not None
            or forward_ad._current_level >= 0
        ):
            return (formula if differentiates() else op)(*arguments)
        if _inference():  # in which the dispatcher asks nobody for a gradient
            return now(*arguments)
        if _grad_enabled():
            if _function_modes() or _any_autocast():
                return op(*arguments)
            wanted = False
            for tensor in arguments[:count]:
                if tensor is None:
                    continue
                if type(tensor) not in _PLAIN or _is_wrapped(tensor):
                    return op(*arguments)
                wanted = wanted or tensor.requires_grad
            if wanted:
                return apply(*arguments)
        with _below_autograd():
            return now(*arguments)

    return call
