"""What is counted in qemu's log: the blocks between two marks, by their lengths."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench import emulated

BEGIN, END, LOOP, TAIL = 0x10, 0x20, 0x30, 0x40


def code(address: int, instructions: int) -> list[str]:
    lines = [f"0x{address + 4 * i:x}:  d503201f  nop" for i in range(instructions)]
    return ["-" * 16, "IN: ", *lines, ""]


def run(address: int, times: int = 1) -> list[str]:
    return [f"Trace 0: 0x7f00 [0000000000001001/{address:016x}/00000001/00000200] "] * times


def executed(*parts: list[str]) -> list[int]:
    lines = [line.encode() + b"\n" for part in parts for line in part]
    return emulated.executed(lines, BEGIN, END)


def marked(*parts: list[str]) -> list[list[str]]:
    return [run(BEGIN), *parts, run(END)]


def test_what_is_between_the_marks_counts() -> None:
    marks = [code(BEGIN, 3), run(BEGIN), code(END, 3), run(END)]
    warm = [code(LOOP, 5), run(LOOP, 7), code(TAIL, 2), run(TAIL)]
    body = [run(LOOP, 10), run(TAIL)]
    assert executed(*marks, *warm, *marked(*body), *marked(run(TAIL))) == [0, 52, 2]


def test_a_block_translated_anew_has_its_new_length() -> None:
    marks = [code(BEGIN, 3), run(BEGIN), code(END, 3), run(END)]
    again = [code(LOOP, 3), run(LOOP, 2)]
    body = [code(LOOP, 5), run(LOOP), *again]
    assert executed(*marks, *marked(*body), *marked(run(LOOP))) == [0, 11, 3]


@pytest.mark.parametrize(("machine", "expected"), [(b"\xb7\x00", True), (b"\x3e\x00", False)])
def test_the_machine_stands_in_the_header(machine: bytes, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\x7fELF" + bytes(14) + machine + bytes(8))
    assert emulated.is_aarch64(path) == expected


@pytest.mark.skipif(
    any(
        shutil.which(tool) is None
        for tool in ("aarch64-linux-gnu-g++", "aarch64-linux-gnu-nm", emulated.EMULATOR)
    ),
    reason="no cross compiler, or no emulator",
)
def test_a_program_is_counted_to_the_instruction(tmp_path: Path) -> None:
    source, binary = tmp_path / "counted.cpp", tmp_path / "counted"
    source.write_text(PROGRAM)
    subprocess.run(
        ["aarch64-linux-gnu-g++", "-O1", "-no-pie", "-o", str(binary), str(source)], check=True
    )
    rows = emulated.count_rows(binary, [])
    assert rows["x/100"] - rows["x/10"] == 90 * 3  # the loop below
    assert rows == emulated.count_rows(binary, [])


# A stand-in for the micro-benchmark; its loops are in a library's place, outside of .text.
PROGRAM = r"""
#include <cstdio>
namespace bench {
__attribute__((noinline)) void count_begin() { asm volatile("" : : "r"("begin") : "memory"); }
__attribute__((noinline)) void count_end() { asm volatile("" : : "r"("end") : "memory"); }
}
__attribute__((noinline, section("loops"))) void loop(long n) {
  asm volatile("1: nop\n subs %0, %0, #1\n b.ne 1b" : "+r"(n) : : "cc");
}
int main() {
  for (long n = 10; n <= 100; n += 90) {
    loop(n);
    bench::count_begin();
    loop(n);
    bench::count_end();
    std::printf("x/%ld 1\n", n);
  }
}
"""
