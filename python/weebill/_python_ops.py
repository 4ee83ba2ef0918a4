"""`torch.ops.weebill.*` registered from Python, for torch 2.5 to 2.9, which have no stable ABI.

The same schemas as in csrc/bindings/ops.cpp, the same core through `weebill._C`, and so the same
results; a call takes a few microseconds longer. Tensors are handed over as numpy arrays on the same
memory. Threads are the core's own, in torch's number.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weebill import _C, _reference

_MAX_THREADS = 256

#: By the name of the op.
SCHEMAS: dict[str, str] = {
    "run": "(Tensor x, Tensor records, int[] geometry, bool flatten=False) -> Tensor",
    "conv2d": "(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
    "int[] dilation, int groups, str activation) -> Tensor",
    "depthwise_conv2d": "(Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
    "int[] dilation, str activation) -> Tensor",
    "pointwise_conv2d": "(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor",
    "pool_linear": "(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor",
    "squeeze_excite": "(Tensor x, Tensor reduce_weight, Tensor? reduce_bias, "
    "Tensor expand_weight, Tensor? expand_bias, str activation, str gate) -> Tensor",
    "depthwise_pointwise": "(Tensor x, Tensor depthwise_weight, Tensor? depthwise_bias, "
    "Tensor pointwise_weight, Tensor? pointwise_bias, int[] stride, int[] padding, "
    "int[] dilation, str depthwise_activation, str pointwise_activation, bool residual) -> Tensor",
    "inverted_residual": "(Tensor x, Tensor? expand_weight, Tensor? expand_bias, "
    "Tensor depthwise_weight, Tensor? depthwise_bias, Tensor? se_reduce_weight, "
    "Tensor? se_reduce_bias, Tensor? se_expand_weight, Tensor? se_expand_bias, "
    "Tensor project_weight, Tensor? project_bias, int[] stride, int[] padding, int[] dilation, "
    "str expand_activation, str depthwise_activation, str se_activation, str se_gate, "
    "str project_activation, bool residual) -> Tensor",
    "channel_shuffle": "(Tensor x, int groups) -> Tensor",
    "shuffle_unit": "(Tensor x, Tensor? expand_weight, Tensor? expand_bias, "
    "Tensor depthwise_weight, Tensor? depthwise_bias, Tensor project_weight, "
    "Tensor? project_bias, Tensor? shortcut_depthwise_weight, Tensor? shortcut_depthwise_bias, "
    "Tensor? shortcut_project_weight, Tensor? shortcut_project_bias, int[] stride, "
    "int[] padding, int[] dilation, str expand_activation, str depthwise_activation, "
    "str project_activation, str shortcut_depthwise_activation, "
    "str shortcut_project_activation) -> Tensor",
    "shuffle_unit_v1": "(Tensor x, Tensor expand_weight, Tensor? expand_bias, "
    "Tensor depthwise_weight, Tensor? depthwise_bias, Tensor project_weight, "
    "Tensor? project_bias, int[] stride, int[] padding, int[] dilation, int expand_groups, "
    "int groups, int project_groups, str expand_activation, str depthwise_activation, "
    "str activation, str shortcut) -> Tensor",
    "depthwise_conv2d_backward": "(Tensor grad_output, Tensor x, Tensor weight, int[] stride, "
    "int[] padding, int[] dilation, bool[] output_mask) -> (Tensor, Tensor, Tensor)",
    "pointwise_conv2d_backward": "(Tensor grad_output, Tensor x, Tensor weight, "
    "bool[] output_mask) -> (Tensor, Tensor, Tensor)",
    "batch_norm_activation": "(Tensor x, Tensor? weight, Tensor? bias, float eps, "
    "str activation) -> (Tensor, Tensor, Tensor)",
    "batch_norm_activation_backward": "(Tensor grad_output, Tensor x, Tensor? weight, "
    "Tensor? bias, Tensor mean, Tensor var, float eps, str activation, bool[] output_mask) "
    "-> (Tensor, Tensor, Tensor)",
}


def register() -> torch.library.Library:
    """Defines the ops; they exist as long as the result is kept."""
    library = torch.library.Library("weebill", "DEF")  # type: ignore[no-untyped-call]
    for name, schema in SCHEMAS.items():
        library.define(f"{name}{schema}")  # type: ignore[no-untyped-call]
        library.impl(name, _as_torchs(_KERNELS[name]), "CPU")  # type: ignore[no-untyped-call]
    return library


def _input(op: str, x: Tensor, name: str = "x") -> NDArray[np.float32]:
    if x.dtype != torch.float32:
        raise TypeError(f"{op}: {name} must be float32, got {x.dtype}".replace("torch.", ""))
    if x.dim() != 4:
        raise ValueError(f"{op}: {name} must have 4 dimensions (n, c, h, w), got {x.dim()}")
    array: NDArray[np.float32] = x.detach().numpy()
    return array


def _weight(op: str, name: str, tensor: Tensor | None) -> NDArray[np.float32] | None:
    if tensor is None:
        return None
    if tensor.dtype != torch.float32:
        raise TypeError(f"{op}: {name} must be float32, got {tensor.dtype}".replace("torch.", ""))
    if tensor.numel() == 0:
        raise ValueError(f"{op}: {name} must not be empty, got a tensor without elements")
    array: NDArray[np.float32] = tensor.detach().numpy()
    return array


def _given(op: str, name: str, tensor: Tensor) -> NDArray[np.float32]:
    array = _weight(op, name, tensor)
    assert array is not None
    return array


def _padding(padding: Sequence[int]) -> Sequence[int] | str:
    """[-1] asks for TensorFlow's SAME."""
    return "same" if list(padding) == [-1] else padding


