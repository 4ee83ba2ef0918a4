"""bench/arm_instructions.py and bench/arm_predict.py: the committed results are what the page says,
and the model's sums are right."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import arm_instructions, arm_predict
from bench.arm_predict import Loop
from weebill.bench.suites import load_suite, operators, unrolled

DOCS = Path(__file__).parents[2] / "docs" / "arm.md"
NETWORK = "shufflenet_v2_x1_0"
SHAPES = ("3x3 s1", "3x3 s2", "5x5 s1", "5x5 s2")
# Depthwise loops of 2 cycles and 4 instructions for an FMA, pointwise ones of 1 or 3 cycles and 2.
LOOPS = {f"depthwise {shape}": Loop(40, 10, {"A76": 20.0}) for shape in SHAPES}
LOOPS |= {"pointwise 1x1": Loop(8, 4, {"A76": 4.0}), "pointwise 2x2": Loop(8, 4, {"A76": 12.0})}


@pytest.mark.parametrize("module", [arm_instructions, arm_predict])
def test_the_page_has_the_results(module: object) -> None:
    results = {
        arm_instructions: arm_instructions.RESULTS,
        arm_predict: arm_predict.PREDICTIONS,
    }[module]
    table = module.table(json.loads(results.read_text()))  # type: ignore[attr-defined]
    assert table in DOCS.read_text()


def test_predictions_are_those_of_their_own_loops() -> None:
    result = json.loads(arm_predict.PREDICTIONS.read_text())
    loops = {name: Loop(**loop) for name, loop in result["loops"].items()}
    again = json.loads(json.dumps(arm_predict.predict_all(loops)))
    for got, kept in zip(again, result["rows"], strict=True):
        assert got["ms"].keys() == kept["ms"].keys()
        for threads, ends in kept["ms"].items():
            assert got["ms"][threads] == pytest.approx(ends, rel=1e-9)


def macs(kind: str) -> int:
    pieces = [op for b in unrolled(load_suite(NETWORK).blocks) for op in operators(b)]
    return sum(op.macs for op in pieces if (op.kind == "depthwise") == (kind == "depthwise"))


def test_kernel_work() -> None:
    depthwise, dense = macs("depthwise") / 4, macs("dense") / 4
    for choose, cycles in ((min, 1), (max, 3)):
        found = arm_predict.kernel_work(NETWORK, LOOPS, "A76", choose)
        assert found == pytest.approx((2 * depthwise + cycles * dense, 4 * depthwise + 2 * dense))


def test_predict_adds_the_rest_and_memory() -> None:
    board = {"core": "A76", "GHz": 2.0, "cache_MB": 1000.0, "copy_GB_s": 0.001}
    cycles, inside = arm_predict.kernel_work(NETWORK, LOOPS, "A76", min)
    weights = 4 * sum(block.weights for block in unrolled(load_suite(NETWORK).blocks))
    assert arm_predict.memory_bytes(NETWORK, 1e12) == weights
    # Nothing but memory counts at 2 MB/s, twice what is copied.
    gains = {1: 1.0, 4: 1.6}
    found = arm_predict.predict(NETWORK, board, LOOPS, 0, gains)
    low, high = found["1"]
    assert low == pytest.approx(weights / 2e3)
    assert found["4"] == pytest.approx((low, high / 1.6))
    slow, _ = arm_predict.kernel_work(NETWORK, LOOPS, "A76", max)
    assert high == pytest.approx(weights / 2e3 + slow / 2e6)
    # As many instructions again as there are in the loops take as long again.
    board["copy_GB_s"] = 1e9
    low, _ = arm_predict.predict(NETWORK, board, LOOPS, round(2 * inside), gains)["4"]
    assert low == pytest.approx(2 * cycles / 2e6 / 4, rel=1e-6)


PROGRAM = """
import sys
print("the device supports much")
print('{"version": "1", "error": %s}')
print("insns: 5000\\ninsns: 1000", file=sys.stderr)
sys.exit(%d)
"""


def test_count_is_the_childs_own(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM % ("1e-6", 0)]
    row = arm_instructions.count(command, "ncnn", tmp_path)
    assert row["instructions"] == 4000 / arm_instructions.CALLS
    with pytest.raises(RuntimeError, match="off by 1.0e-02"):
        arm_instructions.count([*command[:2], PROGRAM % ("1e-2", 0)], "ncnn", tmp_path)
    with pytest.raises(RuntimeError, match="code 3"):
        arm_instructions.count([*command[:2], PROGRAM % ("1e-6", 3)], "ncnn", tmp_path)
