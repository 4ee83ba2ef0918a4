"""Bytes that fusion keeps in the caches, predicted and counted.

Every separable block of a suite runs under callgrind twice: fused, as the plan has it, and one pass
per layer. Its cache simulation counts the lines that had to be fetched into a first cache of 32 KB
and a second of SIZE (no prefetcher, least recently used). The prediction is what the plan says
without running anything (`weebill.bench.stages.bytes_saved`).

    python -m bench.traffic BENCH_KERNELS [SUITE...] [--l2 KIB] [--isa NAME]

BENCH_KERNELS is build/release/bench/csrc/bench_kernels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.instructions import callgrind
from weebill.bench.stages import bytes_saved, own_plan
from weebill.bench.suites import load_suite

LINE = 64  # bytes
Traffic = dict[str, tuple[int, int]]


def traffic(binary: Path, isa: str, suite: str, l2_kib: int, *, layers: bool) -> Traffic:
    """Bytes fetched from beyond the first and the second cache, for every separable block."""
    caches = ["--cache-sim=yes", "--D1=32768,8,64", f"--LL={l2_kib << 10},8,64"]
    rows = callgrind(
        binary, ["--isa", isa, "--filter", f"{suite}/", *(["--layers"] if layers else [])], caches
    )
    return {
        name.partition("/")[2]: (
            LINE * (events["D1mr"] + events["D1mw"]),
            LINE * (events["DLmr"] + events["DLmw"]),
        )
        for name, events in rows.items()
    }


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("suites", nargs="*", default=["mobilenet_v3_large", "mobilenet_v3_small"])
    parser.add_argument("--l2", type=int, default=512, help="KiB of the second cache")
    parser.add_argument("--isa", default="avx2")
    given = parser.parse_args()
    print("| block | predicted MB | less beyond L1, MB | less beyond L2, MB | fusion by |")
    print("| --- | ---: | ---: | ---: | --- |")
    for suite in given.suites:
        fused = traffic(given.binary, given.isa, suite, given.l2, layers=False)
        layers = traffic(given.binary, given.isa, suite, given.l2, layers=True)
        for block in load_suite(suite).blocks:
            if block.name not in layers:
                continue
            plan = own_plan(block)
            one, two = (a - b for a, b in zip(layers[block.name], fused[block.name], strict=True))
            figures = " | ".join(f"{n / 1e6:.2f}" for n in (bytes_saved(block, plan), one, two))
            kind = "rows" if ": row fusion" in plan else "channels"
            print(f"| {suite}.{block.name} | {figures} | {kind} |", flush=True)


if __name__ == "__main__":
    main()
