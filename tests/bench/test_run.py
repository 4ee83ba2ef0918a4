"""The whole path of a case through engines in processes of their own, and engines that fail."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.bench.small import small_case
from weebill.bench.case import Case, make_case
from weebill.bench.compare import compare
from weebill.bench.engines import ENGINES, make_engine
from weebill.bench.engines.fold import fold_batch_norm
from weebill.bench.options import Options
from weebill.bench.reference import relative_error
from weebill.bench.results import FAILED, OK, SKIPPED, WRONG, Result, Row
from weebill.bench.roofline import Level, Peaks
from weebill.bench.run import Runner, check_output, evaluate, make_cases
from weebill.bench.seats import Seats
from weebill.bench.timing import Beside, Record
from weebill.bench.worker import Worker

PEAKS = Peaks("scalar", 10.0, (Level("L1", 32 << 10, 40.0), Level("DRAM", 0, 4.0)))


def options(tmp_path: Path, **changes: Any) -> Options:
    """A run that takes as little time as a run can."""
    defaults: dict[str, Any] = {
        "kind": "models",
        "min_time": 0.003,
        "turn_ms": 1.0,
        "cache": tmp_path,
    }
    return Options(**(defaults | changes))


def quiet(_what: str, _share: float) -> None:
    """No progress."""


def test_every_engine_is_described_without_being_installed() -> None:
    for name in ENGINES:
        engine = make_engine(name)
        assert engine.name == name
        assert engine.settings.precision == "f32"
        assert engine.settings.isa in ("native", "environment")
        assert engine.settings.note
    with pytest.raises(ValueError, match="got 'caffe'"):
        make_engine("caffe")


def test_folding_keeps_the_function_and_removes_every_norm(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    module, x = case.module(), torch.from_numpy(case.input())
    folded = fold_batch_norm(module)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), module(x), rtol=1e-4, atol=1e-5)


def test_a_norm_of_other_width_is_not_folded() -> None:
    network = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 1), "norm": nn.BatchNorm2d(4)})
    assert isinstance(fold_batch_norm(network).get_submodule("norm"), nn.BatchNorm2d)


def test_measured_rows(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    backends = ("weebill", "weebill_native")
    saved: list[int] = []
    runner = Runner(
        options(tmp_path, backends=backends),
        [case],
        {None: PEAKS},
        quiet,
        lambda rows: saved.append(len(rows)),
    )
    runner.run()
    assert [row.engine for row in runner.rows] == list(backends)
    assert saved == [2]
    for row in runner.rows:
        assert row.status == OK, row.reason
        assert row.error is not None
        assert row.error < 1e-5
        assert row.wall_ms is not None
        assert 0 < row.wall_ms.minimum <= row.wall_ms.median <= row.wall_ms.p90
        assert row.gflops == pytest.approx(2 * case.macs / (row.wall_ms.minimum * 1e6))
        assert row.peak_share == pytest.approx(row.gflops / 10.0)
        assert (row.ratio is None) == (row.engine == "weebill")
        assert row.as_json()["name"] == f"small net/1/threads:1/{row.engine}"
        assert row.as_json()["real_time"] == row.wall_ms.median


def test_the_native_engine_needs_no_torch(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    without = tmp_path / "without"
    (without / "torch").mkdir(parents=True)
    (without / "torch" / "__init__.py").write_text("raise ImportError('no torch here')")
    path = os.pathsep.join([str(without), os.environ.get("PYTHONPATH", "")])
    worker = Worker("weebill_native", {"PYTHONPATH": path})
    try:
        folder = worker.call("export", "weebill_native", str(case.folder))
        x_path = str(case.folder / "input.npy")
        output = worker.call("load", "weebill_native", folder, x_path, 1)
    finally:
        worker.close()
    assert relative_error(output, case.reference()) < 1e-5


def test_a_worker_that_cannot_load_says_why_and_goes_on(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    worker = Worker("weebill_native", {})
    try:
        with pytest.raises(RuntimeError, match="FileNotFoundError"):
            worker.call("load", "weebill_native", "absent", str(case.folder / "input.npy"), 1)
        assert worker.call("describe", "weebill_native")["missing"] is None
        assert worker.call("describe", "mnn")["missing"] == make_engine("mnn").missing()
    finally:
        worker.close()


def test_a_worker_that_dies_says_how(tmp_path: Path) -> None:
    worker = Worker("weebill_native", {"WEEBILL_ISA": "none"})
    try:
        with pytest.raises(RuntimeError, match="ValueError.*WEEBILL_ISA must be one of"):
            worker.call("peaks", 0.0)
        worker.kill()
        with pytest.raises(RuntimeError, match="signal SIGKILL"):
            worker.call("peaks", 0.0)
    finally:
        worker.close()


def row(case: Case, engine: str = "torch") -> Row:
    """A row of `case` before it is measured."""
    return Row(case.name, "", engine, 1, "native", case.shape, case.macs, case.bytes)


def test_an_engine_with_another_answer_is_wrong(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    wrong = row(case)
    check_output(wrong, case.reference() * 1.001, case, 1e-4)
    assert (wrong.status, wrong.wall_ms) == (WRONG, None)
    assert "relative error" in wrong.reason
    evaluate({"torch": wrong}, {}, 5)
    assert wrong.wall_ms is None
    right = row(case)
    check_output(right, case.reference(), case, 1e-4)
    assert (right.status, right.error) == (OK, 0.0)


def test_failed_and_missing_engines_have_rows_with_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case(tmp_path)
    sound = make_case("sound", case.blocks, tmp_path)
    monkeypatch.setenv("WEEBILL_BENCH_PYTHON_NCNN", "/bin/false")
    bad = case.folder / f"weebill_native-{make_engine('weebill_native').version()}"
    bad.mkdir()  # an export without its file
    runner = Runner(
        options(tmp_path, backends=("ncnn", "weebill_native")), [case, sound], {}, quiet
    )
    runner.run()
    absent, native, _, good = runner.rows
    assert (absent.status, native.status, good.status) == (SKIPPED, FAILED, OK)
    assert "process ended with code 1" in absent.reason
    assert "FileNotFoundError" in native.reason
    assert (native.wall_ms, native.ratio) == (None, None)
    assert good.wall_ms is not None


def test_engines_of_one_library_share_a_process_that_is_renewed_once() -> None:
    seats = Seats(["torch", "torch_folded", "weebill_native"], {}, ())
    try:
        shared = seats["torch"].worker
        assert seats["torch_folded"].worker is shared
        assert seats["weebill_native"].worker is not shared
        shared.kill()
        for name in ("torch", "torch_folded", "weebill_native"):
            seats.renew(name)
        assert seats["torch"].worker is seats["torch_folded"].worker is not shared
        assert seats["torch"].worker.call("describe", "torch")["missing"] is None
    finally:
        seats.close()


def beside(*ms: float, tainted: tuple[int, ...] = ()) -> list[Beside]:
    return [Beside(1e6 * value, k in tainted) for k, value in enumerate(ms)]


def test_ratios_and_rounds_that_count(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    rows = {name: row(case, name) for name in ("weebill", "torch")}
    ours = [np.array([1e6, 1.2e6]), np.array([9e6, 9e6]), np.array([1e6, 1e6])]
    peer = [np.array([2e6, 2.4e6]), np.array([2e6, 2e6]), np.array([3e6, 3e6])]
    records = {
        "weebill": Record(ours, ours, [False, True, False]),
        "torch": Record(peer, peer, [False] * 3, beside(1.04, 9.0, 1.0, tainted=(1,)), retried=2),
    }
    evaluate(rows, records, min_clean=2)
    assert rows["torch"].ratio is not None
    assert rows["torch"].ratio.value == pytest.approx(2.5)
    assert (rows["torch"].dropped, rows["torch"].retried, rows["torch"].tainted) == (1, 2, False)
    assert rows["weebill"].wall_ms is not None
    assert rows["weebill"].wall_ms.count == 4
    assert rows["weebill"].ratio is None


def test_an_engine_that_is_always_disturbed_leaves_the_others_their_rounds(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    rows = {name: row(case, name) for name in ("weebill", "torch", "litert")}
    ours = [np.array([ms * 1e6]) for ms in (1.0, 9.0, 1.0, 1.0)]
    peer = [np.array([ms * 1e6]) for ms in (2.0, 2.0, 8.0, 2.2)]
    slow = [np.array([ms * 1e6]) for ms in (4.0, 5.0, 5.0, 5.0)]
    around = beside(1.0, 9.0, 1.0, 1.0, tainted=(1,))
    records = {
        "weebill": Record(ours, ours, [False, True, False, False]),
        "torch": Record(peer, peer, [False, False, True, False], around),
        "litert": Record(slow, slow, [True, True, True, True], around),
    }
    evaluate(rows, records, min_clean=2)
    assert [rows[name].turn_ms for name in rows] == [[1.0] * 3, [2.0, 2.2], [4.0, 5.0, 5.0]]
    assert [rows[name].tainted for name in rows] == [False, False, True]
    assert rows["torch"].ratio is not None
    assert rows["torch"].ratio.value == pytest.approx(2.1)
    assert rows["litert"].ratio is not None
    assert rows["litert"].ratio.value == pytest.approx(5.0)
    result = Result({}, list(rows.values()))
    again = compare(result, result, relative=True)
    assert [change.before for change in again.changes] == pytest.approx([2.1, 5.0])


def test_ratios_of_several_threads_are_of_all_calls(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    rows = {name: replace(row(case, name), threads=2) for name in ("weebill", "torch")}
    ours = [np.full(5, ms * 1e6) for ms in (1.0, 2.0, 1.0, 2.0)]
    peer = [np.full(5, ms * 1e6) for ms in (6.0, 3.0, 6.0)]
    records = {
        "weebill": Record(ours, ours, [False] * 4),
        "torch": Record(peer, peer, [False] * 3, beside(1.0, 2.0, 1.0)),
    }
    evaluate(rows, records, min_clean=2)
    assert rows["torch"].ratio is not None
    assert rows["torch"].ratio.value == pytest.approx(3.0)  # beside each other 6, 1.5 and 6
    result = Result({}, list(rows.values()))
    (change,) = compare(result, result, relative=True).changes
    assert (change.before, change.after, change.ratio.value) == pytest.approx((3.0, 3.0, 1.0))


def test_a_base_that_turned_out_wrong_leaves_no_ratios(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    rows = {name: row(case, name) for name in ("weebill", "weebill_native", "torch")}
    rows["weebill"].status = WRONG
    once = [np.array([1e6])]
    records = {"weebill": Record(once, once, [False])} | {
        name: Record(once, once, [False], beside(1.0)) for name in ("weebill_native", "torch")
    }
    evaluate(rows, records, min_clean=1)
    assert rows["torch"].wall_ms is not None
    assert rows["torch"].ratio is None


def test_an_interrupted_run_keeps_what_was_measured(tmp_path: Path) -> None:
    case = small_case(tmp_path)

    def interrupt(what: str, share: float) -> None:
        if "timing" in what and share > 0.4:
            raise KeyboardInterrupt

    chosen = options(tmp_path, backends=("weebill_native",), min_time=0.008)
    runner = Runner(chosen, [case, case], {}, interrupt)
    runner.run()
    assert runner.interrupted
    assert len(runner.rows) == 1
    assert runner.rows[0].status == OK, runner.rows[0].reason
    assert 1 <= len(runner.rows[0].turn_ms) <= 8


def test_cases_are_crossed_and_selected(tmp_path: Path) -> None:
    chosen = options(
        tmp_path, kind="blocks", select=("published", "se"), batches=(1, 2), sizes=((64, 64),)
    )
    names = ["published.14_672_112_k5_se", "published.14_672_112_k5_se/batch:2"]
    assert [case.name for case in make_cases(chosen)] == names
    chosen = options(tmp_path, kind="models", select=("mobilenet_v1",), sizes=((32, 32), (32, 48)))
    assert [case.shape for case in make_cases(chosen)] == [(1, 3, 32, 32), (1, 3, 32, 48)]
    with pytest.raises(ValueError, match="no ops match published, nothing"):
        make_cases(options(tmp_path, kind="ops", select=("published", "nothing")))
