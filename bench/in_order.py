"""When a core that issues in order starts each instruction of a loop, by the rules that ncnn's
authors measured on Cortex-A53 and A55: which two instructions start in one cycle, and which take
more. https://github.com/Tencent/ncnn/blob/master/docs/developer-guide/arm-a53-a55-dual-issue.md

llvm-mca knows none of these: to it a load of 128 bits starts beside an FMA, and it makes every
instruction complete after those before it, so that each load that follows an FMA waits for six
cycles on A53. Its models of the two cores rank a loop that is made for them behind one that isn't.

A reading of those rules, not a measurement. Caches are always hit; latencies are llvm-mca's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

REGISTER = re.compile(r"\b([vqdsx]|w)(\d+)\b")


@dataclass(frozen=True)
class Core:
    """pairs: the kinds of two instructions that may start together, in either order."""

    pairs: frozenset[frozenset[str]]
    load_latency: int


_INTEGER = {
    frozenset({"integer", kind}) for kind in ("integer", "vector", "half", "scalar", "insert")
}
_A53 = _INTEGER | {
    frozenset({"vector", "scalar"}),
    frozenset({"half", "insert"}),
    frozenset({"scalar", "insert"}),
}
CORES = {
    "A53": Core(frozenset(_A53), load_latency=4),
    "A55": Core(
        frozenset(_A53 | {frozenset({"vector", "half"}), frozenset({"vector", "insert"})}),
        load_latency=3,
    ),
}
# Reads the register that it writes.
CHANGES = re.compile(r"fml[as]|(mov|ins)\s+v\d+\.[bhsd]\[")
# Of vectors, but no arithmetic.
MOVES = re.compile(r"(mov|movi|fmov|dup|mvni)\s")
VECTOR_LATENCY = 4  # of an FMA to the next one on its accumulator, and of an insert


def kind(text: str) -> str:
    mnemonic = text.split()[0]
    if re.match(r"(ldp|stp)\s+q|(ld|st)[1-4]", text) or re.match(r"(ldr|str)\s+q", text):
        return "whole"
    if re.match(r"(ldr|str|ldp|stp)\s+[ds]\d", text):
        return "half"
    if mnemonic.startswith(("ldr", "ldp", "str", "stp", "ldur", "stur", "prfm")):
        return "scalar"
    if re.match(r"(mov|ins)\s+v\d+\.[sd]\[", text):
        return "insert"
    return "vector" if re.search(r"\bv\d+\.", text) else "integer"


def _registers(text: str) -> list[str]:
    """Names of the registers in their order; the views of one register share a name."""
    return [
        ("v" if letter in "vqds" else "x") + number for letter, number in REGISTER.findall(text)
    ]


def cycles(loop: Sequence[str], core: Core, passes: int = 20) -> float:
    """Cycles per pass."""
    ready: dict[str, int] = {}
    cycle, start, previous = 0, 0, ""
    for _ in range(passes):
        for text in loop:
            what = kind(text)
            names = _registers(text)
            store = text.startswith(("st", "prfm", "cmp", "nop"))
            read = names if store or CHANGES.match(text) else names[1:]
            earliest = max([cycle, *(ready.get(name, 0) for name in read)])
            together = earliest == start and frozenset({previous, what}) in core.pairs
            if previous and not together:
                earliest = max(earliest, start + 1)
            previous = "" if together else what  # two at most
            start = earliest
            cycle = start
            if what == "whole":  # nothing else starts for two cycles
                cycle, previous = start + 2, ""
            if names and not store:
                latency = {"integer": 1, "vector": VECTOR_LATENCY, "insert": VECTOR_LATENCY}
                ready[names[0]] = start + latency.get(what, core.load_latency)
            if together:
                cycle = start + 1
    return (cycle + 1) / passes


def is_access(text: str) -> bool:
    """Loads and stores, with what puts halves of vectors together."""
    return kind(text) in ("whole", "half", "scalar", "insert")


def is_arithmetic(text: str) -> bool:
    """Of vectors; copies and constants are none."""
    return kind(text) == "vector" and not MOVES.match(text)


def fma_cycles(loop: Sequence[str]) -> int:
    """Cycles of the vector arithmetic alone: one instruction of 128 bits in each."""
    return sum(is_arithmetic(text) for text in loop)


def issue_cycles(loop: Sequence[str], core: Core) -> int:
    """Cycles that these instructions take at least, in whatever order, if none waits for a result:
    half as many as instructions, or as many as there are of kinds that start in no cycle
    together."""
    counts = Counter(kind(text) for text in loop)
    whole = counts.pop("whole", 0)
    apart = (
        sum(counts[each] for each in kinds)
        for n in range(1, len(counts) + 1)
        for kinds in combinations(counts, n)
        if not any(frozenset(two) <= frozenset(kinds) for two in core.pairs)
    )
    return 2 * whole + max([*apart, (sum(counts.values()) + 1) // 2])


def bound(loop: Sequence[str], core: Core) -> int:
    """The larger of the cycles of the vector arithmetic alone and of loads and stores alone."""
    return max(fma_cycles(loop), issue_cycles(list(filter(is_access, loop)), core))


def load_fma_bound(loop: Sequence[str], core: Core) -> int:
    """Cycles that the vector arithmetic and the loads and stores take together: a core on which a
    load starts beside no FMA needs the sum of both."""
    return issue_cycles([text for text in loop if is_access(text) or is_arithmetic(text)], core)
