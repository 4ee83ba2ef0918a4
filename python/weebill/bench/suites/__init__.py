"""Block shapes of networks, in files that `weebill bench` and the C++ micro-benchmark share.

A file of `networks/` is a whole network, its lines run one after another, each `count` times. A
file of `blocks/` is a list of blocks that stand for themselves. Sizes in the files are those at the
network's usual image size; `resize` computes others.

    kind        what it is
    conv2d      activation(convolution + bias); a linear layer where the image is 1 x 1
    depthwise   the same, channel by channel
    separable   [expansion,] depthwise, [squeeze-and-excitation,] projection [+ input]
    shuffle_unit  ShuffleNetV2's unit; c_mid is the width of a branch
    squeeze_excite  input * gate
    pool        global average
    max_pool    maximum over a window

`c_mid` is the width of the depthwise part, `c_se` that of the squeeze (0: there is none), `expand`
whether there is an expansion, `project` the projection's activation.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources

__all__ = [
    "BLOCK_SUITES",
    "NETWORKS",
    "Block",
    "Suite",
    "load_suite",
    "operators",
    "resize",
    "suite_names",
    "unrolled",
]

KINDS = (
    "conv2d",
    "depthwise",
    "separable",
    "shuffle_unit",
    "squeeze_excite",
    "pool",
    "max_pool",
)


@dataclass(frozen=True)
class Block:
    """One line of a suite; the fields are its columns."""

    kind: str
    name: str
    c_in: int
    h: int
    w: int
    c_mid: int
    c_out: int
    k: int
    s: int
    pad: int
    expand: int
    c_se: int
    activation: str
    project: str
    residual: int
    count: int = 1

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        if self.kind == "pool":
            return 1, 1
        extra = 2 * self.pad - self.k
        return (self.h + extra) // self.s + 1, (self.w + extra) // self.s + 1

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and linear layers on one image."""
        pixels, (oh, ow) = self.h * self.w, self.out_size
        out, taps = oh * ow, self.k * self.k
        if self.kind == "conv2d":
            return out * taps * self.c_in * self.c_out
        if self.kind == "depthwise":
            return out * taps * self.c_out
        if self.kind == "separable":
            expansion = pixels * self.c_in * self.c_mid if self.expand else 0
            squeeze = 2 * self.c_se * self.c_mid
            return expansion + out * self.c_mid * taps + squeeze + out * self.c_mid * self.c_out
        if self.kind == "squeeze_excite":
            return 2 * self.c_se * self.c_in
        if self.kind == "shuffle_unit":
            return sum(op.macs for op in operators(self))
        return 0

    @property
    def weights(self) -> int:
        """Numbers of the weights and biases, BatchNorm folded."""
        if self.kind in ("separable", "shuffle_unit"):
            return sum(op.weights for op in operators(self))
        if self.kind == "conv2d":
            return self.k * self.k * self.c_in * self.c_out + self.c_out
        if self.kind == "depthwise":
            return self.k * self.k * self.c_out + self.c_out
        if self.kind == "squeeze_excite":
            return 2 * self.c_se * self.c_in + self.c_se + self.c_in
        return 0


@dataclass(frozen=True)
class Suite:
    """A file of blocks.

    Attributes:
        name: Of the file, without its ending.
        title: Its first comment.
        network: Whether the blocks make up a network.
        top1: Published ImageNet top-1 of the network, per cent, if there is one.
        top1_source: Where it was published.
        blocks: Its lines.
    """

    name: str
    title: str
    network: bool
    top1: float | None
    top1_source: str
    blocks: tuple[Block, ...]


def _names(folder: str) -> tuple[str, ...]:
    files = resources.files(__name__).joinpath(folder).iterdir()
    return tuple(sorted(f.name[:-4] for f in files if f.name.endswith(".txt")))


NETWORKS = _names("networks")
BLOCK_SUITES = _names("blocks")


def suite_names() -> tuple[str, ...]:
    """All suites, the networks first."""
    return NETWORKS + BLOCK_SUITES


