"""The container of a `.weebill` file: safetensors, read and written with numpy alone.

    8 bytes        length L of the header, little endian
    L bytes        JSON: {"__metadata__": {name: text}, tensor name: {dtype, shape, data_offsets}}
    the rest       the tensors' bytes, little endian, in C order, without gaps

A model's description is a text in the metadata, so every safetensors reader can list and read the
weights. Only float32 and float16 tensors are written and accepted, and read as float32.

Source: the format's specification, https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from weebill.runtime._decode import decode, parse_json

#: A header larger than this is refused: that of a network of 1000 tensors takes 100 KB.
MAX_HEADER_BYTES = 1 << 22
_ALIGNMENT = 64
_METADATA = "__metadata__"
_DTYPES: dict[str, np.dtype[np.floating[Any]]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}


@dataclass(frozen=True)
class Entry:
    """A tensor's entry in the header; offsets count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class Container:
    """An open file whose header has been checked against its size.

    Attributes:
        metadata: The texts of the header.
        entries: The tensors by name.

    Raises:
        ValueError: The header is damaged, or does not describe the bytes of the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise ValueError(f"it has {size} bytes, less than the length of a header takes")
        length = int.from_bytes(_read(file, 8), "little")
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"its header must end within the file, got a length of {length}")
        header = parse_json(_read(file, length), "its header")
        self._start = 8 + length
        self.metadata: dict[str, str] = {}
        metadata = header.pop(_METADATA, {})
        if not isinstance(metadata, dict):
            raise ValueError("its metadata must be an object")
        for name, text in metadata.items():
            self.metadata[name] = decode(str, text, f"its metadata {name[:40]!r}")
        self.entries: dict[str, Entry] = {
            name: decode(Entry, entry, f"its tensor {name[:40]!r}")
            for name, entry in header.items()
        }
        self._check(size - self._start)

    def _check(self, data_bytes: int) -> None:
        end = 0
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].data_offsets):
            where = f"its tensor {name[:40]!r}"
            if entry.dtype not in _DTYPES:
                raise ValueError(f"{where} must be F32 or F16, got {entry.dtype[:20]!r}")
            if not 1 <= len(entry.shape) <= 4 or min(entry.shape) < 1:
                raise ValueError(f"{where} must have 1 to 4 sizes of at least 1")
            begin, stop = entry.data_offsets
            if begin != end:
                raise ValueError(f"{where} must begin where the one before it ends, at {end}")
            itemsize = _DTYPES[entry.dtype].itemsize
            if stop - begin != itemsize * math.prod(entry.shape):
                raise ValueError(
                    f"{where} must have {itemsize} bytes for each element of {entry.shape}, "
                    f"got {stop - begin} bytes"
                )
            end = stop
        if end != data_bytes:
            raise ValueError(f"its tensors must take the {data_bytes} bytes that it has, got {end}")

    def read(self, name: str, into: NDArray[np.float32]) -> NDArray[np.float32]:
        """The tensor, in the first elements of the flat array `into`."""
        entry = self.entries[name]
        array = into[: math.prod(entry.shape)]
        dtype = _DTYPES[entry.dtype]
        stored = array if dtype == np.float32 else np.empty(array.size, dtype)
        self._file.seek(self._start + entry.data_offsets[0])
        if self._file.readinto(stored.view(np.uint8).data) != stored.nbytes:  # type: ignore[attr-defined]
            raise ValueError("it was cut while it was read")
        if stored is not array:
            array[:] = stored
        elif sys.byteorder == "big":
            array.byteswap(inplace=True)
        return array.reshape(entry.shape)


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it was cut while it was read")
    return data


def write(
    path: str | os.PathLike[str],
    metadata: Mapping[str, str],
    tensors: Mapping[str, NDArray[np.floating[Any]]],
) -> None:
    """Writes a file, all or nothing: the path has the old file or the whole new one.

    The same content gives the same bytes. The tensors, float32 or float16, begin at a multiple of
    64 bytes.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    tensors = {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        # the wider first: a tensor begins at a multiple of its elements' size
        for name, array in sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    }
    header: dict[str, object] = {_METADATA: dict(metadata)}
    offset = 0
    for name, array in tensors.items():
        end = offset + array.nbytes
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(
            f"save: the description must take at most {MAX_HEADER_BYTES} bytes, got {len(text)}"
        )
    target = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for array in tensors.values():
                file.write(array.data)
        # mkstemp's file is for its owner alone; this one gets the mode of any other new file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
