"""A saved network: the object that runs it, and reading and writing its file."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from weebill import _C
from weebill.fusion.pack import Folded, pack_all
from weebill.fusion.spec import Layer
from weebill.runtime._container import Container, write
from weebill.runtime._decode import parse_json
from weebill.runtime._memory import MAX_HELD, MAX_INPUT, Inside, elements, most_held
from weebill.runtime.description import Description
from weebill.runtime.nodes import MAX_ELEMENTS, Array, Programs, Run, Shape

if TYPE_CHECKING:
    import PIL.Image

#: Where the description is in the file's metadata.
KEY = "weebill"

#: What the loads of packed weights are fastest at; they must begin at a multiple of 16.
_ALIGNMENT = 64

#: Shapes that a network remembers to have checked.
_MAX_ADMITTED = 1 << 10

#: What a network's blocks may be computed in.
Precision: TypeAlias = Literal["float32", "float16", "auto"]


class Model:
    """A network from a file, on numpy arrays: `model(x)`. `load` makes one.

    Any number of threads may call it at the same time.

    Attributes:
        input_shape: What it was saved for. The channels are fixed; other numbers of images, heights
            and widths may be given if the network takes them.
        categories: Names of the classes, or None.
        preprocessing: How a photo becomes an input, or None.
        version: Of the weebill that wrote the file.
        precision: What its blocks are computed in: "float32" or "float16".
    """

    def __init__(self, description: Description, programs: Programs) -> None:
        self._description = description
        self._programs = programs
        half = any(_C.is_float16(program) for program in programs)
        self.precision: Literal["float32", "float16"] = "float16" if half else "float32"
        self.input_shape = description.input_shape
        self.categories = description.categories
        self.preprocessing = description.preprocessing
        self.version = description.weebill
        self._inside = [
            Inside(blocks, _C.geometry(program))
            for blocks, program in zip(description.programs, programs, strict=True)
        ]
        #: Shapes of inputs that fit, in memory too.
        self._admitted: set[Shape] = set()
        #: Values that are not needed any more after each node, so that their memory can be reused.
        self._dropped = _last_uses(description)
        #: The same of their memory.
        self._freed = _last_uses(description, views=True)
        self._plain = (
            len(description.nodes) == 1
            and description.structure == "array"
            and description.outputs[0].value == 1
        )
        #: Records that are all of the network, image to image.
        self._records: NDArray[np.uint8] | None = None
        node = description.nodes[0] if self._plain else None
        if isinstance(node, Run) and not node.flatten and len(self.input_shape) == 4:
            self._records = programs[node.program]

    def __call__(self, x: Array) -> Any:
        """The network's output for x.

        Args:
            x: As `input_shape`, float32. Memory order N, H, W, C is used as it is.

        Returns:
            An array, or a tuple or dict of arrays, as the network returned tensors when it was
            saved. Images are (N, C, H, W) with the memory order N, H, W, C.

        Raises:
            TypeError: x is no float32 array.
            ValueError: x has a shape that the network does not take, or for which it asks for
                unreasonable memory.
            NotImplementedError: `precision` is float16, and the instruction set in use, no longer
                that of `load`, does not compute in it.
        """
        if self._records is not None:
            # The core looks at x too, and small blocks take little longer than looking twice.
            try:
                if x.shape not in self._admitted:
                    self._check_input(x)
                    self._admit(x.shape)
                return _C.run(x, self._records)
            except (AttributeError, TypeError, ValueError):
                self._check_input(x)
                raise
        self._check_input(x)
        if x.shape not in self._admitted:
            self._admit(x.shape)  # refuses what does not fit before anything is computed
        if self._plain:
            return self._description.nodes[0].run([x], self._programs)
        values: list[Array | None] = [x]
        for node, dropped in zip(self._description.nodes, self._dropped, strict=True):
            inputs = [values[index] for index in node.inputs]
            values.append(node.run(inputs, self._programs))  # type: ignore[arg-type]
            for index in dropped:
                values[index] = None
        return self._result([values[output.value] for output in self._description.outputs])

    def output_shapes(self, shape: Sequence[int] | None = None) -> Any:
        """Shapes of what a call on this input shape returns, in the structure of the result.

        Raises:
            TypeError: `shape` does not hold integers.
            ValueError: The network does not take such an input, or a call would ask for
                unreasonable memory.
        """
        wanted = self.input_shape
        if shape is not None:
            try:
                wanted = tuple(map(operator.index, shape))
            except TypeError:
                raise TypeError(
                    f"output_shapes: shape must be a sequence of integers, got {shape!r}"
                ) from None
            self._check_shape("output_shapes: shape", wanted)
        shapes = self._shapes(wanted, most_held(wanted))
        return self._result([shapes[output.value] for output in self._description.outputs])

    def preprocess(self, image: PIL.Image.Image | NDArray[Any]) -> Array:
        """A photo as an input (1, C, H, W), as the network was trained.

        Args:
            image: A Pillow image, or pixels (H, W, 3) in uint8; see `weebill.data.read_image`.

        Raises:
            ValueError: The file tells no preprocessing.
            ModuleNotFoundError: Pillow is not installed.
        """
        if self.preprocessing is None:
            raise ValueError("preprocess: the model's file must tell how; weebill.save(..., ...)")
        return self.preprocessing.numpy(image)[None]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._programs = [_at_its_alignment(program) for program in self._programs]
        if self._records is not None:
            self._records = self._programs[cast(Run, self._description.nodes[0]).program]

    def __repr__(self) -> str:
        blocks = sum(len(blocks) for blocks in self._description.programs)
        size = " x ".join(map(str, self.input_shape))
        return f"<weebill.runtime.Model: {blocks} blocks, input {size}>"

    def _check_input(self, x: object) -> None:
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            found = f"{x.dtype} array" if isinstance(x, np.ndarray) else type(x).__name__
            raise TypeError(f"model: x must be a float32 array, got {found}")
        self._check_shape("model: x", x.shape)

    def _check_shape(self, what: str, shape: Shape) -> None:
        wanted = self.input_shape
        if len(shape) != len(wanted) or shape[1] != wanted[1] or min(shape) < 0:
            axes = ("N", str(wanted[1]), "H", "W")[: len(wanted)]
            raise ValueError(f"{what} must be ({', '.join(axes)}), got {shape}")
        if elements(shape) > MAX_INPUT:
            raise ValueError(f"{what} must have at most 2^40 elements, got {shape}")

    def _admit(self, shape: Shape) -> None:
        self._shapes(shape, most_held(shape))
        if len(self._admitted) >= _MAX_ADMITTED:
            self._admitted.clear()
        self._admitted.add(shape)

    def _shapes(self, shape: Shape, held: int, largest: int | None = None) -> list[Shape]:
        """Of the input and of what every node gives.

        Raises:
            ValueError: A node does not take its inputs; more than `held` elements would be held at
                a time; or a value would have more than `largest`.
        """
        shapes, now = [shape], elements(shape)
        for node, freed in zip(self._description.nodes, self._freed, strict=True):
            inputs = [shapes[index] for index in node.inputs]
            found = node.shape(inputs, self._programs)
            size = elements(found)
            fits = largest is None or size <= largest
            _check(fits, f"a value must not be as large as {found}")
            inside = self._inside[node.program].elements(inputs[0]) if isinstance(node, Run) else 0
            now += size
            _check(
                now + inside <= held,
                f"model: x must give values of at most {held} elements at a time, got "
                f"{now + inside} for the shape {shape}",
            )
            shapes.append(found)
            now -= sum(elements(shapes[index]) for index in freed)
        return shapes

    def check(self) -> None:
        """Raises ValueError unless the network runs on `input_shape` in reasonable memory."""
        shape = self.input_shape
        _check(min(shape) >= 1, f"input_shape must be positive, got {shape}")
        fits = elements(shape) <= MAX_ELEMENTS
        _check(fits, f"a value must not be as large as {shape}")
        self._shapes(shape, MAX_HELD, MAX_ELEMENTS)

    def _result(self, found: list[Any]) -> Any:
        structure = self._description.structure
        if structure == "array":
            return found[0]
        if structure == "tuple":
            return tuple(found)
        names = [output.name for output in self._description.outputs]
        return dict(zip(names, found, strict=True))


def _at_its_alignment(records: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Records where the core takes them: the buffers of a pickle may lie anywhere."""
    if records.ctypes.data % _ALIGNMENT == 0:
        return records
    memory = np.empty(len(records) + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    memory[start : start + len(records)] = records
    return memory[start : start + len(records)]


def _last_uses(description: Description, views: bool = False) -> list[list[int]]:
    """Values that are not needed any more after each node; with `views`, by views of them too."""
    last: dict[int, int] = {}
    for index, node in enumerate(description.nodes):
        last.update(dict.fromkeys(node.inputs, index))
    for output in description.outputs:
        last[output.value] = len(description.nodes)
    if views:
        for index, node in reversed(list(enumerate(description.nodes))):
            if node.gives_view:
                base = node.inputs[0]
                last[base] = max(last[base], last.get(index + 1, index))
    dropped: list[list[int]] = [[] for _ in range(len(description.nodes) + 1)]
    for value, index in last.items():
        dropped[index].append(value)
    return dropped[:-1]


def load(path: str | os.PathLike[str], *, precision: Precision = "float32") -> Model:
    """Reads a network that `weebill.save` has written.

    The file holds plain weights; they are packed for the kernels here. It is checked as a whole
    before it is used: a damaged or hostile one is refused, and can't ask for more memory than a
    small multiple of its size.

    Args:
        path: A `.weebill` file.
        precision: What the network's blocks are computed in, whatever type the file's weights have.
            "float16": weights, activations and arithmetic are of half precision, eight numbers to a
            vector where float32 has four; sums over pixels are of float32. Inputs are rounded, and
            outputs returned as float32. It needs a processor with float16 arithmetic (ARMv8.2's
            asimdhp: Cortex-A55, A76 and later), or the instruction set "scalar", which gives the
            same numbers slowly. "auto": float16 on such a processor, float32 on others and with
            "scalar"; `Model.precision` tells which.

    Returns:
        The network; call it on a float32 array.

    Raises:
        NotImplementedError: float16 with an instruction set that does not compute in it.
        FileNotFoundError, PermissionError, IsADirectoryError: There is no readable file.
        ValueError: It is no intact weebill file, or of a later format; no such precision; in
            float16, a weight of more than 65504.

    Example:
        >>> model = load("mobilenet_v3_large.weebill")  # doctest: +SKIP
        >>> scores = model(np.zeros((1, 3, 224, 224), np.float32))  # doctest: +SKIP
    """
    half = _computes_in_half(precision)
    with open(path, "rb", buffering=0) as file:
        try:
            return _read(file, half)
        except ValueError as error:
            raise ValueError(
                f"load: path must be an intact weebill file, got '{os.fspath(path)}': {error}"
            ) from None


def _computes_in_half(precision: Precision) -> bool:
    if precision not in get_args(Precision):
        known = ", ".join(map(repr, get_args(Precision)))
        raise ValueError(f"load: precision must be one of {known}, got {precision!r}")
    if precision == "auto":
        return _C.has_float16() and _C.isa() != "scalar"
    if precision == "float16" and not _C.has_float16():
        raise NotImplementedError(
            f"load: precision must be 'float32' with the instruction set {_C.isa()!r} of this "
            "processor, which has no float16 arithmetic (ARMv8.2's asimdhp), got 'float16'; 'auto' "
            "takes what there is"
        )
    return precision == "float16"


def _read(file: BinaryIO, half: bool) -> Model:
    container = Container(file)
    if KEY not in container.metadata:
        raise ValueError("it has no description of a network; weebill.save writes one")
    description = Description.from_json(parse_json(container.metadata[KEY], "its description"))
    _check_tensors(description, container)
    return make_model(description, _file_weights(description, container), half)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_tensors(description: Description, container: Container) -> None:
    """Raises ValueError unless the file has the layers' tensors and no others."""
    left = dict(container.entries)
    for layer in description.layers():
        window = layer.window.kernel
        _check(layer.groups >= 1, f"{layer.path}: groups must be positive, got {layer.groups}")
        shape = (layer.out_channels, layer.in_channels // layer.groups, *window)
        name = f"{layer.path}.weight"
        if name not in left:
            raise ValueError(f"it lacks the tensor {name[:60]!r}")
        found = left.pop(name).shape
        _check(found == shape, f"{name[:60]!r} must have shape {shape}, got {found}")
        bias = left.pop(f"{layer.path}.bias", None)
        fits = bias is None or bias.shape == (layer.out_channels,)
        _check(fits, f"the bias of {layer.path[:60]!r} must have {layer.out_channels} elements")
        _check(not layer.norms, f"{layer.path[:60]!r} must have its BatchNorms folded in")
    if left:
        raise ValueError(f"it has a tensor that belongs to nothing: {min(left)[:60]!r}")


def _file_weights(description: Description, container: Container) -> Callable[[Layer], Folded]:
    """Reads weights, those of a block at a time in one buffer that all blocks share."""

    def elements(layer: Layer) -> int:
        names = (f"{layer.path}.weight", f"{layer.path}.bias")
        entries = [container.entries[name] for name in names if name in container.entries]
        return sum(math.prod(entry.shape) for entry in entries)

    first_layers = {}
    largest = 0
    for blocks in description.programs:
        for block in blocks:
            layers = block.layers()
            largest = max(largest, sum(map(elements, layers)))
            first_layers.update({layer.path: layer is layers[0] for layer in layers})
    buffer = np.empty(largest, np.float32)
    used = 0

    def weights(layer: Layer) -> Folded:
        nonlocal used
        used = 0 if first_layers[layer.path] else used
        weight = container.read(f"{layer.path}.weight", buffer[used:])
        used += weight.size
        if f"{layer.path}.bias" not in container.entries:
            return Folded(weight, None)
        bias = container.read(f"{layer.path}.bias", buffer[used:])
        used += bias.size
        return Folded(weight, bias)

    return weights


def make_model(
    description: Description, weights: Callable[[Layer], Folded], half: bool = False
) -> Model:
    """The network with its weights packed, `half`: rounded to float16 and computed in it; `weights`
    is called for every layer, in order.

    Raises:
        ValueError: The parts do not fit each other.
    """
    programs = [pack_all(blocks, weights)[0] for blocks in description.programs]
    if half:
        programs = [_C.to_float16(program) for program in programs]
    model = Model(description, programs)
    model.check()
    return model


def save(
    path: str | os.PathLike[str],
    description: Description,
    tensors: Mapping[str, NDArray[np.floating[Any]]],
) -> None:
    """Writes what `load` reads; `weebill.save` makes the two arguments from a torch model.

    Raises:
        ValueError: The description is not valid or too large.
        OSError: The file can't be written.
    """
    description.check()
    text = json.dumps(description.to_json(), separators=(",", ":"), allow_nan=False)
    write(path, {KEY: text, "format": "weebill"}, tensors)
