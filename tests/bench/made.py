"""A made result with every kind of row, for tests of what shows results."""

from __future__ import annotations

import numpy as np

from weebill.bench.engines.base import Settings
from weebill.bench.results import SKIPPED, WRONG, Result, Row
from weebill.bench.roofline import Level, Peaks, set_shares
from weebill.bench.run import evaluate
from weebill.bench.suites import load_suite, resize
from weebill.bench.timing import Beside, Record

PEAKS = Peaks(
    "avx2",
    100.0,
    (Level("L1", 32 << 10, 200.0), Level("L2", 1 << 20, 80.0), Level("DRAM", 0, 10.0)),
)
SPEEDS = {"weebill": 1.0, "openvino": 1.3, "ncnn": 2.1, "torch": 4.0, "mnn": 1.8}


def made_result(seed: int = 0, slower: float = 1.0) -> Result:
    """Two networks, two sizes, one and two threads, five engines, a wrong and an absent one."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for network in ("mobilenet_v3_large", "mobilenet_v3_small"):
        for size in (160, 224):
            blocks = resize(load_suite(network).blocks, size, size)
            macs = sum(block.macs for block in blocks)
            for threads in (1, 2):
                group: dict[str, Row] = {}
                records: dict[str, Record] = {}
                for engine, speed in SPEEDS.items():
                    name = f"{network}/{size}x{size}/batch:1"
                    shape = (1, 3, size, size)
                    settings = Settings(note="made up & <escaped>")
                    size_bytes = 4 * sum(block.weights for block in blocks)
                    group[engine] = Row(
                        name, network, engine, threads, "native", shape, macs, size_bytes,
                        version="1.0", settings=settings, error=1e-7,
                    )  # fmt: skip
                    own = slower if engine == "weebill" else 1.0
                    ns = own * speed * macs / 30.0 / threads**0.8
                    noise = ns * (1.0 + 0.02 * rng.random((20, 6)))
                    records[engine] = Record(list(noise), list(noise), [False] * 20)
                    if engine != "weebill":
                        beside = slower * macs / 30.0 / threads**0.8
                        drift = beside * (1.0 + 0.02 * rng.random(20))
                        records[engine].beside = [Beside(float(x), False) for x in drift]
                group["mnn"].status, group["mnn"].reason = WRONG, "relative error 1e-01"
                evaluate(group, records, 5)
                absent = Row(name, network, "litert", threads, "native", shape, macs, 1)
                absent.status, absent.reason = SKIPPED, "not installed"
                rows += [*group.values(), absent]
    set_shares(rows, PEAKS)
    context = {
        "cpu_model": "Made <CPU>",
        "host_name": "nowhere",
        "num_cpus": 2,
        "kernel": "6.1",
        "versions": {"weebill": "0.1.0"},
        "date": "2026-01-01T00:00:00+00:00",
        "kind": "models",
        "isa_forced": [],
        "peaks": [PEAKS.as_json()],
        "min_time_s": 0.3,
        "interrupted": False,
    }
    return Result(context, rows)
