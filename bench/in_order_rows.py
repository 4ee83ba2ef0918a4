"""Cycles of whole depthwise rows on cores that issue in order, by the rules of bench/in_order.py:

    python -m bench.in_order_rows BENCH_KERNELS        # of the preset arm64

Every row of the micro-benchmark's depthwise kernels runs under qemu, once as `neon` and once as
`neon_inorder`, and the instructions that it executed, in their order, are given to the rules:
addresses, activation (hardswish), stores and calls are in it, waiting for memory is not. Of these
cycles are printed

    FMA       those in which an FMA starts; one can in each
    bound     the larger of: those of all arithmetic on vectors; those of loads and stores alone
    both      those that arithmetic and loads and stores must take together (load/FMA bound)
    issue     those that the same instructions would take if none waited for another's result
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

from bench import emulated, in_order

ISAS = ("neon", "neon_inorder")
ROWS = "kernel/depthwise_k"
# Taken or not, they are foreseen: no-ops.
BRANCH = re.compile(r"(b|b\.\w+|bl|br|blr|cbn?z|tbn?z|ret)\b")


def code(line: bytes) -> str:
    """The instruction of one line of code in qemu's log: address, bits, text."""
    text = line.decode().split(maxsplit=2)[2].strip()
    return "nop" if BRANCH.match(text) else text


def executed(log: Iterable[bytes], begin: int, end: int) -> list[list[str]]:
    """The instructions between the marks, for each time that they were passed. As
    emulated.executed, which only counts them."""
    blocks: dict[int, list[str]] = {}  # by address
    passes: list[list[str]] = []
    inside: list[str] = []
    start = 0
    for line in log:
        if line.startswith(emulated.TRACE):
            start = 0
            address = int(line.split(b"/", 2)[1], 16)
            if address == begin:
                inside = []
            elif address == end:
                passes.append(inside)
                inside = []
            else:
                inside += blocks[address]
        elif line.startswith(emulated.CODE):
            if not start:
                start = int(line[: line.index(b":")], 16)
                blocks[start] = []
            blocks[start].append(code(line))
    return passes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("binary", type=Path)
    parser.add_argument("--filter", default=ROWS, help="rows whose name contains it (%(default)s)")
    arguments = parser.parse_args()
    print(f"{'row':40}{'kernels':14}{'core':5}{'FMAs':>8}{'cycles':>8}   FMA bound both issue")
    options = ["--filter", arguments.filter]
    rows = {
        isa: emulated.logged_rows(
            arguments.binary, [*options, "--isa", isa], emulated.CPU, executed
        )
        for isa in ISAS
    }
    for name in rows[ISAS[0]]:
        for core, rules in in_order.CORES.items():
            for isa in ISAS:
                row = rows[isa][name]
                taken = in_order.cycles(row, rules, passes=1)
                fmas = sum(text.startswith("fmla") for text in row)
                bound = in_order.bound(row, rules)
                both = in_order.load_fma_bound(row, rules)
                issue = in_order.issue_cycles(row, rules)
                print(
                    f"{name:40}{isa:14}{core:5}{fmas:8}{taken:8.0f}"
                    f"{fmas / taken:6.0%}{bound / taken:6.0%}"
                    f"{both / taken:5.0%}{issue / taken:6.0%}"
                )


if __name__ == "__main__":
    main()
