"""Predicts what networks take on boards that are not at hand. No figure of it is measured there.

    python -m bench.arm_predict OBJECT     # anew, into bench/results; OBJECT as for bench.mca
    python -m bench.arm_predict show       # the tables of docs/arm.md

Three sources: llvm-mca's cycles of the inner loops (bench.mca), the instructions that a network
executes (bench/results/arm_instructions.json), and a board's clock, cache and speed of copying
(bench/boards.json, with the sources, and with what others published of their engines there).

    loops   = sum over operators of  multiply-adds / those of one pass * cycles of one pass
    rest    = (instructions - those in the loops) / instructions per cycle in the loops
    memory  = (weights + inputs and outputs of blocks that exceed the cache) / (2 * copying speed)
    fastest = max((loops + rest) / threads / clock, memory)   with the best pointwise loop
    slowest = ((loops + rest) / clock + memory) / speed-up    with the worst one

where speed-up is what ncnn published for so many threads on that board. What it leaves out:
borders, misses of the first cache, heat.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import mca
from bench.arm_instructions import NETWORKS, RESULTS, ROOT
from weebill.bench.suites import Block, load_suite, operators, unrolled

BOARDS = ROOT / "bench" / "boards.json"
PREDICTIONS = ROOT / "bench" / "results" / "arm_predictions.json"
LANES = 4
THREADS = (1, 4)


@dataclass(frozen=True)
class Loop:
    """One pass through an inner loop, and what the models of the cores take for it."""

    instructions: int
    fmas: int
    cycles: dict[str, float]


def read_loops(path: Path) -> dict[str, Loop]:
    code = mca.functions(mca.disassembled(path))
    loops = {}
    for name, (function, fmas) in mca.KERNELS.items():
        body = mca.texts(mca.main_loop(code, function, fmas))
        cycles = {core: mca.cycles(body, model) for core, model in mca.CORES.items()}
        loops[name] = Loop(len(body), fmas, cycles)
    return loops


def loops_of(operator: Block, loops: dict[str, Loop]) -> list[Loop]:
    """The loops that may do an operator's multiply-adds: dense convolutions use the pointwise's."""
    kind = "pointwise"
    if operator.kind == "depthwise":
        kind = f"depthwise {operator.k}x{operator.k} s{operator.s}"
    return [loop for name, loop in loops.items() if name.startswith(kind)]


def kernel_work(
    network: str, loops: dict[str, Loop], core: str, choose: Callable[..., Loop]
) -> tuple[float, float]:
    """Cycles and instructions of a network's inner loops."""
    cycles = instructions = 0.0
    for block in unrolled(load_suite(network).blocks):
        for operator in operators(block):
            if operator.macs == 0:
                continue
            candidates = loops_of(operator, loops)
            loop = choose(candidates, key=lambda each: each.cycles[core] / each.fmas)
            passes = operator.macs / (LANES * loop.fmas)
            cycles += passes * loop.cycles[core]
            instructions += passes * loop.instructions
    return cycles, instructions


def memory_bytes(network: str, cache: float) -> float:
    """Weights, and what goes from block to block and does not stay in a cache of so many bytes."""
    total = 0.0
    for block in unrolled(load_suite(network).blocks):
        oh, ow = block.out_size
        moved = 4.0 * (block.c_in * block.h * block.w + block.c_out * oh * ow)
        total += 4.0 * block.weights + (moved if moved > cache else 0)
    return total


def speed_up(published: list[dict[str, Any]], board: str, network: str, threads: int) -> float:
    """How much faster ncnn is with so many threads than with one, as published."""
    for each in published:
        if (each["board"], each["network"]) == (board, network) and "1" in each["ms"]:
            return float(each["ms"]["1"] / each["ms"][str(threads)])
    raise ValueError(f"boards.json must have ncnn's times of {network} on {board}")


def predict(
    network: str,
    board: dict[str, Any],
    loops: dict[str, Loop],
    instructions: int,
    gains: dict[int, float],
) -> dict[str, tuple[float, float]]:
    """Milliseconds from the fastest to the slowest, by number of threads; `gains` are speed-ups."""
    compute = []
    for choose in (min, max):
        cycles, inside = kernel_work(network, loops, board["core"], choose)
        cycles += max(instructions - inside, 0) * cycles / inside
        compute.append(cycles / (board["GHz"] * 1e6))
    memory = memory_bytes(network, board["cache_MB"] * 2**20) / (2 * board["copy_GB_s"] * 1e6)
    fast, slow = compute
    return {str(n): (max(fast / n, memory), (slow + memory) / gains[n]) for n in THREADS}


def predict_all(loops: dict[str, Loop]) -> list[dict[str, Any]]:
    counted = {
        row["network"]: row["instructions"]
        for row in json.loads(RESULTS.read_text())["rows"]
        if row["engine"] == "weebill_native"
    }
    known = json.loads(BOARDS.read_text())
    rows = []
    for network in NETWORKS:
        for name, board in known["boards"].items():
            gains = {n: speed_up(known["published"], name, network, n) for n in THREADS}
            times = predict(network, board, loops, counted[network], gains)
            rows.append({"network": network, "board": name, "ms": times})
    return rows


def table(result: dict[str, Any]) -> str:
    """Markdown: predictions, beside what others published."""
    published = json.loads(BOARDS.read_text())["published"]
    lines = [
        "| network | board | weebill fp32, predicted: 1 thread | 4 threads | published: 1, 4 |"
    ]
    lines.append("|---|---|---:|---:|---|")
    for row in result["rows"]:
        cells = [
            f"{low:.2g} to {high:.2g} ms" if high < 100 else f"{low:.0f} to {high:.0f} ms"
            for low, high in row["ms"].values()
        ]
        others = [
            f"{each['engine']} " + ", ".join(str(each["ms"].get(str(n), "-")) for n in THREADS)
            for each in published
            if (each["board"], each["network"]) == (row["board"], row["network"])
        ]
        names = f"{NETWORKS[row['network']]} | {row['board']}"
        lines.append(f"| {names} | {' | '.join(cells)} | {'; '.join(others)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("object", help="the compiled csrc/isa/neon.cpp, or 'show'")
    given = parser.parse_args().object
    if given != "show":
        loops = read_loops(Path(given))
        head = ["git", "rev-parse", "--short=12", "HEAD"]
        commit = subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        result = {
            "context": {"commit": commit.strip(), "what": "predicted, not measured on a board"},
            "loops": {name: asdict(loop) for name, loop in loops.items()},
            "rows": predict_all(loops),
        }
        PREDICTIONS.write_text(json.dumps(result, indent=1) + "\n")
    print(table(json.loads(PREDICTIONS.read_text())))


if __name__ == "__main__":
    main()
