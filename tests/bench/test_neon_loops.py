"""The committed lengths are those of every loop, and a longer loop fails."""

from __future__ import annotations

import json

import pytest

from bench import mca, neon_loops
from bench.instructions import judge

LISTING = """
0000000000000000 <weebill::neon::tile()>:
   0:\tfmla\tv0.4s, v1.4s, v2.4s
   4:\tfmla\tv3.4s, v1.4s, v2.4s
   8:\tldr\tq1, [x0], #16
   c:\tb.ne\t0 <weebill::neon::tile()>  // b.any
  10:\tret
"""


def test_the_baseline_has_every_loop() -> None:
    stored = json.loads(neon_loops.BASELINE.read_text())
    assert stored["instructions"]["neon"].keys() == mca.KERNELS.keys()
    for name, (_, fmas) in mca.KERNELS.items():
        assert stored["instructions"]["neon"][name] > fmas


def test_a_longer_loop_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neon_loops, "KERNELS", {"tile": (r"neon::tile", 2)})
    counts = {"neon": neon_loops.lengths(LISTING)}
    assert counts == {"neon": {"tile": 4}}
    baseline = {"compiler": "GCC", "instructions": counts}
    assert judge(baseline, "GCC", counts) == 0
    assert judge(baseline, "GCC", {"neon": {"tile": 5}}) == 1
    assert judge(baseline, "other", {"neon": {"tile": 5}}) == 0