def _threads() -> int:
    return min(torch.get_num_threads(), _MAX_THREADS)


def _run(op: str, x: NDArray[np.float32], records: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(_C.run(x, records, op, _threads()))


def run(x: Tensor, records: Tensor, geometry: Sequence[int], flatten: bool = False) -> Tensor:
    if records.dtype != torch.uint8:
        raise TypeError(f"run: records must be uint8, got {records.dtype}".replace("torch.", ""))
    if records.dim() != 1:
        raise ValueError(f"run: records must have 1 dimension, got {records.dim()}")
    if len(records) > 1 and records.stride(0) != 1:
        raise ValueError(f"run: records must be contiguous, got a stride of {records.stride(0)}")
    y = _run("run", _input("run", x), records.detach().numpy())
    return y.flatten(1).contiguous() if flatten else y


_Arguments = dict[str, Any]
_KERNELS: dict[str, Callable[..., object]] = {"run": run}


def _kernel(function: Callable[[str, _Arguments], Tensor]) -> Callable[..., Tensor]:
    """Makes a function of an op's name and named arguments the op's kernel, called as the op."""
    op = function.__name__
    names = _reference.argument_names(op)

    def kernel(*arguments: Any) -> Tensor:
        return function(op, dict(zip(names, arguments, strict=True)))

    _KERNELS[op] = kernel
    return kernel


def _packable(op: str, a: _Arguments) -> _Arguments:
    """Arguments of an op, but x, as `_C` takes them: checked arrays for weights."""
    return {
        name: _weight(op, name, value)
        if name.endswith(("weight", "bias"))
        else _padding(value)
        if name == "padding"
        else value
        for name, value in a.items()
        if name != "x"
    }


def _conv2d(op: str, x: NDArray[np.float32], a: _Arguments) -> Tensor:
    return _run(op, x, _C.pack_conv2d(**_packable(op, a), op=op))


@_kernel
def conv2d(op: str, a: _Arguments) -> Tensor:
    return _conv2d(op, _input(op, a["x"]), a)


@_kernel
def depthwise_conv2d(op: str, a: _Arguments) -> Tensor:
    x = _input(op, a["x"])
    channels = x.shape[1]
    shape = _given(op, "weight", a["weight"]).shape
    if len(shape) != 4 or shape[1] != 1 or channels < 1 or shape[0] % channels:
        raise ValueError(
            f"{op}: weight must be (c_out, 1, kh, kw) with c_out a multiple of {channels}, "
            f"the channels of x, got {shape}"
        )
    return _conv2d(op, x, {**a, "groups": channels})


#: Of a 1 x 1 convolution.
_POINT: _Arguments = {
    "stride": (1, 1),
    "padding": (0, 0, 0, 0),
    "dilation": (1, 1),
    "groups": 1,
}


@_kernel
def pointwise_conv2d(op: str, a: _Arguments) -> Tensor:
    x = _input(op, a["x"])
    channels = x.shape[1]
    shape = _given(op, "weight", a["weight"]).shape
    if len(shape) != 4 or shape[1:] != (channels, 1, 1):
        raise ValueError(
            f"{op}: weight must be (c_out, {channels}, 1, 1) for x with {channels} channels, "
            f"got {shape}"
        )
    return _conv2d(op, x, {**a, **_POINT})


@_kernel
def pool_linear(op: str, a: _Arguments) -> Tensor:
    x, plain = _input(op, a["x"]), _given(op, "weight", a["weight"])
    channels = x.shape[1]
    if plain.ndim != 2 or plain.shape[1] != channels:
        raise ValueError(
            f"{op}: weight must be (c_out, {channels}) for x with {channels} channels, "
            f"got {plain.shape}"
        )
    linear = {**_packable(op, a), **_POINT, "weight": plain[:, :, None, None]}
    records = _C.join([_C.pack_global_avg_pool2d(channels), _C.pack_conv2d(**linear, op=op)])
    return _run(op, x, records).flatten(1)


@_kernel
def squeeze_excite(op: str, a: _Arguments) -> Tensor:
    x = _input(op, a["x"])
    return _run(op, x, _C.pack_squeeze_excite(**_packable(op, a), op=op))


@_kernel
def depthwise_pointwise(op: str, a: _Arguments) -> Tensor:
    x = _input(op, a["x"])
    # the core knows the pointwise part as a projection
    packable = {
        name.replace("pointwise_", "project_"): value for name, value in _packable(op, a).items()
    }
    try:
        record = _C.pack_separable(**packable, op=op)
    except ValueError as error:
        raise ValueError(str(error).replace("project_", "pointwise_")) from None
    return _run(op, x, record)


@_kernel
def inverted_residual(op: str, a: _Arguments) -> Tensor:
    x = _input(op, a["x"])
    return _run(op, x, _C.pack_separable(**_packable(op, a), op=op))


#: By the bytes of an element: a type whose values are moved without a look at them.
_CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


@_kernel
def channel_shuffle(op: str, a: _Arguments) -> Tensor:
    x, groups = a["x"], a["groups"]
    if x.dim() != 4:
        raise ValueError(f"{op}: x must have 4 dimensions (n, c, h, w), got {x.dim()}")
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"{op}: groups must divide the {channels} channels of x, got {groups}")
    side_by_side = channels > 1 and x.stride(1) == 1
    moved = x.view(_CARRIERS[x.dtype.itemsize])
    y = torch.empty(
        x.shape,
        dtype=moved.dtype,
        memory_format=torch.channels_last if side_by_side else torch.contiguous_format,
    )
    return y.copy_(_reference.channel_shuffle(moved, groups)).view(x.dtype)


