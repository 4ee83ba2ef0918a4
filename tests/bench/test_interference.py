"""The kernel's counters: parsing, difference, and a core that really is shared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weebill.bench.interference import (
    Counters,
    Interference,
    interference,
    parse_schedstat,
    parse_steal,
    read_counters,
)

STAT = """cpu  100 0 50 900 5 0 2 30 0 0
cpu0 60 0 20 450 2 0 1 10 0 0
cpu1 40 0 30 450 3 0 1 20 0 0
cpu10 40 0 30 450 3 0 1 700 0 0
intr 12345 0 0
"""


def test_steal_counts_only_the_named_cores() -> None:
    assert parse_steal(STAT, [0]) == 10
    assert parse_steal(STAT, [0, 1]) == 30
    assert parse_steal(STAT, [7]) == 0


def test_schedstat_gives_the_wait() -> None:
    assert parse_schedstat("89645809 1968374 26\n") == 1968374


def test_taint_by_wait_or_by_steal() -> None:
    before = Counters(1_000_000, 5)
    assert not interference(before, Counters(1_010_000, 5), 1_000_000).tainted  # 1 %
    assert interference(before, Counters(1_050_000, 5), 1_000_000).tainted  # 5 %
    assert interference(before, Counters(1_000_000, 6), 1_000_000).tainted


def test_a_thread_that_ended_does_not_count_backwards() -> None:
    assert interference(Counters(900, 0), Counters(100, 0), 1000) == Interference(0.0, 0)


def test_unknown_counters_never_taint() -> None:
    unknown = Counters(0, 0, known=False)
    assert not interference(unknown, Counters(10**9, 3), 1000).tainted


def test_without_the_files_nothing_is_known(tmp_path: Path) -> None:
    assert not read_counters([0], tmp_path).known


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="the kernel keeps no schedstat"
)
def test_a_competitor_on_the_core_is_seen() -> None:
    allowed = os.sched_getaffinity(0)
    core = min(allowed)
    spin = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    rival = subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE)
    try:
        os.sched_setaffinity(0, {core})
        assert rival.stdout is not None
        rival.stdout.readline()
        before = read_counters([core])
        start = time.perf_counter_ns()
        while time.perf_counter_ns() - start < 200_000_000:
            pass
        seen = interference(before, read_counters([core]), time.perf_counter_ns() - start)
    finally:
        os.sched_setaffinity(0, allowed)
        rival.kill()
        rival.communicate()
    assert seen.tainted
    assert seen.wait_share > 0.1
