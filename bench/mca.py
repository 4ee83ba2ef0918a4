"""How near the inner loops of the NEON kernels come to what their FMAs and loads allow, by
llvm-mca's models of the cores: `python -m bench.mca OBJECT`, OBJECT being the compiled
csrc/isa/neon.cpp or neon_fp16.cpp (cmake --preset arm64). An estimate, for cores that are not at
hand: caches are always hit and branches always predicted. Needs aarch64-linux-gnu-objdump and
llvm-mca-19.

LLVM has no model of its own for A72 (A57's is used) and A76 (Neoverse N1's, the same family). The
last two columns are no work of llvm-mca's: bench/in_order.py. The depthwise tiles for cores that
issue in order are in bench/in_order_rows.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import in_order

CORES = {"A53": "cortex-a53", "A55": "cortex-a55", "A57/A72": "cortex-a57", "A76": "neoverse-n1"}
NO_HALF = ("cortex-a53", "cortex-a57")  # cores without float16 arithmetic
ITERATIONS = 100
THROUGHPUT = "Block RThroughput"  # of llvm-mca's: by the width and the units of the core


def _depthwise(isa: str, element: str) -> dict[str, tuple[str, int]]:
    loops = {(3, 1): 63, (3, 2): 63, (5, 1): 175, (5, 2): 175}
    return {
        f"depthwise {k}x{k} s{s}": (
            rf"{isa}::.*(depthwise_k{k}s{s}_{element}|depthwise(_row|_columns)?<{k}, {s}\b)",
            fmas,
        )
        for (k, s), fmas in loops.items()
    }


# FMAs in the loop that a kernel spends its time in, of all the loops in its code
KERNELS = {
    "pointwise 6x16": (r"neon::.*tiles_(of|in_registers)<6, 1, 0, false>", 96),
    "pointwise 5x16": (r"neon::.*tiles_(of|in_registers)<5, 1, 0, false>", 80),
    "pointwise 4x24": (r"neon::.*tiles_(of|in_registers)<4, 1, 1, false>", 96),
    "offsets 6x16": (r"neon::.*tiles_(of|in_registers)<6, 1, 0, true>", 48),
    "offsets 4x24": (r"neon::.*tiles_(of|in_registers)<4, 1, 1, true>", 48),
    "pointwise 8x8": (r"neon::.*tiles_of<8, 0, 1, false>", 64),
    "in order 5x16": (r"neon_inorder::.*tiles_of<5, 1, 0, false>", 80),
    "in order 4x16": (r"neon_inorder::.*tiles_of<4, 1, 0, false>", 64),
    "in order 4x24": (r"neon_inorder::.*tiles_of<4, 1, 1, false>", 96),
    "in order 8x8": (r"neon_inorder::.*tiles_of<8, 0, 1, false>", 64),
    **_depthwise("neon", "f32"),
}
# The same of csrc/isa/neon_fp16.cpp
HALF_KERNELS = {
    "pointwise 8x16": (r"neon_fp16::.*tiles_of<8, 1, 0, false>", 128),
    "pointwise 7x16": (r"neon_fp16::.*tiles_of<7, 1, 0, false>", 112),
    "pointwise 7x24": (r"neon_fp16::.*tiles_of<7, 1, 1, false>", 168),
    "pointwise 8x8": (r"neon_fp16::.*tiles_of<8, 0, 1, false>", 64),
    **_depthwise("neon_fp16", "f16"),
}
BRANCH = re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z)\t(?:.*, )?([0-9a-f]+)$")


@dataclass(frozen=True)
class Instruction:
    address: int
    text: str


def disassembled(path: Path) -> str:
    """objdump's listing of an aarch64 object."""
    command = ["aarch64-linux-gnu-objdump", "-dC", "--no-show-raw-insn", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def functions(listing: str) -> dict[str, list[Instruction]]:
    """The functions of an objdump listing, without its notes on addresses."""
    found: dict[str, list[Instruction]] = {}
    code: list[Instruction] = []
    for line in listing.splitlines():
        if title := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            code = found.setdefault(title[1], [])
        elif entry := re.match(r"\s*([0-9a-f]+):\t(.*)$", line):
            text = re.sub(r"\s*(<.*|//.*)$", "", entry[2]).strip()
            code.append(Instruction(int(entry[1], 16), text))
    return found


def is_half(path: Path) -> bool:
    """Whether it is the object of the float16 kernels."""
    return "neon_fp16" in path.name


def kernels_in(path: Path) -> dict[str, tuple[str, int]]:
    """The loops of an object, by its name."""
    return HALF_KERNELS if is_half(path) else KERNELS


def count(loop: list[Instruction], mnemonics: str) -> int:
    return sum(re.match(rf"(?:{mnemonics})\b", each.text) is not None for each in loop)


def innermost_loops(code: list[Instruction]) -> list[list[Instruction]]:
    """Runs of instructions that end in a branch to their start and hold no other such run."""
    ends = []
    for each in code:
        branch = BRANCH.match(each.text)
        if branch and code[0].address <= int(branch[1], 16) <= each.address:
            ends.append((int(branch[1], 16), each.address))
    inner = [
        (start, end)
        for start, end in ends
        if not any(
            (start, end) != other and start <= other[0] and other[1] <= end for other in ends
        )
    ]
    return [[each for each in code if start <= each.address <= end] for start, end in inner]


def main_loop(code: dict[str, list[Instruction]], name: str, fmas: int) -> list[Instruction]:
    """The shortest innermost loop of the function with this number of FMAs."""
    loops = [
        loop
        for title, body in code.items()
        if re.search(name, title)
        for loop in innermost_loops(body)
        if count(loop, "fmla") == fmas
    ]
    if not loops:
        raise SystemExit(f"bench.mca: no loop with {fmas} FMAs in {name}")
    return min(loops, key=len)


def texts(loop: list[Instruction]) -> list[str]:
    """Branches count as no-ops: all fall through but the last."""
    return ["nop" if BRANCH.match(each.text) else each.text for each in loop]


def analysed(loop: list[str], core: str, figure: str) -> float:
    """A figure of llvm-mca's summary."""
    text = "\n".join(loop)
    command = ["llvm-mca-19", "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    output = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    found = re.search(rf"^{figure}:\s+([\d.]+)$", output, re.MULTILINE)
    assert found is not None, output
    return float(found[1])


def cycles(loop: list[str], core: str) -> float:
    """Per iteration."""
    return analysed(loop, core, "Total Cycles") / ITERATIONS


def fma_bound(loop: list[str], core: str) -> float:
    """Cycles in which the core can start the arithmetic on vectors (a depthwise tile has more of it
    than FMAs) if nothing waits and nothing else is done."""
    return analysed([each for each in loop if in_order.is_arithmetic(each)], core, THROUGHPUT)


def load_fma_bound(loop: list[str], core: str) -> float:
    """The same of the arithmetic, the loads and the stores together: they share the core's width,
    and on some a pipe."""
    both = [each for each in loop if in_order.is_arithmetic(each) or in_order.is_access(each)]
    return analysed(both, core, THROUGHPUT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("object", type=Path)
    path = parser.parse_args().object
    code = functions(disassembled(path))
    print(
        "Cycles per pass through the loop, and the part of them that its vector arithmetic alone,\n"
        "and that its arithmetic, loads and stores together must take"
    )
    half = is_half(path)
    by_rules = {core: rules for core, rules in in_order.CORES.items() if not half or core != "A53"}
    cores = [*CORES, *(f"{core}, ncnn's rules" for core in by_rules)]
    print(f"{'loop':18}{'insn':>6}{'FMA':>5}" + "".join(f"{core:>19}" for core in cores))
    for name, (function, fmas) in kernels_in(path).items():
        loop = texts(main_loop(code, function, fmas))
        row = f"{name:18}{len(loop):6}{fmas:5}"
        for core in CORES.values():
            if half and core in NO_HALF:
                row += f"{'-':>19}"
                continue
            row += shares(cycles(loop, core), fma_bound(loop, core), load_fma_bound(loop, core))
        for rules in by_rules.values():
            alone, both = in_order.fma_cycles(loop), in_order.load_fma_bound(loop, rules)
            row += shares(in_order.cycles(loop, rules), alone, both)
        print(row)


def shares(taken: float, alone: float, both: float) -> str:
    return f"{taken:7.0f}{alone / taken:6.0%}{both / taken:6.0%}"


if __name__ == "__main__":
    main()
