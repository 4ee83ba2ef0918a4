"""Sizes of what packed records give, from their geometry (csrc/core/network.cpp). No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

#: Integers of a record: channels, stride (h, w), what a window adds to the size (h, w), mode.
RECORD = 6
#: Modes: how the size of an output follows from that of the input.
_WINDOW, _SAME, _GLOBAL = 0, 1, 2


def outputs(geometry: Sequence[int], height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """(C, H, W) after every record, for an image of a height and width, which may be symbols."""
    for i in range(0, len(geometry), RECORD):
        channels, stride_h, stride_w, extra_h, extra_w, mode = geometry[i : i + RECORD]
        if mode == _WINDOW:
            height = (height + extra_h) // stride_h + 1
            width = (width + extra_w) // stride_w + 1
        elif mode == _SAME:
            height, width = -(-height // stride_h), -(-width // stride_w)
        elif mode == _GLOBAL:
            height = width = 1
        else:
            raise ValueError(f"run: geometry must have modes from 0 to 2, got {mode}")
        yield channels, height, width
