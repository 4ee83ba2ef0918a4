"""`weebill bench training`: rows for every case and engine; no time is asserted."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from weebill.bench import training
from weebill.cli._app import app


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "DEPTHWISE", ((8, 6, 3, 1), (8, 6, 5, 2)))
    # for the whole process, and never taken back
    monkeypatch.setattr(training, "keep_freed_memory", lambda: True)


@pytest.mark.usefixtures("small")
def test_rows() -> None:
    threads = torch.get_num_threads()
    rows = training.measure(
        ["depthwise", "mobilenet_v3_small"],
        size=32,
        batch=2,
        threads=1,
        seconds=0.01,
        engines=["weebill", "eager"],
    )
    assert torch.get_num_threads() == threads
    cases = ["8x6 k3 s1", "8x6 k5 s2", "mobilenet_v3_small"]
    expected = [(case, engine) for case in cases for engine in ("weebill", "eager")]
    assert [(row.case, row.engine) for row in rows] == expected
    for ours, eager in zip(rows[::2], rows[1::2], strict=True):
        assert eager.speedup == 1
        assert ours.speedup == pytest.approx(eager.milliseconds / ours.milliseconds)
        assert ours.rounds == eager.rounds >= 3


@pytest.mark.usefixtures("small")
def test_command() -> None:
    options = ["--batch", "1", "--min-time", "0.01", "--backend", "weebill,eager"]
    told = CliRunner().invoke(app, ["bench", "training", "depthwise", *options])
    assert told.exit_code == 0, told.output
    assert "geometric mean" in told.output
    told = CliRunner().invoke(app, ["bench", "training", "depthwise", *options, "--json"])
    assert {row["engine"] for row in json.loads(told.output)} == {"weebill", "eager"}


def test_unknown_engine() -> None:
    with pytest.raises(ValueError, match="backend must be one of weebill, eager, compile"):
        training.measure(["depthwise"], engines=["tflite"])
