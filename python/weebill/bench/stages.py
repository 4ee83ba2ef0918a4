"""Where the time inside a block or network goes: its kernels, timed one by one on one thread.

Timing every kernel call costs a usual run nothing: the core runs with a table of kernels that read
the clock around the true ones. What the clock costs is taken off. The rest, between the calls, is
`other`: planning, addresses, clearing padding, page faults.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weebill import _C
from weebill.bench.case import Case, read_case
from weebill.bench.options import Options, Progress, worker_environment
from weebill.bench.records import pack_blocks
from weebill.bench.roofline import Peaks
from weebill.bench.suites import Block
from weebill.bench.weights import make_weights
from weebill.bench.worker import Worker

__all__ = ["bytes_saved", "measure_stages", "run_stages"]

RUNS = 60  # of each case; the fastest quarter is averaged


@dataclass(frozen=True)
class StageRow:
    """One stage of a case; `all` is the whole, `other` what no kernel did."""

    case: str
    isa: str
    stage: str
    kernel: str = ""
    calls: int = 0  # per inference
    microseconds: float = 0.0
    share: float = 0.0  # of the whole
    macs: int = 0  # multiply-adds that were made
    peak_share: float | None = None
    saved_bytes: int | None = None  # only of the whole; see `bytes_saved`


def measure_stages(
    cases: Sequence[Case], options: Options, peaks: dict[str | None, Peaks], progress: Progress
) -> Iterator[list[dict[str, Any]]]:
    """The stages of every case with every instruction set, each in a process pinned to one core."""
    for isa in options.isas:
        environment = worker_environment(isa, 1, options.wait_policy)
        worker = Worker("weebill_native", environment, options.cpus[-1:])
        try:
            for index, case in enumerate(cases):
                progress(f"{case.name}: stages", index / len(cases))
                yield worker.call("stages", str(case.folder), peaks[isa].gflops)
        finally:
            worker.close()


def run_stages(case_folder: Path, peak_gflops: float) -> list[dict[str, Any]]:
    """Rows of one case, the longest stage first; measured in this process, on its core.

    Args:
        case_folder: Of the case.
        peak_gflops: What the shares refer to.
    """
    case = read_case(case_folder)
    records = _C.join([pack_blocks(case.blocks, case.weights())])
    # NHWC in memory, NCHW in shape: what the core takes as it is.
    x = np.ascontiguousarray(case.input().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for _ in range(3):
        _C.run(x, records, threads=1)
    runs = sorted((_C.profile(x, records) for _ in range(RUNS)), key=lambda run: run[0])
    kept = runs[: RUNS // 4]  # the rest shared the core with others
    total = sum(nanoseconds for nanoseconds, _ in kept) / len(kept)
    stages: dict[tuple[str, str], tuple[int, int, float]] = {}
    for _, kernels in kept:
        for kernel, k, n, calls, macs, nanoseconds in kernels:
            key = stage_name(case.blocks, kernel, k, n), kernel
            before = stages.get(key, (0, 0, 0.0))
            stages[key] = before[0] + calls, before[1] + macs, before[2] + nanoseconds

    def row(stage: str, kernel: str, calls: int, macs: int, time: float) -> StageRow:
        peak_share = 2.0 * macs / time / peak_gflops if macs and time else None
        return StageRow(
            *(case.name, _C.isa(), stage, kernel, calls),
            *(time / 1e3, time / total, macs, peak_share),
        )

    n = len(kept)
    rows = [
        row(*key, calls // n, macs // n, time / n) for key, (calls, macs, time) in stages.items()
    ]
    rows.sort(key=lambda r: -r.microseconds)
    rows.append(row("other", "", 0, 0, total - 1e3 * sum(r.microseconds for r in rows)))
    whole = asdict(row("all", "", 0, case.macs, total))
    whole["saved_bytes"] = case.shape[0] * sum(
        bytes_saved(block, own_plan(block)) for block in case.blocks
    )
    return [*map(asdict, rows), whole]


def stage_name(blocks: Sequence[Block], kernel: str, k: int, n: int) -> str:
    """What a kernel does in a case: the stage of a single block, the kind of work in a network."""
    if kernel.startswith("depthwise"):
        return "depthwise"
    if kernel == "conv2d_f32" and blocks[0].kind != "shuffle_unit":
        return "convolution"
    if kernel not in ("pointwise_f32", "conv2d_f32"):
        return kernel.removesuffix("_f32")
    block = blocks[0]
    if len(blocks) > 1 or block.kind != "separable":
        return "pointwise" if len(blocks) > 1 else f"pointwise from {k}"
    if block.c_se and (k, n) == (block.c_mid, block.c_se):
        return "squeeze"
    if block.c_se and (k, n) == (block.c_se, block.c_mid):
        return "excite"
    return "project" if k == block.c_mid else "expand"


def own_plan(block: Block) -> str:
    """How the core would run a block on one thread, and why; empty for what it does not cut."""
    if block.kind != "separable":
        return ""
    weights = make_weights([block], norm=False)
    return _C.explain((1, block.c_in, block.h, block.w), pack_blocks([block], weights), 1)


def bytes_saved(block: Block, plan: str) -> int:
    """Bytes of activations that one image moves less than with one pass per operator.

    Layer by layer, the expansion E and the depthwise output D are each written and read again, the
    squeeze reads D, and the excitation reads and writes it. Both ways of fusion keep E in the
    cache, sum D up while it is made, and scale it where the projection reads it. Fusion by rows
    keeps D as well, fusion by channels writes and reads it once.

    Args:
        block: Anything; only separable blocks save something here.
        plan: What the core says about it (`weebill._C.explain`).
    """
    if block.kind != "separable":
        return 0
    oh, ow = block.out_size
    expansion = 4 * block.h * block.w * block.c_mid if block.expand else 0
    depthwise = 4 * oh * ow * block.c_mid
    passes = (2 if ": row fusion" in plan else 0) + (3 if block.c_se else 0)
    return 2 * expansion + passes * depthwise
