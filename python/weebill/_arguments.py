"""Window arguments as people write them, brought to the one form that the ops take."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import TypeAlias

#: An int for both axes, or (h, w).
Size: TypeAlias = int | Sequence[int]
#: As `Size`, or (top, left, bottom, right), or "same".
Padding: TypeAlias = int | Sequence[int] | str


def _integers(op: str, argument: str, value: Size) -> list[int]:
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    try:
        return [index(v) for v in values]
    except TypeError:
        raise TypeError(f"{op}: {argument} must be an integer or several, got {value!r}") from None


def pair(op: str, argument: str, value: Size) -> list[int]:
    """[h, w]."""
    if type(value) is int:
        return [value, value]
    values = _integers(op, argument, value)
    if len(values) == 1:
        return values * 2
    if len(values) != 2:
        raise ValueError(f"{op}: {argument} must be an int or (h, w), got {value!r}")
    return values


def sides(op: str, padding: Padding) -> list[int]:
    """[top, left, bottom, right], or [-1] for SAME: as the ops take it."""
    if isinstance(padding, str):
        if padding != "same":
            raise ValueError(f"{op}: padding must be integers or 'same', got {padding!r}")
        return [-1]
    if type(padding) is int:
        return [padding] * 4
    values = _integers(op, "padding", padding)
    if len(values) == 1:
        return values * 4
    if len(values) == 2:
        return values * 2
    if len(values) != 4:
        raise ValueError(
            f"{op}: padding must be an int, (h, w), (top, left, bottom, right) or 'same', "
            f"got {padding!r}"
        )
    return values
