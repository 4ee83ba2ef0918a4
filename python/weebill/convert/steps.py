"""The steps between fused blocks that a file can hold, by what a graph calls.

Each function appends its nodes to a `Builder` and has the arguments of the torch function of its
name. Anything that is not in the two tables at the end is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from weebill.convert.builder import Builder, NotSaved, Size, Step, Value
from weebill.runtime import nodes


def _binary(make: type[nodes.Node]) -> Callable[..., Value]:
    def handle(builder: Builder, a: Any, b: Any) -> Any:
        if not isinstance(a, Value) or not isinstance(b, Value):
            raise NotSaved(f"{make.op} of a tensor and a number has no saved form")
        return builder.add(make((a.index, b.index)))

    return handle


def _concat(builder: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    axis = dim % builder.rank(tensors[0])
    return builder.add(nodes.Concat(tuple(value.index for value in tensors), axis))


def _interpolate(
    builder: Builder,
    input: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    if mode not in ("nearest", "bilinear") or antialias or recompute_scale_factor:
        raise NotSaved(f"interpolate with mode {mode!r} has no saved form")
    corners = bool(align_corners)
    if size is None:
        scale = tuple(scale_factor) if isinstance(scale_factor, (tuple, list)) else ()
        scales = [float(value) for value in scale or (scale_factor, scale_factor)]
        return builder.add(
            nodes.make_node(
                "resize", inputs=[input.index], mode=mode, align_corners=corners, scale=scales
            )
        )
    sizes = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if all(isinstance(value, int) for value in sizes):
        return builder.add(
            nodes.make_node(
                "resize", inputs=[input.index], mode=mode, align_corners=corners, size=list(sizes)
            )
        )
    like = sizes[0].index if isinstance(sizes[0], Size) else -1
    if sizes != (Size(like, 2), Size(like, 3)):
        raise NotSaved("interpolate to a size that is no tensor's height and width")
    return builder.add(
        nodes.make_node("resize", inputs=[input.index, like], mode=mode, align_corners=corners)
    )


def _reshape(builder: Builder, x: Value, *sizes: Any) -> Value:
    wanted = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    inputs = [x.index]
    found: list[int | tuple[int, int]] = []
    for size in wanted:
        if isinstance(size, Size):
            if size.index not in inputs:
                inputs.append(size.index)
            found.append((inputs.index(size.index), size.axis))
        elif isinstance(size, int):
            found.append(size)
        else:
            raise NotSaved("reshape to sizes that are computed")
    return builder.add(nodes.Reshape(tuple(inputs), tuple(found)))


def _flatten(builder: Builder, x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    rank = builder.rank(x)
    first, last = start_dim % rank, end_dim % rank
    sizes: list[Any] = [builder.size(x, axis) for axis in range(first)]
    sizes += [-1, *(builder.size(x, axis) for axis in range(last + 1, rank))]
    return _reshape(builder, x, sizes)


def _permute(builder: Builder, x: Value, *dims: Any) -> Value:
    wanted = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    rank = builder.rank(x)
    return builder.add(nodes.Permute((x.index,), tuple(axis % rank for axis in wanted)))


def _transpose(builder: Builder, x: Value, dim0: int, dim1: int) -> Value:
    axes = list(range(builder.rank(x)))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return _permute(builder, x, axes)


def _chunk(builder: Builder, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    size = builder.size(x, dim)
    if not isinstance(size, int):
        raise NotSaved("chunk along an axis of a size that depends on the input")
    return _split(builder, x, -(-size // chunks), dim)


def _split(builder: Builder, x: Value, sizes: Any, dim: int = 0) -> tuple[Value, ...]:
    axis, total = dim % builder.rank(x), builder.size(x, dim)
    if not isinstance(total, int):
        raise NotSaved("split along an axis of a size that depends on the input")
    if isinstance(sizes, int):
        sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
    parts, start = [], 0
    for size in sizes:
        parts.append(builder.add(nodes.Slice((x.index,), axis, start, start + size)))
        start += size
    return tuple(parts)


def _getitem(builder: Builder, value: Any, index: Any) -> Any:
    if not isinstance(value, Value):
        return value[index]
    whole = slice(None)
    parts = index if isinstance(index, tuple) else (index,)
    cut = [axis for axis, part in enumerate(parts) if part != whole and part is not Ellipsis]
    if not cut:
        return value
    axis = cut[0] if len(cut) == 1 else -1
    part = parts[axis] if axis >= 0 else None
    total = builder.size(value, axis) if axis >= 0 else None
    if not isinstance(part, slice) or not isinstance(total, int) or Ellipsis in parts:
        raise NotSaved("indexing has a saved form only as a slice of the channels")
    start, stop, step = part.indices(total)
    if step != 1:
        raise NotSaved("a slice with a step")
    return builder.add(nodes.Slice((value.index,), axis, start, stop))


def _sizes(builder: Builder, x: Value, dim: int | None = None) -> Any:
    if dim is not None:
        return builder.size(x, dim)
    return tuple(builder.size(x, axis) for axis in range(builder.rank(x)))


def _getattr(builder: Builder, x: Value, name: str) -> Any:
    if name == "shape":
        return _sizes(builder, x)
    if name == "ndim":
        return builder.rank(x)
    raise NotSaved(f"the attribute {name} of a tensor")


def _adaptive_pool(builder: Builder, x: Value, output_size: Any) -> Value:
    if output_size not in (1, (1, 1), [1, 1]):
        raise NotSaved(f"adaptive pooling to {output_size}")
    return builder.pool(x)


def _mean(builder: Builder, x: Value, dim: Any, keepdim: bool = False) -> Value:
    dims = sorted(axis % 4 for axis in dim) if isinstance(dim, (tuple, list)) else dim
    if builder.rank(x) != 4 or dims != [2, 3]:
        raise NotSaved(f"mean over {dim}")
    y = builder.pool(x)
    return y if keepdim else _reshape(builder, y, builder.size(y, 0), builder.channels(y))


def _pair(value: Any) -> tuple[int, int]:
    a, b = value if isinstance(value, (tuple, list)) else (value, value)
    return int(a), int(b)


def _max_pool(
    builder: Builder,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    if _pair(dilation) != (1, 1) or return_indices:
        raise NotSaved("max_pool2d with dilation or indices")
    window = (_pair(kernel_size), _pair(stride or kernel_size), _pair(padding))
    return builder.add(nodes.MaxPool((x.index,), *window, ceil_mode))


def _avg_pool(
    builder: Builder,
    x: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    if ceil_mode or divisor_override is not None:
        raise NotSaved("avg_pool2d with ceil_mode or divisor_override")
    window = (_pair(kernel_size), _pair(stride or kernel_size), _pair(padding))
    return builder.add(nodes.AvgPool((x.index,), *window, False, count_include_pad))


def _activation(name: str) -> Callable[..., Value]:
    def handle(builder: Builder, x: Value, inplace: bool = False) -> Value:
        return builder.activation(x, name)

    return handle


def _same(builder: Builder, x: Value, *_: Any, **__: Any) -> Value:
    return x


def _cast(builder: Builder, x: Value, *args: Any, **kwargs: Any) -> Value:
    if (*args, *kwargs.values()) != (torch.float32,):
        raise NotSaved("a cast to something else than float32")
    return x


def _dropout(
    builder: Builder, input: Value, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Value:
    if training:
        raise NotSaved("dropout in training")
    return input


def _arithmetic(function: Callable[[int, int], int]) -> Callable[..., int]:
    def handle(builder: Builder, a: Any, b: Any) -> int:
        if not isinstance(a, int) or not isinstance(b, int):
            raise NotSaved("arithmetic with sizes that depend on the input")
        return function(a, b)

    return handle


FUNCTIONS: dict[Any, Step] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _binary(nodes.Add)),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), _binary(nodes.Mul)),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concat),
    **dict.fromkeys((torch.reshape, "reshape", "view"), _reshape),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys((torch.permute, "permute"), _permute),
    **dict.fromkeys((torch.transpose, "transpose"), _transpose),
    **dict.fromkeys((torch.chunk, "chunk"), _chunk),
    **dict.fromkeys((torch.split, "split"), _split),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys((torch.relu, torch.relu_, F.relu, "relu", "relu_"), _activation("relu")),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid", "sigmoid_"), _activation("sigmoid")),
    F.relu6: _activation("relu6"),
    F.hardswish: _activation("hardswish"),
    F.hardsigmoid: _activation("hardsigmoid"),
    F.silu: _activation("silu"),
    F.interpolate: _interpolate,
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive_pool,
    **dict.fromkeys(("contiguous", "clone", "detach", "float"), _same),
    "to": _cast,
    F.dropout: _dropout,
    "size": _sizes,
    getattr: _getattr,
    operator.getitem: _getitem,
    operator.floordiv: _arithmetic(operator.floordiv),
    operator.sub: _arithmetic(operator.sub),
}


def _pool_module(function: Callable[..., Value], *names: str) -> Callable[..., Value]:
    def handle(builder: Builder, x: Value, module: nn.Module) -> Value:
        return function(builder, x, **{name: getattr(module, name) for name in names})

    return handle


def _upsample(builder: Builder, x: Value, module: nn.Upsample) -> Value:
    return _interpolate(
        builder, x, module.size, module.scale_factor, module.mode, module.align_corners
    )


_WINDOW = ("kernel_size", "stride", "padding", "ceil_mode")
MODULES: dict[type[nn.Module], Step] = {
    nn.Flatten: lambda b, x, m: _flatten(b, x, m.start_dim, m.end_dim),
    nn.MaxPool2d: _pool_module(_max_pool, *_WINDOW, "dilation", "return_indices"),
    nn.AvgPool2d: _pool_module(_avg_pool, *_WINDOW, "count_include_pad", "divisor_override"),
    nn.AdaptiveAvgPool2d: _pool_module(_adaptive_pool, "output_size"),
    nn.Upsample: _upsample,
    nn.UpsamplingBilinear2d: _upsample,
    nn.UpsamplingNearest2d: _upsample,
}
