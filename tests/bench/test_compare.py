"""Comparisons of two results, and results as files, tables, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.bench.made import made_result
from weebill.bench.compare import compare
from weebill.bench.results import Result, fastest_peer, grouped, read_result, write_result
from weebill.bench.tables import (
    Table,
    cold_table,
    detail_table,
    remarks,
    summary_table,
    to_csv,
    to_markdown,
)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = made_result()
    write_result(tmp_path / "a" / "r.json", result)
    assert read_result(tmp_path / "a" / "r.json").rows == result.rows
    document = json.loads((tmp_path / "a" / "r.json").read_text())
    first = document["benchmarks"][0]
    # What google-benchmark's own tools read.
    assert first["run_type"] == "iteration"
    assert first["time_unit"] == "ms"
    assert first["real_time"] == pytest.approx(result.rows[0].wall_ms.median)
    assert document["context"]["json_schema_version"] == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"context": {}}', '{"context": {"weebill_schema": 9}}']
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="other.json"):
        read_result(path)


def test_two_runs_of_the_same_are_the_same() -> None:
    comparison = compare(made_result(1), made_result(2))
    assert {change.verdict for change in comparison.changes} == {"same"}
    assert not comparison.slower
    assert comparison.largest < 0.02
    assert compare(made_result(1), made_result(2), relative=True).largest < 0.02


def test_what_got_slower_is_found_and_nothing_else() -> None:
    comparison = compare(made_result(1), made_result(2, slower=1.1))
    slower = {change.name for change in comparison.changes if change.verdict == "slower"}
    assert slower == {c.name for c in comparison.changes if c.name.endswith("/weebill")}
    assert len(slower) == 8
    assert comparison.slower
    back = compare(made_result(2, slower=1.1), made_result(1), engines=("weebill",))
    assert {change.verdict for change in back.changes} == {"faster"}
    assert not back.slower
    allowed = compare(made_result(1), made_result(2, slower=1.1), threshold=0.2)
    assert not allowed.slower
    relative = compare(made_result(1), made_result(2, slower=1.1), relative=True)
    assert {change.verdict for change in relative.changes} == {"faster"}  # the others, by our time


def test_notes_tell_of_different_machines() -> None:
    other = made_result()
    other.context["cpu_model"] = "Another"
    other.rows[0].tainted = True
    notes = compare(made_result(), other).notes
    assert notes == (
        "different processors: Made <CPU> and Another",
        "B: 1 rows were disturbed by other work",
    )


def test_results_without_a_common_row_are_refused() -> None:
    with pytest.raises(ValueError, match="in common, got none"):
        compare(made_result(), Result({}))


def test_tables() -> None:
    result = made_result()
    summary = summary_table(result)
    assert len(summary.rows) == 9
    assert summary.rows[0][-2] == "openvino"
    assert float(summary.rows[-1][-1]) == pytest.approx(1.3, abs=0.02)
    details = detail_table(grouped(result.rows)[0])
    assert [row[0] for row in details.rows][-2:] == ["mnn", "litert"]
    assert "wrong; relative error 1e-01" in details.rows[-2][-1]
    assert all(len(row) == len(details.columns) for row in details.rows)
    assert "mnn: wrong: relative error 1e-01" in remarks(result)
    lines = list(csv.DictReader(io.StringIO(to_csv(result))))
    assert len(lines) == len(result.rows)
    assert float(lines[1]["ratio"]) == pytest.approx(1.3, abs=0.05)
    assert lines[4]["median_ms"] == ""
    assert to_markdown(Table("", ("a", "b"), (("1", "2"),), ("b",))) == (
        "| a | b |\n| --- | ---: |\n| 1 | 2 |\n"
    )
    cold = {"case": "c", "engine": "e", "threads": 1, "reason": "absent"}
    assert cold_table(Result({}, cold=[cold])).rows[0][-1] == "absent"


def test_an_engine_that_ignores_the_instruction_set_is_no_peer() -> None:
    rows = grouped(made_result().rows)[0]
    assert fastest_peer(rows).engine == "openvino"
    for row in rows:
        row.isa = "avx2"
    assert fastest_peer(rows) is None
