"""The steps of a saved network: packed programs, and the little that stands between them.

A node takes values by index: 0 is the network's input, node i makes value i + 1, and a node takes
values that are made before it, so that there are no cycles. Every node knows the shape of its
result, which is checked before anything is computed or allocated.

Four-dimensional arrays have torch's order of axes (N, C, H, W), and in memory mostly N, H, W, C.
Additions, products and copies are exact as torch's; a bilinear interpolation and an activation that
stands alone follow torch's formulas in float32 and differ by rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from weebill import _C
from weebill.runtime._decode import decode

Array: TypeAlias = NDArray[np.float32]
Shape: TypeAlias = tuple[int, ...]
#: Packed records by index of the program.
Programs: TypeAlias = Sequence[NDArray[np.uint8]]

#: Elements of the largest value: 1 GiB. A file that asks for more is refused.
MAX_ELEMENTS = 1 << 28
_MAX_AXES = 8
_MAX_SIZE = 1 << 16
_MAX_POOL = 64

ActivationName: TypeAlias = Literal[
    "relu", "relu6", "hardswish", "hardsigmoid", "hardsigmoid_paddle", "silu", "sigmoid"
]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Node:
    """A step. `shape` raises ValueError where the inputs do not fit, `run` computes."""

    inputs: tuple[int, ...]
    op: ClassVar[str]
    #: Whether its result may be a view of its first input, whose memory then lives as long.
    gives_view: ClassVar[bool] = False
    #: How many inputs it takes: at least, at most.
    arity: ClassVar[tuple[int, int]] = (1, 1)

    def __post_init__(self) -> None:
        low, high = self.arity
        _check(low <= len(self.inputs) <= high, f"{self.op} takes {low} to {high} inputs")

    def shape(self, shapes: Sequence[Shape], programs: Programs) -> Shape:
        raise NotImplementedError

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Run(Node):
    """A program of packed blocks; `flatten` drops the height and width of 1 at the end."""

    program: int
    flatten: bool = False
    op: ClassVar[str] = "run"

    def shape(self, shapes: Sequence[Shape], programs: Programs) -> Shape:
        (x,) = shapes
        _check(len(x) in (2, 4), f"run takes 2 or 4 dimensions, got {x}")
        out = _C.output_shape((*x, 1, 1)[:4], programs[self.program])
        if self.flatten:
            _check(out[2:] == (1, 1), f"run must end in a 1 x 1 image to be flattened, got {out}")
            return out[:2]
        return out

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        (x,) = values
        if x.ndim == 2:
            x = x[:, :, None, None]
        y = _C.run(x, programs[self.program])
        return y[:, :, 0, 0] if self.flatten else y


@dataclass(frozen=True)
class Add(Node):
    """a + b; sizes of 1 are repeated."""

    op: ClassVar[str] = "add"
    arity: ClassVar[tuple[int, int]] = (2, 2)

    def shape(self, shapes: Sequence[Shape], programs: Programs) -> Shape:
        return _broadcast(self.op, shapes)

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        return np.add(values[0], values[1])


@dataclass(frozen=True)
class Mul(Add):
    """a * b; sizes of 1 are repeated."""

    op: ClassVar[str] = "mul"

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        return np.multiply(values[0], values[1])


def _broadcast(op: str, shapes: Sequence[Shape]) -> Shape:
    _check(len({len(shape) for shape in shapes}) == 1, f"{op} takes equal ranks, got {shapes}")
    for sizes in zip(*shapes, strict=True):
        _check(len(set(sizes) - {1}) <= 1, f"{op} takes shapes that fit, got {shapes}")
    return tuple(max(sizes) if 0 not in sizes else 0 for sizes in zip(*shapes, strict=True))


@dataclass(frozen=True)
class Concat(Node):
    """Values one after the other along an axis."""

    axis: int
    op: ClassVar[str] = "concat"
    arity: ClassVar[tuple[int, int]] = (1, 1024)

    def shape(self, shapes: Sequence[Shape], programs: Programs) -> Shape:
        first = shapes[0]
        _check(0 <= self.axis < len(first), f"concat has axis {self.axis} for {first}")
        rests = {(*s[: self.axis], *s[self.axis + 1 :]) for s in shapes}
        _check(len(rests) == 1, f"concat takes shapes that fit, got {shapes}")
        total = sum(shape[self.axis] for shape in shapes)
        return (*first[: self.axis], total, *first[self.axis + 1 :])

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        if values[0].ndim != 4:
            return np.concatenate(values, self.axis)
        axis = (0, 3, 1, 2)[self.axis]
        return _nchw(np.concatenate([_nhwc(value) for value in values], axis))


@dataclass(frozen=True)
class Slice(Node):
    """Entries start to stop - 1 of an axis."""

    axis: int
    start: int
    stop: int
    op: ClassVar[str] = "slice"
    gives_view: ClassVar[bool] = True

    def shape(self, shapes: Sequence[Shape], programs: Programs) -> Shape:
        (x,) = shapes
        fits = 0 <= self.axis < len(x) and 0 <= self.start < self.stop <= x[self.axis]
        _check(fits, f"slice takes {self.start}:{self.stop} of axis {self.axis}, got {x}")
        return (*x[: self.axis], self.stop - self.start, *x[self.axis + 1 :])

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        return values[0][(slice(None),) * self.axis + (slice(self.start, self.stop),)]


@dataclass(frozen=True)
class Permute(Node):
    """Axis i of the result is axis dims[i]."""

    dims: tuple[int, ...]
    op: ClassVar[str] = "permute"
    gives_view: ClassVar[bool] = True

    def shape(self, shapes: Sequence[Shape], programs: Programs) -> Shape:
        (x,) = shapes
        _check(sorted(self.dims) == list(range(len(x))), f"permute has {self.dims} for {x}")
        return tuple(x[axis] for axis in self.dims)

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        return values[0].transpose(self.dims)


@dataclass(frozen=True)
class Reshape(Node):
    """The elements of the first input in other sizes.

    A size is a number, -1 for what is left (once), or (input, axis) for a size of an input.
    """

    sizes: tuple[int | tuple[int, int], ...]
    op: ClassVar[str] = "reshape"
    gives_view: ClassVar[bool] = True
    arity: ClassVar[tuple[int, int]] = (1, 8)

    def shape(self, shapes: Sequence[Shape], programs: Programs) -> Shape:
        _check(1 <= len(self.sizes) <= _MAX_AXES, f"reshape has {len(self.sizes)} sizes")
        sizes = []
        for size in self.sizes:
            if isinstance(size, tuple):
                source, axis = size
                fits = 0 <= source < len(shapes) and 0 <= axis < len(shapes[source])
                _check(fits, f"reshape has size {size} of {shapes}")
                sizes.append(shapes[source][axis])
            else:
                _check(-1 <= size <= MAX_ELEMENTS, f"reshape has size {size}")
                sizes.append(size)
        _check(sizes.count(-1) <= 1, f"reshape has {self.sizes}")
        x, elements = shapes[0], math.prod(shapes[0])
        rest = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and elements == rest == 0:
            # of no images: what is left of the sizes that are not 0, as torch flattens
            left = math.prod(size or 1 for size in x)
            rest = math.prod(size or 1 for size in sizes if size != -1)
            _check(left % rest == 0, f"reshape has {self.sizes} for {x}")
            sizes[sizes.index(-1)] = left // rest
        elif -1 in sizes:
            _check(rest > 0 and elements % rest == 0, f"reshape has {self.sizes} for {x}")
            sizes[sizes.index(-1)] = elements // rest
        _check(math.prod(sizes) == elements, f"reshape has {self.sizes} for {x}")
        return tuple(sizes)

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        return values[0].reshape(self.shape([value.shape for value in values], programs))


@dataclass(frozen=True)
class Activation(Node):
    """An activation that no block before it could take."""

    name: ActivationName
    op: ClassVar[str] = "activation"

    def shape(self, shapes: Sequence[Shape], programs: Programs) -> Shape:
        return shapes[0]

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        (x,) = values
        with np.errstate(over="ignore"):
            y: Array = _ACTIVATIONS[self.name](x)
        return y


def _hard_gate(x: Array, slope: float) -> Array:
    y: Array = np.clip(x * np.float32(slope) + np.float32(0.5), np.float32(0), np.float32(1))
    return y


def _sigmoid(x: Array) -> Array:
    y: Array = np.float32(1) / (np.float32(1) + np.exp(-x))
    return y


_ACTIVATIONS: dict[str, Any] = {
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "relu6": lambda x: np.clip(x, np.float32(0), np.float32(6)),
    "hardswish": lambda x: x * _hard_gate(x, 1 / 6),
    "hardsigmoid": lambda x: _hard_gate(x, 1 / 6),
    "hardsigmoid_paddle": lambda x: _hard_gate(x, 1 / 5),
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
}


@dataclass(frozen=True)
class Resize(Node):
    """Interpolation to another height and width, as torch.nn.functional.interpolate.

    The size is that of a second input, or `size`, or the input's times `scale`, rounded down.
    """

    mode: Literal["nearest", "bilinear"]
    align_corners: bool = False
    size: tuple[int, int] | None = None
    scale: tuple[float, float] | None = None
    op: ClassVar[str] = "resize"
    arity: ClassVar[tuple[int, int]] = (1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (len(self.inputs) == 2) + (self.size is not None) + (self.scale is not None)
        _check(given == 1, "resize takes a second input, size or scale")
        scales = self.scale or (1.0, 1.0)
        _check(all(2**-16 < scale < 2**16 for scale in scales), f"resize has scale {self.scale}")

    def shape(self, shapes: Sequence[Shape], programs: Programs) -> Shape:
        _check(all(len(shape) == 4 for shape in shapes), f"resize takes 4 dimensions, got {shapes}")
        x = shapes[0]
        if self.scale is not None:
            size = (int(x[2] * self.scale[0]), int(x[3] * self.scale[1]))
        else:
            size = self.size or (shapes[1][2], shapes[1][3])
        _check(min(*size, *x[2:]) >= 1 and max(size) <= _MAX_SIZE, f"resize gives {size} for {x}")
        return (*x[:2], *size)

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        x = values[0]
        height, width = self.shape([value.shape for value in values], programs)[2:]
        scales = self.scale or (None, None)
        if self.mode == "nearest":
            rows = _nearest(x.shape[2], height, scales[0])
            columns = _nearest(x.shape[3], width, scales[1])
            return _nchw(_nhwc(x)[:, rows[:, None], columns])
        if x.shape[2:] == (height, width):
            return x.copy(order="K")  # not the caller's own array, nor another output
        return _bilinear(
            x,
            _linear(x.shape[2], height, scales[0], self.align_corners),
            _linear(x.shape[3], width, scales[1], self.align_corners),
        )


def _ratio(size: int, result: int, scale: float | None) -> np.float32:
    return np.float32(1 / scale) if scale else np.float32(size) / np.float32(result)


def _nearest(size: int, result: int, scale: float | None) -> NDArray[np.int64]:
    source = np.arange(result, dtype=np.float32) * _ratio(size, result, scale)
    return np.minimum(source.astype(np.int64), size - 1)


#: Indices of two neighbours and their weights, for every row (or column) of the result.
_Linear: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], Array, Array]


def _linear(size: int, result: int, scale: float | None, align_corners: bool) -> _Linear:
    index = np.arange(result, dtype=np.float32)
    if align_corners:
        step = np.float32(size - 1) / np.float32(result - 1) if result > 1 else np.float32(0)
        source = index * step
    else:
        half = np.float32(0.5)
        source = np.maximum((index + half) * _ratio(size, result, scale) - half, np.float32(0))
    first = np.minimum(source.astype(np.int64), size - 1)
    second = np.minimum(first + 1, size - 1)
    weight = np.clip(source - first.astype(np.float32), np.float32(0), np.float32(1))
    return first, second, np.float32(1) - weight, weight


def _bilinear(x: Array, rows: _Linear, columns: _Linear) -> Array:
    top, bottom, top_weight, bottom_weight = rows
    left, right, left_weight, right_weight = columns
    pixels = _nhwc(x)
    y: Array | None = None
    for row, row_weight in ((top, top_weight), (bottom, bottom_weight)):
        for column, column_weight in ((left, left_weight), (right, right_weight)):
            weight = row_weight[:, None, None] * column_weight[:, None]
            part = pixels[:, row[:, None], column]
            part *= weight
            y = part if y is None else np.add(y, part, out=y)
    assert y is not None
    return _nchw(y)


@dataclass(frozen=True)
class MaxPool(Node):
    """The largest value of every window; the padding counts as minus infinity."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    ceil_mode: bool = False
    op: ClassVar[str] = "max_pool"

    def shape(self, shapes: Sequence[Shape], programs: Programs) -> Shape:
        (x,) = shapes
        _check(len(x) == 4 and x[2] >= 1 <= x[3], f"{self.op} takes images, got {x}")
        return (*x[:2], self._size(x[2], 0), self._size(x[3], 1))

    def _size(self, size: int, axis: int) -> int:
        kernel, stride, pad = self.kernel[axis], self.stride[axis], self.padding[axis]
        fits = 1 <= kernel <= _MAX_POOL and 1 <= stride <= _MAX_SIZE and 0 <= pad <= kernel // 2
        room = size + 2 * pad - kernel
        _check(fits and room >= 0, f"{self.op} has {self} for a size of {size}")
        result = room // stride + 1
        # the last window must begin inside the image or its left padding
        more = self.ceil_mode and room % stride and result * stride < size + pad
        return result + bool(more)

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        (x,) = values
        height, width = self.shape([x.shape], programs)[2:]
        y: Array | None = None
        padded = self._padded(_nhwc(x), height, width, -np.inf)
        for tap in self._taps(padded, height, width):
            y = tap.copy() if y is None else np.maximum(y, tap, out=y)
        assert y is not None
        return _nchw(y)

    def _padded(self, pixels: Array, height: int, width: int, value: float) -> Array:
        sides = []
        for axis, result in ((0, height), (1, width)):
            end = (result - 1) * self.stride[axis] + self.kernel[axis]
            pad = self.padding[axis]
            sides.append((pad, max(end - pad - pixels.shape[1 + axis], 0)))
        return np.pad(pixels, ((0, 0), *sides, (0, 0)), constant_values=value)

    def _taps(self, padded: Array, height: int, width: int) -> Any:
        for u in range(self.kernel[0]):
            for v in range(self.kernel[1]):
                rows = slice(u, u + (height - 1) * self.stride[0] + 1, self.stride[0])
                columns = slice(v, v + (width - 1) * self.stride[1] + 1, self.stride[1])
                yield padded[:, rows, columns]


