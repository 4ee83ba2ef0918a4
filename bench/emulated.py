"""Counts the instructions that an aarch64 micro-benchmark executes under qemu's user emulation.

Debian's qemu counts nothing (that takes a plugin, and its build loads none), but it logs: the code
of every block that it translates, and a line for each execution of one. The sum of the blocks'
lengths over the executions between two marks is what a row executed, exactly and on any machine.
The log goes through a pipe; the micro-benchmark's own code, which makes data, stays out of it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

EMULATOR = "qemu-aarch64-static"
LIBRARIES = "/usr/aarch64-linux-gnu"  # of the cross compiler, as in cmake/toolchain-aarch64.cmake
CPU = "cortex-a53"  # libc chooses its memcpy by it
HALF_CPU = "cortex-a76"  # with float16 arithmetic
TRACE = b"Trace "
CODE = b"0x"
END = 2**64 - 1
Row = TypeVar("Row")


def is_aarch64(binary: Path) -> bool:
    """Whether an ELF file is for 64-bit ARM: the machine of its header."""
    with binary.open("rb") as stream:
        return stream.read(20)[18:20] == b"\xb7\x00"


def emulated(binary: Path, arguments: Sequence[str], cpu: str = CPU) -> list[str]:
    """The command that runs `binary`."""
    return [EMULATOR, "-L", LIBRARIES, "-cpu", cpu, str(binary), *arguments]


def symbol(binary: Path, name: str) -> int:
    """Address of a function that has one name."""
    command = ["aarch64-linux-gnu-nm", "--demangle", str(binary)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(re.findall(rf"^(\w+) T \S*{name}\(\)$", listing, re.M)[0], 16)


def text_section(binary: Path) -> tuple[int, int]:
    """Start and end of the code of a program that is linked to a fixed address."""
    command = ["aarch64-linux-gnu-readelf", "--sections", "--wide", str(binary)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r" \.text +PROGBITS +(\w+) +\w+ +(\w+)", listing)
    assert found is not None
    start = int(found[1], 16)
    return start, start + int(found[2], 16)


def executed(log: Iterable[bytes], begin: int, end: int) -> list[int]:
    """Instructions between the marks, for each time that they were passed.

    Args:
        log: Lines of qemu's log of executed and translated blocks (exec, nochain, in_asm).
        begin: Address of the mark before; what follows its block counts.
        end: Address of the mark after.
    """
    lengths: dict[int, int] = {}  # by address
    known: dict[bytes, int] = {}  # the same by the whole line, which repeats
    counts: list[int] = []
    total, start, size = 0, 0, 0
    for line in log:
        if (length := known.get(line)) is not None:
            total += length
        elif line.startswith(TRACE):
            if start:
                lengths[start], start, size = size, 0, 0
            address = int(line.split(b"/", 2)[1], 16)
            if address == begin:
                total = 0
            elif address == end:
                counts.append(total)
            else:
                total += lengths[address]
                known[line] = lengths[address]
        elif line.startswith(CODE):
            if not start:
                start = int(line[: line.index(b":")], 16)
                if start in lengths:
                    known.clear()  # translated anew, perhaps cut elsewhere
            size += 1
    return counts


def count_rows(binary: Path, arguments: Sequence[str], cpu: str = CPU) -> dict[str, int]:
    """Instructions of one iteration of every row of the micro-benchmark.

    Raises:
        RuntimeError: The micro-benchmark failed.
    """
    return logged_rows(binary, arguments, cpu, executed)


def logged_rows(
    binary: Path,
    arguments: Sequence[str],
    cpu: str,
    read: Callable[[Iterable[bytes], int, int], list[Row]],
) -> dict[str, Row]:
    """What `read` makes of the log of every row of the micro-benchmark; it is called as `executed`
    is."""
    begin, end = symbol(binary, "count_begin"), symbol(binary, "count_end")
    start, stop = text_section(binary)
    wanted = ((0, start - 1), (begin, begin), (end, end), (stop, END))
    ranges = ",".join(f"{low:#x}..{high:#x}" for low, high in wanted)
    command = emulated(binary, ["--count", *arguments], cpu)
    command[1:1] = ["-d", "exec,nochain,in_asm", "-dfilter", ranges]
    # on one thread: how threads share work out is not the same twice
    environment = {**os.environ, "WEEBILL_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as rows:
        with subprocess.Popen(
            command, env=environment, stdout=rows, stderr=subprocess.PIPE, bufsize=1 << 20
        ) as process:
            assert process.stderr is not None
            counts = read(process.stderr, begin, end)
        rows.seek(0)
        names = [line.split()[0] for line in rows]
    if process.returncode != 0 or len(names) != len(counts):
        raise RuntimeError(
            f"{' '.join(command)}: code {process.returncode}, "
            f"{len(counts)} counts of {len(names)} rows"
        )
    return dict(zip(names, counts, strict=True))
