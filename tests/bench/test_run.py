"""Cases, folding, and the whole path of one case through torch's own engines."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bench.run
from bench.case import Case, count_macs, make_case, read_case, relative_error
from bench.contenders import make_contender
from bench.engines import ENGINES, make_engine
from bench.engines.base import Engine, FloatArray, Session
from bench.engines.fold import fold_batch_norm
from bench.engines.torch_eager import TorchEager
from bench.options import Options, parse_options
from bench.run import FAILED, OK, SKIPPED, WRONG, Row, measure_case, set_peak_shares


def small_network() -> nn.Module:
    """Two convolutions with BatchNorm, statistics far from the neutral ones."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
    )
    network.train()
    network(3.0 + 2.0 * torch.randn(16, 3, 12, 12))
    return network.eval()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A case small enough to run in microseconds."""
    return make_case("small net/1", small_network(), torch.randn(1, 3, 12, 10), tmp_path)


def options(*arguments: str) -> Options:
    """Parsed options of a short run."""
    return parse_options("bench", "", "network", ["--rounds", "3", "--turn-ms", "1", *arguments])


def quiet(_stage: str, _done: int) -> None:
    """No progress."""


def test_macs_of_dense_depthwise_and_linear_layers() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 8 x 6 x 5 outputs of 27
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # of 9
        nn.Flatten(),
        nn.Linear(240, 7),
    )
    assert count_macs(network, torch.zeros(2, 3, 12, 10)) == 2 * (240 * 27 + 240 * 9 + 240 * 7)


def test_relative_error_sees_shape_and_nan() -> None:
    reference = np.array([1.0, -4.0])
    assert relative_error(np.array([1.0, -4.0]), reference) == 0.0
    assert relative_error(np.array([1.5, -4.0]), reference) == pytest.approx(0.125)
    assert relative_error(np.array([[1.0, -4.0]]), reference) == math.inf
    assert relative_error(np.array([1.0, np.nan]), reference) == math.inf


def test_a_case_is_found_again_and_weights_make_another(tmp_path: Path) -> None:
    network, x = small_network(), torch.randn(1, 3, 12, 10)
    first = make_case("net", network, x, tmp_path)
    assert make_case("net", network, x, tmp_path) == first == read_case(first.folder)
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    assert make_case("net", network, x, tmp_path).folder != first.folder


def test_folding_keeps_the_function_and_removes_every_norm() -> None:
    network, x = small_network(), torch.randn(1, 3, 12, 10)
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-5)


def test_a_norm_of_other_width_is_not_folded() -> None:
    network = nn.ModuleDict({"conv": nn.Conv2d(3, 8, 1), "norm": nn.BatchNorm2d(4)})
    assert isinstance(fold_batch_norm(network).get_submodule("norm"), nn.BatchNorm2d)


def test_every_engine_is_described_without_being_installed() -> None:
    for name in ENGINES:
        engine = make_engine(name)
        assert engine.name == name
        assert engine.settings.precision == "f32"
        assert engine.settings.isa in ("native", "environment")
        assert engine.settings.note
    with pytest.raises(ValueError, match="got 'caffe'"):
        make_engine("caffe")


def test_measured_rows_of_torch(case: Case) -> None:
    rows = measure_case(case, 1, options("--engine", "torch,torch_folded"), quiet)
    assert [row.engine for row in rows] == ["torch", "torch_folded"]
    for row in rows:
        assert row.status == OK, row.reason
        assert row.error is not None
        assert row.error < 1e-5
        assert row.time_ms is not None
        assert 0 < row.time_ms.minimum <= row.time_ms.median <= row.time_ms.p90
        assert row.gflops == pytest.approx(2 * case.macs / (row.time_ms.minimum * 1e6))
        set_peak_shares([row], 100.0)
        assert row.peak_share == pytest.approx(row.gflops / 100.0)
        stored = row.as_json()
        assert stored["name"] == f"small net/1/threads:1/{row.engine}"
        assert stored["real_time"] == row.time_ms.median


def test_several_threads_run_in_workers(case: Case) -> None:
    engine = make_engine("torch")
    contender = make_contender("torch", case.exported(engine), case.input(), 2, "passive", [0])
    try:
        turn = contender.turn(1, 4)
        assert turn.samples.shape == (4,)
        assert relative_error(contender.output(), case.reference()) < 1e-5
    finally:
        contender.close()


def test_a_worker_that_cannot_load_says_why(case: Case, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="FileNotFoundError"):
        make_contender("torch", tmp_path / "absent", case.input(), 2, "passive", [0])


class _Fake(TorchEager):
    """torch with one thing wrong."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.name = "torch"  # type: ignore[misc]

    def missing(self) -> str | None:
        """The reason, where being absent is the fault."""
        return "not installed" if self.fault == "absent" else None

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """A session that computes on another input, or none."""
        if self.fault == "broken":
            raise RuntimeError("no such operator")
        return super().load(folder, x + 0.01 if self.fault == "wrong" else x, threads)


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("wrong", WRONG, "relative error"),
        ("broken", FAILED, "RuntimeError: no such operator"),
        ("absent", SKIPPED, "not installed"),
    ],
)
def test_a_faulty_engine_is_shown_and_not_timed(
    case: Case, monkeypatch: pytest.MonkeyPatch, fault: str, status: str, reason: str
) -> None:
    def fake(name: str) -> Engine:
        return _Fake(fault) if name == "torch" else make_engine(name)

    monkeypatch.setattr(bench.run, "make_engine", fake)
    monkeypatch.setattr("bench.contenders.make_engine", fake)
    faulty, sound = measure_case(case, 1, options("--engine", "torch,torch_folded"), quiet)
    assert (faulty.status, sound.status) == (status, OK)
    assert reason in faulty.reason
    assert faulty.time_ms is None
    assert sound.time_ms is not None


def test_ratios_are_taken_to_ours(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.run, "OURS", "torch_folded")
    rows = measure_case(case, 1, options("--engine", "torch,torch_folded"), quiet)
    by_engine: dict[str, Row] = {row.engine: row for row in rows}
    assert by_engine["torch_folded"].ratio_median is None
    plain, ours = by_engine["torch"], by_engine["torch_folded"]
    assert plain.ratio_minimum is not None
    assert plain.time_ms is not None
    assert ours.time_ms is not None
    expected = plain.time_ms.minimum / ours.time_ms.minimum
    assert plain.ratio_minimum.value == pytest.approx(expected)