@dataclass(frozen=True)
class AvgPool(MaxPool):
    """The mean of every window; the padding counts as zeros, or does not count."""

    count_include_pad: bool = True
    op: ClassVar[str] = "avg_pool"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(not self.ceil_mode, "avg_pool has no ceil_mode")

    def run(self, values: Sequence[Array], programs: Programs) -> Array:
        (x,) = values
        height, width = self.shape([x.shape], programs)[2:]
        pixels = _nhwc(x)
        total = self._sum(pixels, height, width)
        if self.count_include_pad:
            total /= np.float32(self.kernel[0] * self.kernel[1])
        else:
            total /= self._sum(np.ones((1, *pixels.shape[1:3], 1), np.float32), height, width)
        return _nchw(total)

    def _sum(self, pixels: Array, height: int, width: int) -> Array:
        y: Array | None = None
        for tap in self._taps(self._padded(pixels, height, width, 0.0), height, width):
            y = tap.copy() if y is None else np.add(y, tap, out=y)
        assert y is not None
        return y


def _nhwc(x: Array) -> Array:
    return x.transpose(0, 2, 3, 1)


def _nchw(x: Array) -> Array:
    return x.transpose(0, 3, 1, 2)


#: By the `op` of a node in the file.
NODES: dict[str, type[Node]] = {
    node.op: node
    for node in (
        Run,
        Add,
        Mul,
        Concat,
        Slice,
        Permute,
        Reshape,
        Activation,
        Resize,
        MaxPool,
        AvgPool,
    )
}


def make_node(op: str, **fields: Any) -> Node:
    """A node from JSON types. Raises ValueError for what it does not have."""
    node: Node = decode(NODES[op], fields, op)
    return node