@_kernel
def shuffle_unit(op: str, a: _Arguments) -> Tensor:
    x = _input(op, a["x"])
    own = {name: value for name, value in a.items() if not name.startswith("shortcut_")}
    branch = _C.pack_separable(**_packable(op, own), op=op)
    others = _packable(op, {name: a[name] for name in a if name not in own})
    shortcut = None
    if any(isinstance(value, np.ndarray) for value in others.values()):
        window = {name: a[name] for name in ("stride", "padding", "dilation")}
        parts = {name.removeprefix("shortcut_"): value for name, value in others.items()}
        try:
            shortcut = _C.pack_separable(**parts, **_packable(op, window), op=op)
        except (TypeError, ValueError) as error:
            names = re.sub(r"\b(depthwise|project)_", r"shortcut_\1_", str(error))
            raise type(error)(names) from None
    return _run(op, x, _C.pack_shuffle_unit(branch, shortcut))


@_kernel
def shuffle_unit_v1(op: str, a: _Arguments) -> Tensor:
    x = _input(op, a["x"])
    return _run(op, x, _C.pack_shuffle_unit_v1(**_packable(op, a)))


def _gradients(name: str) -> Callable[..., tuple[Tensor, ...]]:
    function: Callable[..., tuple[NDArray[np.float32], ...]] = getattr(_C, name)

    def backward(
        grad_output: Tensor, x: Tensor, weight: Tensor, *arguments: object
    ) -> tuple[Tensor, ...]:
        arrays = _input(name, grad_output, "grad_output"), _input(name, x)
        filters = _given(name, "weight", weight)
        found = function(*arrays, filters, *arguments, threads=_threads())
        return tuple(torch.from_numpy(array) for array in found)

    return backward


_KERNELS.update({name: _gradients(name) for name in SCHEMAS if name.endswith("conv2d_backward")})


def _plain(name: str) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Through plain torch, in the layout that the kernels give."""
    formula: Callable[..., tuple[Tensor, Tensor, Tensor]] = getattr(_reference, name)

    def kernel(*arguments: Any) -> object:
        for argument, value in zip(_reference.argument_names(name), arguments, strict=True):
            if argument in ("x", "grad_output"):
                _input(name, value, argument)
            elif isinstance(value, Tensor):
                _given(name, argument, value)
        found = formula(*(v.detach() if isinstance(v, Tensor) else v for v in arguments))
        return tuple(
            result.contiguous(memory_format=torch.channels_last)
            if result.dim() == 4
            else result.contiguous()
            for result in found
        )

    return kernel  # type: ignore[return-value]


_KERNELS.update({name: _plain(name) for name in SCHEMAS if name not in _KERNELS})


def _as_torchs(kernel: Callable[..., object]) -> Callable[..., object]:
    """Errors as the ops' library in C++ raises them (_errors.py)."""

    @functools.wraps(kernel)
    def call(*arguments: Any, **named: Any) -> object:
        try:
            return kernel(*arguments, **named)
        except (TypeError, NotImplementedError) as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from None

    return call
