"""`torch.ops.weebill.*` registered from Python, for torch 2.5 to 2.9, which have no stable ABI.

The same schemas as in csrc/bindings/ops.cpp, the same core through `weebill._C`, and so the same
results; a call takes a few microseconds longer. Tensors are handed over as numpy arrays on the same
memory. Threads are the core's own, in torch's number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weebill import _C, _reference

_MAX_THREADS = 256

#: By the name of the op.
SCHEMAS: dict[str, str] = {
    "run": "(Tensor x, Tensor records, int[] geometry) -> Tensor",
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
}


def register() -> torch.library.Library:
    """Defines the ops; they exist as long as the result is kept."""
    library = torch.library.Library("weebill", "DEF")  # type: ignore[no-untyped-call]
    for name, schema in SCHEMAS.items():
        library.define(f"{name}{schema}")  # type: ignore[no-untyped-call]
        library.impl(name, _KERNELS[name], "CPU")  # type: ignore[no-untyped-call]
    return library


def _input(op: str, x: Tensor) -> NDArray[np.float32]:
    if x.dtype != torch.float32:
        raise TypeError(f"{op}: x must be float32, got {x.dtype}".replace("torch.", ""))
    if x.dim() != 4:
        raise ValueError(f"{op}: x must have 4 dimensions (n, c, h, w), got {x.dim()}")
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


def _run(op: str, x: NDArray[np.float32], records: NDArray[np.uint8]) -> Tensor:
    threads = min(torch.get_num_threads(), _MAX_THREADS)
    return torch.from_numpy(_C.run(x, records, op, threads))


def run(x: Tensor, records: Tensor, geometry: Sequence[int]) -> Tensor:
    if records.dtype != torch.uint8:
        raise TypeError(f"run: records must be uint8, got {records.dtype}".replace("torch.", ""))
    if records.dim() != 1:
        raise ValueError(f"run: records must have 1 dimension, got {records.dim()}")
    if len(records) > 1 and records.stride(0) != 1:
        raise ValueError(f"run: records must be contiguous, got a stride of {records.stride(0)}")
    return _run("run", _input("run", x), records.detach().numpy())


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
    op: str = "conv2d",
) -> Tensor:
    array = _input(op, x)
    record = _C.pack_conv2d(
        _given(op, "weight", weight),
        _weight(op, "bias", bias),
        stride,
        _padding(padding),
        dilation,
        groups,
        activation,
        op,
    )
    return _run(op, array, record)


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
) -> Tensor:
    op = "depthwise_conv2d"
    channels = _input(op, x).shape[1]
    shape = _given(op, "weight", weight).shape
    if len(shape) != 4 or shape[1] != 1 or channels < 1 or shape[0] % channels:
        raise ValueError(
            f"{op}: weight must be (c_out, 1, kh, kw) with c_out a multiple of {channels}, "
            f"the channels of x, got {shape}"
        )
    return conv2d(x, weight, bias, stride, padding, dilation, channels, activation, op)


_ONE = (1, 1)
_NONE = (0, 0, 0, 0)


def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    op = "pointwise_conv2d"
    channels = _input(op, x).shape[1]
    shape = _given(op, "weight", weight).shape
    if len(shape) != 4 or shape[1:] != (channels, 1, 1):
        raise ValueError(
            f"{op}: weight must be (c_out, {channels}, 1, 1) for x with {channels} channels, "
            f"got {shape}"
        )
    return conv2d(x, weight, bias, _ONE, _NONE, _ONE, 1, activation, op)


def pool_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    op = "pool_linear"
    array, plain = _input(op, x), _given(op, "weight", weight)
    channels = array.shape[1]
    if plain.ndim != 2 or plain.shape[1] != channels:
        raise ValueError(
            f"{op}: weight must be (c_out, {channels}) for x with {channels} channels, "
            f"got {plain.shape}"
        )
    image = plain[:, :, None, None]
    added = _weight(op, "bias", bias)
    linear = _C.pack_conv2d(image, added, _ONE, _NONE, _ONE, 1, activation, op)
    records = _C.join([_C.pack_global_avg_pool2d(channels), linear])
    return _run(op, array, records).flatten(1)


def squeeze_excite(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor | None,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    activation: str,
    gate: str,
) -> Tensor:
    op = "squeeze_excite"
    array = _input(op, x)
    record = _C.pack_squeeze_excite(
        _given(op, "reduce_weight", reduce_weight),
        _weight(op, "reduce_bias", reduce_bias),
        _given(op, "expand_weight", expand_weight),
        _weight(op, "expand_bias", expand_bias),
        activation,
        gate,
        op,
    )
    return _run(op, array, record)


def depthwise_pointwise(
    x: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    depthwise_activation: str,
    pointwise_activation: str,
    residual: bool,
) -> Tensor:
    op = "depthwise_pointwise"
    array = _input(op, x)
    arrays = {
        "depthwise_weight": _given(op, "depthwise_weight", depthwise_weight),
        "depthwise_bias": _weight(op, "depthwise_bias", depthwise_bias),
        "project_weight": _given(op, "pointwise_weight", pointwise_weight),
        "project_bias": _weight(op, "pointwise_bias", pointwise_bias),
    }
    try:
        record = _C.pack_separable(
            **arrays,  # type: ignore[arg-type]
            stride=stride,
            padding=_padding(padding),
            dilation=dilation,
            depthwise_activation=depthwise_activation,
            project_activation=pointwise_activation,
            residual=residual,
            op=op,
        )
    except ValueError as error:
        # the core knows the pointwise part as a projection
        raise ValueError(str(error).replace("project_", "pointwise_")) from None
    return _run(op, array, record)


def inverted_residual(
    x: Tensor,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    se_reduce_weight: Tensor | None,
    se_reduce_bias: Tensor | None,
    se_expand_weight: Tensor | None,
    se_expand_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    expand_activation: str,
    depthwise_activation: str,
    se_activation: str,
    se_gate: str,
    project_activation: str,
    residual: bool,
) -> Tensor:
    op = "inverted_residual"
    array = _input(op, x)
    tensors = {
        "expand_weight": expand_weight,
        "expand_bias": expand_bias,
        "depthwise_weight": depthwise_weight,
        "depthwise_bias": depthwise_bias,
        "se_reduce_weight": se_reduce_weight,
        "se_reduce_bias": se_reduce_bias,
        "se_expand_weight": se_expand_weight,
        "se_expand_bias": se_expand_bias,
        "project_weight": project_weight,
        "project_bias": project_bias,
    }
    record = _C.pack_separable(
        **{name: _weight(op, name, tensor) for name, tensor in tensors.items()},  # type: ignore[arg-type]
        stride=stride,
        padding=_padding(padding),
        dilation=dilation,
        expand_activation=expand_activation,
        depthwise_activation=depthwise_activation,
        se_activation=se_activation,
        se_gate=se_gate,
        project_activation=project_activation,
        residual=residual,
        op=op,
    )
    return _run(op, array, record)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    if x.dim() != 4:
        raise ValueError(f"channel_shuffle: x must have 4 dimensions (n, c, h, w), got {x.dim()}")
    _C.pack_channel_shuffle(x.shape[1], groups)  # checks the numbers
    side_by_side = x.shape[1] > 1 and x.stride(1) == 1
    y = torch.empty(
        x.shape,
        dtype=x.dtype,
        memory_format=torch.channels_last if side_by_side else torch.contiguous_format,
    )
    return y.copy_(_reference.channel_shuffle(x, groups))


def shuffle_unit(
    x: Tensor,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    shortcut_depthwise_weight: Tensor | None,
    shortcut_depthwise_bias: Tensor | None,
    shortcut_project_weight: Tensor | None,
    shortcut_project_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    expand_activation: str,
    depthwise_activation: str,
    project_activation: str,
    shortcut_depthwise_activation: str,
    shortcut_project_activation: str,
) -> Tensor:
    op = "shuffle_unit"
    array = _input(op, x)
    window = {"stride": stride, "padding": _padding(padding), "dilation": dilation}
    branch = _C.pack_separable(
        expand_weight=_weight(op, "expand_weight", expand_weight),
        expand_bias=_weight(op, "expand_bias", expand_bias),
        depthwise_weight=_given(op, "depthwise_weight", depthwise_weight),
        depthwise_bias=_weight(op, "depthwise_bias", depthwise_bias),
        project_weight=_given(op, "project_weight", project_weight),
        project_bias=_weight(op, "project_bias", project_bias),
        expand_activation=expand_activation,
        depthwise_activation=depthwise_activation,
        project_activation=project_activation,
        op=op,
        **window,  # type: ignore[arg-type]
    )
    shortcut = None
    if shortcut_depthwise_weight is not None:
        shortcut = _C.pack_separable(
            depthwise_weight=_given(op, "shortcut_depthwise_weight", shortcut_depthwise_weight),
            depthwise_bias=_weight(op, "shortcut_depthwise_bias", shortcut_depthwise_bias),
            project_weight=_weight(op, "shortcut_project_weight", shortcut_project_weight),
            project_bias=_weight(op, "shortcut_project_bias", shortcut_project_bias),
            depthwise_activation=shortcut_depthwise_activation,
            project_activation=shortcut_project_activation,
            op=op,
            **window,  # type: ignore[arg-type]
        )
    return _run(op, array, _C.pack_shuffle_unit(branch, shortcut))


def shuffle_unit_v1(
    x: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    expand_groups: int,
    groups: int,
    project_groups: int,
    expand_activation: str,
    depthwise_activation: str,
    activation: str,
    shortcut: str,
) -> Tensor:
    op = "shuffle_unit_v1"
    array = _input(op, x)
    record = _C.pack_shuffle_unit_v1(
        expand_weight=_given(op, "expand_weight", expand_weight),
        expand_bias=_weight(op, "expand_bias", expand_bias),
        depthwise_weight=_given(op, "depthwise_weight", depthwise_weight),
        depthwise_bias=_weight(op, "depthwise_bias", depthwise_bias),
        project_weight=_given(op, "project_weight", project_weight),
        project_bias=_weight(op, "project_bias", project_bias),
        stride=stride,
        padding=_padding(padding),
        dilation=dilation,
        expand_groups=expand_groups,
        groups=groups,
        project_groups=project_groups,
        expand_activation=expand_activation,
        depthwise_activation=depthwise_activation,
        activation=activation,
        shortcut=shortcut,
    )
    return _run(op, array, record)


def _gradients(name: str) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Through plain torch, in the layout that the kernels give."""
    reference: Callable[..., tuple[Tensor, Tensor, Tensor]] = getattr(_reference, name)

    def backward(grad_output: Tensor, x: Tensor, weight: Tensor, *arguments: object) -> object:
        arrays = [_input(name, grad_output), _input(name, x), _given(name, "weight", weight)]
        found = reference(*(torch.from_numpy(array) for array in arrays), *arguments)
        return tuple(
            gradient.contiguous(memory_format=torch.channels_last)
            if i == 0 and gradient.dim() == 4
            else gradient.contiguous()
            for i, gradient in enumerate(found)
        )

    return backward  # type: ignore[return-value]


_KERNELS: dict[str, Callable[..., object]] = {
    kernel.__name__: kernel
    for kernel in (
        run,
        conv2d,
        depthwise_conv2d,
        pointwise_conv2d,
        pool_linear,
        squeeze_excite,
        depthwise_pointwise,
        inverted_residual,
        channel_shuffle,
        shuffle_unit,
        shuffle_unit_v1,
    )
} | {name: _gradients(name) for name in SCHEMAS if name.endswith("_backward")}
