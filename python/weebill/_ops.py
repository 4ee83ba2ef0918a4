"""Loads the torch ops and adds what is written in Python: fake kernels, gradients, autocast.

Gradients: see `_gradients`. `run` has none: packed weights are no parameters, and a Python autograd
kernel would cost every call some microseconds, with or without gradients. The other ops are called
past theirs where nobody looks in, see `_eager`.

Autocast: the ops compute in float32; under CPU autocast floating inputs are converted to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from weebill import _eager, _fake, _flops, _gradients, _python_ops, _training_fake

_Op: TypeAlias = Callable[..., Tensor]
_Gradients: TypeAlias = Callable[..., tuple[Tensor, Tensor, Tensor]]


def _load() -> object:
    """Defines the ops, in the library for torch's stable ABI where torch has one.

    WEEBILL_TORCH_OPS=python takes the way of older torches: slower calls, the same results.

    Returns:
        What must be kept for the ops to exist.
    """
    version = torch.__version__  # a TorchVersion: compares as versions do
    if version < "2.5":
        raise ImportError(f"weebill: torch must be 2.5 or later, got {version}")
    way = os.environ.get("WEEBILL_TORCH_OPS", "")
    if way not in ("", "python"):
        raise ImportError(
            f"environment: WEEBILL_TORCH_OPS must be 'python' or not set, got '{way}'"
        )
    if version < "2.10" or way == "python":
        return _python_ops.register()
    spec = find_spec("weebill._torch_ops")
    if spec is None or spec.origin is None:
        raise ImportError(
            "weebill: the torch ops must be built in, got a build without them; install torch, "
            "then weebill with 'pip install --no-build-isolation'"
        )
    torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    return None


def _register_autocast(name: str) -> None:
    op = f"weebill::{name}"
    if hasattr(torch.library, "register_autocast"):
        torch.library.register_autocast(op, "cpu", torch.float32)
        return
    # torch 2.5 and 2.6: what register_autocast does
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)

    def cast(*arguments: Any) -> Tensor:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            converted = torch.amp.autocast_mode._cast(arguments, "cpu", torch.float32)
            result: Tensor = getattr(torch.ops.weebill, name)(*converted)
            return result

    library = torch.library.Library("weebill", "IMPL")  # type: ignore[no-untyped-call]
    library.impl(name, cast, "AutocastCPU")  # type: ignore[no-untyped-call]
    _kept.append(library)


def _register() -> None:
    for name, fake in _fake.KERNELS.items():
        op = f"weebill::{name}"
        torch.library.register_fake(op, fake)
        formula, takes_tensors = _flops.FORMULAS[name]
        register_flop_formula(getattr(torch.ops.weebill, name), get_raw=takes_tensors)(formula)
        if name != "channel_shuffle":  # which moves values of any type
            _register_autocast(name)
        if name != "run":
            setup, backward = _gradients.setup_context_of(name), _gradients.backward_of(name)
            torch.library.register_autograd(op, backward, setup_context=setup)
            overload = getattr(torch.ops.weebill, name).default
            _gradients.calls[name] = _eager.route(
                overload, setup, backward, _gradients.formula_of(name)
            )
    if native:
        for name, fake in _training_fake.KERNELS.items():
            torch.library.register_fake(f"weebill::{name}", fake)
        for name, count in _flops.TRAINING_FORMULAS.items():
            register_flop_formula(getattr(torch.ops.weebill, name))(count)


_kept: list[object] = [_load()]

#: Whether the ops are the library's; else they are Python's, and training gains nothing by them.
native: bool = _kept[0] is None

_register()

run: _Op = torch.ops.weebill.run.default
#: The same without a frame of Python's; not for torch.compile, which knows only the op itself.
run_now: _Op = torch.ops.weebill.run.default._op
conv2d: _Op = _gradients.calls["conv2d"]
depthwise_conv2d: _Op = _gradients.calls["depthwise_conv2d"]
pointwise_conv2d: _Op = _gradients.calls["pointwise_conv2d"]
pool_linear: _Op = _gradients.calls["pool_linear"]
squeeze_excite: _Op = _gradients.calls["squeeze_excite"]
depthwise_pointwise: _Op = _gradients.calls["depthwise_pointwise"]
inverted_residual: _Op = _gradients.calls["inverted_residual"]
channel_shuffle: _Op = _gradients.calls["channel_shuffle"]
shuffle_unit: _Op = _gradients.calls["shuffle_unit"]
shuffle_unit_v1: _Op = _gradients.calls["shuffle_unit_v1"]
depthwise_conv2d_backward: _Gradients = _gradients.calls["depthwise_conv2d_backward"]
pointwise_conv2d_backward: _Gradients = _gradients.calls["pointwise_conv2d_backward"]
batch_norm_activation: _Gradients = _gradients.calls["batch_norm_activation"]
batch_norm_activation_backward: _Gradients = _gradients.calls["batch_norm_activation_backward"]
