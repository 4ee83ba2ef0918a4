"""What one fused operator is made of: plain data, no tensors.

A `BlockSpec` names the modules of an owner whose weights make one packed record. Names are relative
to the owner, so that a spec survives copies, pickles and `state_dict` round trips of its owner, and
can be written to a file beside the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

Padding: TypeAlias = tuple[int, int, int, int] | Literal["same"]


def joined(path: str, name: str) -> str:
    """The path of what is called `name` in the module at `path`; "" is the owner itself."""
    return f"{path}.{name}" if path else name


@dataclass(frozen=True)
class Window:
    """How a convolution slides: (height, width) pairs; padding is (top, left, bottom, right)."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Norm:
    """The BatchNorm module at `path`, of which channel `first` is the layer's first one."""

    path: str
    first: int = 0


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, the BatchNorms folded into it and the activation after them.

    Attributes:
        path: The module that holds `weight` and `bias`; linear weights count as 1 x 1.
        in_channels, out_channels, groups, window: Its geometry.
        norms: BatchNorms, in the order in which they are applied.
        activation: A name of `_C.activation_names()`.
    """

    path: str
    in_channels: int
    out_channels: int
    groups: int = 1
    window: Window = Window()
    norms: tuple[Norm, ...] = ()
    activation: str = "none"

    @property
    def depthwise(self) -> bool:
        """One filter per channel."""
        return self.groups == self.in_channels == self.out_channels and self.groups > 1

    @property
    def pointwise(self) -> bool:
        """1 x 1, stride 1, no padding, one group: a matrix product on pixels."""
        return self.groups == 1 and self.one_by_one

    @property
    def one_by_one(self) -> bool:
        """1 x 1, stride 1, no padding, in any number of groups."""
        window = self.window
        return (
            window.kernel == (1, 1)
            and window.stride == (1, 1)
            and window.padding in ("same", (0, 0, 0, 0))
        )


@dataclass(frozen=True)
class Sum(Layer):
    """A layer and others on the same input, added before the activation: one filter, once folded.

    Attributes:
        beside: The others. Their windows lie within this one's, seen from the output. One without
            a path is the identity; it has its BatchNorms.
    """

    beside: tuple[Layer, ...] = ()

    def offset(self, other: Layer) -> tuple[int, int]:
        """Where the other's filter lies in this one's."""
        mine, others = self.window.padding, other.window.padding
        assert not isinstance(mine, str)
        assert not isinstance(others, str)
        return mine[0] - others[0], mine[1] - others[1]


@dataclass(frozen=True)
class Squeeze:
    """x * expand(reduce(mean(x))), each with its activation; the second one's is the gate."""

    reduce: Layer
    expand: Layer