def parse_suite(name: str, text: str, *, network: bool) -> Suite:
    """A suite from the text of its file.

    Raises:
        ValueError: A line that is not understood, with its number.
    """
    comments: list[str] = []
    blocks: list[Block] = []
    top1, source = None, ""
    columns = fields(Block)
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            if found := re.match(r"# top-1: ([\d.]+) \((.*)\)", line):
                top1, source = float(found[1]), found[2]
            elif not line.startswith("# kind"):
                comments.append(line[2:])
            continue
        words = line.split()
        if not words:
            continue
        try:
            values = [
                word if column.type == "str" else int(word)
                for word, column in zip(words, columns, strict=True)
            ]
        except ValueError as error:
            raise ValueError(f"suite {name}, line {number}: {error}") from None
        if words[0] not in KINDS:
            raise ValueError(
                f"suite {name}, line {number}: kind must be one of {', '.join(KINDS)}, "
                f"got {words[0]!r}"
            )
        blocks.append(Block(*values))  # type: ignore[arg-type]
    return Suite(name, " ".join(comments), network, top1, source, tuple(blocks))


@functools.cache
def load_suite(name: str) -> Suite:
    """The suite of this name.

    Raises:
        ValueError: There is none.
    """
    for folder, names in (("networks", NETWORKS), ("blocks", BLOCK_SUITES)):
        if name in names:
            path = resources.files(__name__).joinpath(folder, f"{name}.txt")
            return parse_suite(name, path.read_text(), network=folder == "networks")
    raise ValueError(f"suite must be one of {', '.join(suite_names())}, got {name!r}")


def unrolled(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """Every block as often as its count says."""
    return tuple(replace(block, count=1) for block in blocks for _ in range(block.count))


def resize(blocks: Sequence[Block], height: int, width: int) -> tuple[Block, ...]:
    """A network's blocks for another image size."""
    sized: list[Block] = []
    h, w = height, width
    for block in blocks:
        for _ in range(block.count):
            sized.append(replace(block, h=h, w=w, count=1))
            h, w = sized[-1].out_size
    return tuple(sized)


def operators(block: Block) -> tuple[Block, ...]:
    """The single operators that a block is made of, in the order in which they run.

    Residual additions, the split and the shuffle are no operators of their own.
    """

    def conv(h: int, w: int, c_in: int, c_out: int, activation: str) -> Block:
        return _operator("conv2d", c_in, h, w, c_out, activation)

    def depthwise(c: int, activation: str) -> Block:
        return _operator("depthwise", c, block.h, block.w, c, activation, block)

    oh, ow = block.out_size
    if block.kind == "separable":
        ops = []
        if block.expand:
            ops.append(conv(block.h, block.w, block.c_in, block.c_mid, block.activation))
        ops.append(depthwise(block.c_mid, block.activation))
        if block.c_se:
            gate = _operator("squeeze_excite", block.c_mid, oh, ow, block.c_mid, "none")
            ops.append(replace(gate, c_se=block.c_se, name=f"{gate.name}_{block.c_se}"))
        ops.append(conv(oh, ow, block.c_mid, block.c_out, block.project))
        return tuple(ops)
    if block.kind == "shuffle_unit":
        c_in = block.c_in if block.s > 1 else block.c_in // 2
        c_out = block.c_out // 2
        ops = [
            conv(block.h, block.w, c_in, block.c_mid, block.activation),
            depthwise(block.c_mid, "none"),
            conv(oh, ow, block.c_mid, c_out, block.project),
        ]
        if block.s > 1:
            side = [depthwise(c_in, "none"), conv(oh, ow, c_in, c_out, block.project)]
            return (*side, *ops)
        return tuple(ops)
    return (replace(block, count=1),)


def _operator(
    kind: str, c_in: int, h: int, w: int, c_out: int, activation: str, window: Block | None = None
) -> Block:
    """One operator, named by what it does; 1 x 1 without a `window`."""
    k, s, pad = (window.k, window.s, window.pad) if window else (1, 1, 0)
    kernel = f"k{k}s{s}_" if kind == "depthwise" else ""
    channels = f"{c_in}" if kind != "conv2d" else f"{c_in}-{c_out}"
    tail = "" if activation == "none" else f"_{activation}"
    label = {"conv2d": "pointwise", "squeeze_excite": "se"}.get(kind, kind)
    name = f"{label}_{kernel}{h}x{w}_{channels}{tail}"
    return Block(kind, name, c_in, h, w, 0, c_out, k, s, pad, 0, 0, activation, "none", 0)
