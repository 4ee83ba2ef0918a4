"""`weebill bench` and `weebill compare` through the real entry points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import Run, assert_one_line_error, document, environment, run

__all__ = ["environment", "run"]  # fixtures of that file

QUICK = ("--backend", "weebill_native", "--min-time", "0.01", "--turn-ms", "1", "--threads", "1")
BLOCK = "mobilenet_v3_small.head"


@pytest.fixture
def cache(tmp_path: Path) -> tuple[str, Path]:
    return "--cache", tmp_path / "cache"


def test_measure_report_and_compare(run: Run, cache: tuple[str, Path], tmp_path: Path) -> None:
    result = run("bench", "blocks", BLOCK, *QUICK, *cache, "--out", "a.json")
    assert result.returncode == 0, result.stderr
    assert "median, ms" in result.stdout
    assert BLOCK in result.stdout
    stored = json.loads((tmp_path / "a.json").read_text())
    (row,) = stored["benchmarks"]
    assert row["engine"] == "weebill_native"
    assert row["real_time"] > 0
    assert row["error"] < 1e-5
    assert stored["context"]["load_avg_end"]

    report = run("bench", "report", "a.json", "--out", "page.html")
    assert report.returncode == 0, report.stderr
    assert BLOCK in (tmp_path / "page.html").read_text()

    same = run("compare", "a.json", "a.json", "--json")
    assert same.returncode == 0, same.stderr
    row["turn_ms"] = [3 * time for time in row["turn_ms"]]
    for name in ("median", "p10", "p90", "minimum"):
        row["wall_ms"][name] *= 3
    (tmp_path / "b.json").write_text(json.dumps(stored))
    slower = run("compare", "a.json", "b.json")
    assert slower.returncode == 1, slower.stderr
    assert "slower" in slower.stdout


def test_stages(run: Run, cache: tuple[str, Path]) -> None:
    answer = document(run("bench", "blocks", BLOCK, "--stages", *QUICK, *cache, "--json"))
    assert answer["benchmarks"] == []
    stages = {row["stage"] for row in answer["stages"]}
    assert {"pointwise", "sum", "other", "all"} <= stages


def test_cold(run: Run, cache: tuple[str, Path]) -> None:
    (row,) = document(run("bench", "blocks", BLOCK, "--cold", *QUICK, *cache, "--json"))["cold"]
    assert row["reason"] == ""
    assert min(row[key] for key in ("import_ms", "load_ms", "first_ms", "steady_ms")) > 0


def test_list(run: Run) -> None:
    rows = document(run("bench", "models", "--list", "--json"))
    names = {row["name"] for row in rows}
    assert {"mobilenet_v3_large", "shufflenet_v2_x1_0", "weebill_native", "onnxruntime"} <= names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bench", "models", "resnet50"), ("network must be one of", "'resnet50'")),
        (("bench", "blocks", "--backend", "caffe"), ("--backend must be one of", "'caffe'")),
        (("bench", "blocks", "--cold", "--stages"), ("--cold and --stages", "give one of them")),
        (("compare", "missing.json", "missing.json"), ("missing.json",)),
    ],
)
def test_wrong_arguments(run: Run, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line_error(run(*arguments), *words)