@dataclass(frozen=True)
class BlockSpec:
    """One record.

    Attributes:
        kind: "conv2d" (`layer`), "separable" (`expand`, `depthwise`, `squeeze`, `project`),
            "squeeze_excite" (`squeeze`), "global_avg_pool2d" (`channels`), "max_pool2d" (`channels`
            and `window`), "channel_shuffle" (`channels`, `groups`), "shuffle_unit" (`branch`,
            `shortcut`: separable blocks) or "shuffle_unit_v1" (`expand`, `depthwise`, `project`,
            `groups` of the shuffle, `concat`, `activation`).
        residual: The block's input is added to its output ("separable" and "shuffle_unit_v1").
        concat: The average pool of the block's input comes before its output ("shuffle_unit_v1").
        activation: Of the whole output ("shuffle_unit_v1").
    """

    kind: Literal[
        "conv2d",
        "separable",
        "squeeze_excite",
        "global_avg_pool2d",
        "max_pool2d",
        "channel_shuffle",
        "shuffle_unit",
        "shuffle_unit_v1",
    ]
    layer: Layer | None = None
    expand: Layer | None = None
    depthwise: Layer | None = None
    squeeze: Squeeze | None = None
    project: Layer | None = None
    residual: bool = False
    channels: int = 0
    window: Window | None = None
    groups: int = 1
    branch: BlockSpec | None = None
    shortcut: BlockSpec | None = None
    concat: bool = False
    activation: str = "none"

    def check(self) -> None:
        """Raises ValueError unless the block has exactly the parts of its kind."""
        parts = {
            name
            for name in (
                *("layer", "expand", "depthwise", "squeeze", "project"),
                *("window", "branch", "shortcut"),
            )
            if getattr(self, name) is not None
        }
        needed, allowed = _PARTS[self.kind]
        if not needed <= parts <= allowed:
            raise ValueError(
                f"a block of kind {self.kind} must have {', '.join(sorted(needed)) or 'no part'}"
                f", got {', '.join(sorted(parts)) or 'none'}"
            )
        unit_v1 = self.kind == "shuffle_unit_v1"
        if self.residual and self.kind != "separable" and not unit_v1:
            raise ValueError(f"a block of kind {self.kind} must not have a residual")
        if (self.concat or self.activation != "none") and not unit_v1:
            raise ValueError(f"a block of kind {self.kind} must not have concat or activation")
        if self.concat and self.residual:
            raise ValueError("a block must not have both a residual and concat")
        if unit_v1:
            self._check_unit_v1()
        for part in (self.branch, self.shortcut):
            if part is not None:
                if part.kind != "separable":
                    raise ValueError(f"a branch of a unit must be separable, got {part.kind}")
                part.check()

    def _check_unit_v1(self) -> None:
        assert self.expand is not None
        assert self.depthwise is not None
        assert self.project is not None
        if not self.expand.one_by_one or not self.project.one_by_one:
            raise ValueError("expand and project of a unit must be 1 x 1")
        if self.project.activation != "none":
            raise ValueError(
                f"project of a unit must have no activation, got {self.project.activation}"
            )

    def layers(self) -> tuple[Layer, ...]:
        """All layers, in the order in which they run."""
        squeeze = (self.squeeze.reduce, self.squeeze.expand) if self.squeeze else ()
        inner = [part.layers() for part in (self.branch, self.shortcut) if part is not None]
        found = (self.layer, self.expand, self.depthwise, *squeeze, self.project, *sum(inner, ()))
        return tuple(layer for layer in found if layer is not None)

    def map_layers(self, function: Callable[[Layer], Layer]) -> BlockSpec:
        """The block with other layers in the places of its own."""

        def mapped(layer: Layer | None) -> Layer | None:
            return None if layer is None else function(layer)

        squeeze = self.squeeze
        if squeeze is not None:
            squeeze = Squeeze(function(squeeze.reduce), function(squeeze.expand))
        return replace(
            self,
            layer=mapped(self.layer),
            expand=mapped(self.expand),
            depthwise=mapped(self.depthwise),
            squeeze=squeeze,
            project=mapped(self.project),
            branch=None if self.branch is None else self.branch.map_layers(function),
            shortcut=None if self.shortcut is None else self.shortcut.map_layers(function),
        )

    def describe(self) -> str:
        """A few words for people: "inverted residual 24-72-40, 5x5, stride 2, SE, relu"."""
        if self.kind == "global_avg_pool2d":
            return f"global average pool {self.channels}"
        if self.kind == "max_pool2d":
            assert self.window is not None
            return f"max pool {self.channels}, {self.window.kernel[0]}x{self.window.kernel[1]}"
        if self.kind == "channel_shuffle":
            return f"channel shuffle {self.channels}, {self.groups} groups"
        if self.kind == "shuffle_unit":
            assert self.branch is not None
            name = "shuffle unit" if self.shortcut is None else "down-sampling shuffle unit"
            return self.branch.describe().replace("inverted residual", name)
        if self.kind == "squeeze_excite":
            assert self.squeeze is not None
            return _words("squeeze-excite", _widths(self.squeeze.reduce, self.squeeze.expand))
        if self.kind == "conv2d":
            assert self.layer is not None
            return _words(_layer_name(self.layer), _widths(self.layer), *_details(self.layer))
        assert self.depthwise is not None
        if self.kind == "shuffle_unit_v1":
            return _words(
                "shuffle unit v1",
                _widths(self.expand, self.depthwise, self.project),
                *_details(self.depthwise),
                f"{self.groups} groups",
                "residual" if self.residual else "concat" if self.concat else "",
                self.activation if self.activation != "none" else "",
            )
        name = "depthwise-pointwise" if self.project else "depthwise"
        if self.expand:
            name = "inverted residual" if self.project else "pointwise-depthwise"
        return _words(
            name,
            _widths(self.expand, self.depthwise, self.project),
            *_details(self.depthwise),
            "SE" if self.squeeze else "",
            "residual" if self.residual else "",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, tuples and strings, for JSON."""
        return asdict(self)


#: By kind: the parts that a block must have, and may have.
_PARTS: dict[str, tuple[set[str], set[str]]] = {
    "conv2d": ({"layer"}, {"layer"}),
    "separable": ({"depthwise"}, {"expand", "depthwise", "squeeze", "project"}),
    "squeeze_excite": ({"squeeze"}, {"squeeze"}),
    "global_avg_pool2d": (set(), set()),
    "max_pool2d": ({"window"}, {"window"}),
    "channel_shuffle": (set(), set()),
    "shuffle_unit": ({"branch"}, {"branch", "shortcut"}),
    "shuffle_unit_v1": ({"expand", "depthwise", "project"}, {"expand", "depthwise", "project"}),
}


def _layer_name(layer: Layer) -> str:
    if layer.depthwise:
        return "depthwise"
    return "pointwise" if layer.pointwise else "convolution"


def _widths(*layers: Layer | None) -> str:
    present = [layer for layer in layers if layer is not None]
    widths = [present[0].in_channels, *(layer.out_channels for layer in present)]
    if len(present) > 1 and any(layer.depthwise for layer in present):
        # the depthwise part keeps the width; naming it twice says nothing
        index = next(i for i, layer in enumerate(present) if layer.depthwise)
        del widths[index + 1]
    return "-".join(str(width) for width in widths)


def _details(layer: Layer) -> tuple[str, ...]:
    window = layer.window
    words = []
    if window.kernel != (1, 1):
        words.append(f"{window.kernel[0]}x{window.kernel[1]}")
    for name, pair in (("stride", window.stride), ("dilation", window.dilation)):
        if pair != (1, 1):
            words.append(f"{name} {pair[0]}" + (f"x{pair[1]}" if pair[0] != pair[1] else ""))
    if layer.groups > 1 and not layer.depthwise:
        words.append(f"{layer.groups} groups")
    if layer.activation != "none":
        words.append(layer.activation)
    return tuple(words)


def _words(name: str, widths: str, *details: str) -> str:
    return ", ".join([f"{name} {widths}", *(word for word in details if word)])
