"""How much memory the values of a network take, before any of it is asked for.

A file of some kilobytes can ask for any amount: by padding, by resizing, by values that are
concatenated with themselves. What a call may take is bounded by a constant, or by the size of its
input, which the caller has memory for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from weebill import _geometry
from weebill.fusion.spec import BlockSpec
from weebill.runtime.nodes import MAX_ELEMENTS, Shape

#: Elements of all values that a network holds at a time: 4 GiB.
MAX_HELD = 4 * MAX_ELEMENTS
#: Where the input is so large that this is more: so many for each of its elements. A stem, or
#: logits of many classes in full size, make some ten to a hundred of one.
_PER_ELEMENT = 256
#: Of an input: numbers of bytes and offsets stay far below 2^63.
MAX_INPUT = 1 << 40


def elements(shape: Shape) -> int:
    """Of a value; a size of 0 counts as 1, so that other sizes are bounded too."""
    return math.prod(max(size, 1) for size in shape)


def most_held(shape: Shape) -> int:
    """Elements that a network may hold at a time, for an input of this shape."""
    return max(MAX_HELD, _PER_ELEMENT * elements(shape))


class Inside:
    """What a program holds beside its input and output.

    Two buffers take turns between the blocks; in a block the widest layer has an image's pixels.
    """

    def __init__(self, blocks: Sequence[BlockSpec], geometry: Sequence[int]) -> None:
        self._geometry = geometry
        self._widths = [
            max((layer.out_channels for layer in block.layers()), default=1) for block in blocks
        ]

    def elements(self, x: Shape) -> int:
        """For an input of this shape that the program takes."""
        images, _, height, width = (*x, 1, 1)[:4]
        found = list(_geometry.outputs(self._geometry, height, width))
        between = max((math.prod(shape) for shape in found[:-1]), default=0)
        widest = 0
        area = height * width
        for layer, (_, *size) in zip(self._widths, found, strict=True):
            widest = max(widest, layer * max(area, math.prod(size)))
            area = math.prod(size)
        return 2 * max(images, 1) * between + widest
