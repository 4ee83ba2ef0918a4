"""Where the time goes: every kernel call is seen, and stages have their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.bench.small import SMALL, small_case
from weebill import _C
from weebill.bench.case import make_case
from weebill.bench.options import Options
from weebill.bench.records import pack_blocks
from weebill.bench.results import Result, read_result, write_result
from weebill.bench.roofline import Level, Peaks
from weebill.bench.stages import bytes_saved, measure_stages, own_plan, run_stages, stage_name
from weebill.bench.suites import Block, load_suite
from weebill.bench.tables import stage_tables

PEAKS = Peaks("scalar", 10.0, (Level("L1", 32 << 10, 40.0), Level("DRAM", 0, 4.0)))
BLOCKS = {block.name: block for block in load_suite("mobilenet_v3_large").blocks}


def test_profile_counts_the_multiply_adds_of_every_layer(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    records = _C.join([pack_blocks(case.blocks, case.weights())])
    x = case.input()
    nanoseconds, kernels = _C.profile(x, records)
    assert nanoseconds > 0
    assert {name for name, *_ in kernels} <= {name for name, _ in _C.kernel_list()}
    products = sum(macs for name, _, _, _, macs, _ in kernels if name.startswith("pointwise"))
    linear = 8 * 9 + 9 * 7
    assert products >= linear
    assert all(calls >= 1 and time >= 0 for *_, calls, _, time in kernels)


def test_a_profiled_product_is_counted_exactly() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((24, 5, 1, 1)).astype(np.float32)
    record = _C.pack_conv2d(weight, None, (1, 1), (0, 0, 0, 0), (1, 1), 1, "none")
    x = rng.standard_normal((2, 5, 3, 7)).astype(np.float32)
    _, kernels = _C.profile(x, record)
    products = [entry for entry in kernels if entry[0] == "pointwise_f32"]
    assert sum(macs for *_, macs, _ in products) == 2 * 5 * 24 * 3 * 7
    assert {(k, n) for _, k, n, *_ in products} == {(5, 24)}


def test_profile_refuses_what_run_refuses() -> None:
    record = _C.pack_global_avg_pool2d(4)
    with pytest.raises(ValueError, match="profile: x must have 4 channels"):
        _C.profile(np.zeros((1, 3, 2, 2), np.float32), record)
    x = np.zeros((1, 4, 2, 2), np.float32)
    _C.profile(x, record)  # a failed one left nothing behind


def test_stages_of_a_block(tmp_path: Path) -> None:
    block = BLOCKS["14_480_112_se"]
    case = make_case("block", (block,), tmp_path)
    rows = run_stages(case.folder, 10.0)
    names = [row["stage"] for row in rows]
    assert {"expand", "depthwise", "squeeze", "excite", "project"} < set(names)
    assert names[-2:] == ["other", "all"]
    whole = rows[-1]
    assert whole["macs"] == block.macs
    assert sum(row["microseconds"] for row in rows[:-1]) == pytest.approx(whole["microseconds"])
    by_name = {row["stage"]: row for row in rows}
    pixels = block.h * block.w
    assert by_name["expand"]["macs"] == pixels * block.c_in * block.c_mid
    assert by_name["project"]["macs"] == pixels * block.c_mid * block.c_out


def test_stage_names_of_a_network_are_kinds_of_work() -> None:
    assert stage_name(SMALL, "pointwise_f32", 8, 24) == "pointwise"
    assert stage_name(SMALL, "depthwise_k5s1_f32", 0, 0) == "depthwise"
    assert stage_name(SMALL, "conv2d_f32", 27, 8) == "convolution"
    assert stage_name(SMALL, "sum_f32", 0, 0) == "sum"


def separable(**changes: int) -> Block:
    """4 x 4 pixels, 2 - 6 - 3 channels."""
    sizes = {"h": 4, "w": 4, "expand": 1, "c_se": 0} | changes
    return Block(
        *("separable", "made", 2, sizes["h"], sizes["w"], 6, 3, 3, 1, 1),
        *(sizes["expand"], sizes["c_se"], "relu", "none", 0),
    )


def test_bytes_saved() -> None:
    image = 4 * 4 * 4 * 6  # of the expansion and of the depthwise output
    rows, channels = "separable 2-6-3: row fusion: x", "separable 2-6-3: channel fusion: x"
    assert bytes_saved(separable(), rows) == 4 * image
    assert bytes_saved(separable(), channels) == 2 * image
    assert bytes_saved(separable(c_se=2), channels) == 5 * image
    assert bytes_saved(separable(expand=0), rows) == 2 * image
    assert bytes_saved(separable(expand=0), channels) == 0
    assert bytes_saved(SMALL[0], "") == 0
    assert ": row fusion" in own_plan(separable(h=400, w=400))
    assert ": channel fusion" in own_plan(separable())


def test_a_run_is_kept_and_shown(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    options = Options("models", cache=tmp_path, mode="stages", isas=("scalar",))
    (rows,) = measure_stages([case], options, {"scalar": PEAKS}, lambda _what, _share: None)
    assert {row["isa"] for row in rows} == {"scalar"}
    result = Result({"weebill_schema": 1}, stages=rows)
    write_result(tmp_path / "result.json", result)
    (table,) = stage_tables(read_result(tmp_path / "result.json"))
    assert table.title.startswith("small net/1, isa scalar, fusion moves ")
    assert table.rows[-1][0] == "all"
    assert table.rows[-1][4] == "100%"
