"""Where torch keeps what tells that a tensor has changed: the guard reads it without calling torch.

Found out by trial on tensors made for it, in the torch that runs: which word of which object is
the tensor's storage, its version counter, and so on. Torch's public ways cost 30 ns a tensor and
touch twice the memory, which behind a network's forward is in no cache near: for some hundred
tensors that was 50 us a call. If any trial gives another answer than torch's own, there is no
layout, and the guard asks torch.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

_WORD = 8
#: Bytes that every torch's objects have: of a tensor's C++ object, and of a version counter.
_TENSOR_BYTES = 192
_HEAD_BYTES = 64
_COUNTER_BYTES = 24

_SIZES, _STRIDES, _OFFSET = (2, 3, 5, 7), (211, 101, 31, 13), 17


class Layout(NamedTuple):
    """Offsets in bytes."""

    object_tensor: int  # in the Python object: the C++ tensor
    storage: int  # in the C++ tensor: its storage
    counter: int  # its version counter
    geometry: int  # sizes, strides and the offset into the storage: the first of them
    geometry_end: int
    version: int  # in the version counter: the number, 4 bytes
    data: int  # in the storage: the address of the memory


@functools.cache
def layout() -> Layout | None:
    """That of this torch's tensors; None if it can't be made out."""
    if ctypes.sizeof(ctypes.c_void_p) != _WORD:
        return None
    with torch.inference_mode(False), torch.no_grad():
        return _found()


def _found() -> Layout | None:
    tensors = [nn.Parameter(torch.zeros(1)), torch.zeros(1), torch.zeros(3)]
    first, second, _ = tensors
    head = range(0, _HEAD_BYTES, _WORD)
    objects = _where(
        range(_WORD, type(first).__basicsize__, _WORD),
        lambda at: all(_word(id(tensor) + at) == tensor._cdata for tensor in tensors),
    )
    storages = _where(
        head, lambda at: all(_word(tensor._cdata + at) == _storage(tensor) for tensor in tensors)
    )
    # what a tensor has in common with its aliases alone, beside the storage
    alias = first.detach()
    counters = _where(
        head,
        lambda at: (
            _word(first._cdata + at) == _word(alias._cdata + at)
            and _word(first._cdata + at) != _word(second._cdata + at)
            and _word(first._cdata + at) != _storage(first)
        ),
    )
    spans = _geometry()
    if not (len(objects) == len(storages) == len(counters) == 1) or spans is None:
        return None
    versions = list(range(_WORD, _COUNTER_BYTES, 4))
    for _ in range(5):
        first.add_(1)
        versions = _where(
            versions,
            lambda at: all(
                _half(_word(tensor._cdata + counters[0]) + at) == tensor._version
                for tensor in tensors
            ),
        )
    # memory of another's, where the address is not also what frees it
    foreign = torch.frombuffer(bytearray(_WORD), dtype=torch.float32)
    data = _where(
        head,
        lambda at: all(
            _word(_storage(tensor) + at) == tensor.data_ptr() for tensor in (foreign, *tensors)
        ),
    )
    if not (len(versions) == len(data) == 1):
        return None
    counter = _word(first._cdata + counters[0])
    first.data = torch.ones(1)
    moved = _word(first._cdata + storages[0]) == _storage(first) != _storage(alias)
    if not moved or _word(first._cdata + counters[0]) != counter:
        return None
    return Layout(objects[0], storages[0], counters[0], *spans, versions[0], data[0])


def _geometry() -> tuple[int, int] | None:
    tensor = torch.zeros(1024).as_strided(_SIZES, _STRIDES, _OFFSET)
    words = [_word(tensor._cdata + at) for at in range(0, _TENSOR_BYTES, _WORD)]
    first, end = _TENSOR_BYTES, 0
    for wanted in (_SIZES, _STRIDES, (_OFFSET,)):
        places = _where(
            range(len(words)),
            lambda at, w=wanted: tuple(words[at : at + len(w)]) == w,  # type: ignore[misc]
        )
        if len(places) != 1:
            return None
        first = min(first, places[0] * _WORD)
        end = max(end, (places[0] + len(wanted)) * _WORD)
    return first, end


def _where(places: Iterable[int], holds: Callable[[int], bool]) -> list[int]:
    return [place for place in places if holds(place)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _half(address: int) -> int:
    return ctypes.c_uint32.from_address(address).value
