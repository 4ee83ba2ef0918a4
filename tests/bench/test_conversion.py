"""Conversion for many engines: what shares a process, what is made once, and what fails alone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.bench.small import small_case
from weebill.bench import conversion
from weebill.bench.case import Case, make_case
from weebill.bench.conversion import convert
from weebill.bench.engines import make_engine
from weebill.bench.options import Options


def quiet(_what: str, _share: float) -> None:
    """No progress."""


class Recorder:
    """In a worker's place: notes what each process is told to convert."""

    processes: list[list[tuple[str, str]]]

    def __init__(self, _engine: str, _environment: dict[str, str]) -> None:
        self.jobs: list[tuple[str, str]] = []
        Recorder.processes.append(self.jobs)

    def call(self, request: str, name: str, folder: str) -> None:
        """A request of `convert`."""
        assert request == "export"
        self.jobs.append((name, folder))

    def close(self) -> None:
        """Nothing to end."""


def test_slow_converters_have_a_process_and_the_others_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small_case(tmp_path)
    cases = [first, make_case("second", first.blocks, tmp_path)]
    Recorder.processes = []
    monkeypatch.setattr(conversion, "Worker", Recorder)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    names = ("mnn", "executorch", "torch", "litert")
    assert convert(cases, dict.fromkeys(names, "1"), Options("models"), quiet) == {}
    assert [{name for name, _ in jobs} for jobs in Recorder.processes] == [
        {"executorch"},
        {"litert"},
        {"mnn", "torch"},
    ]
    done = [job for jobs in Recorder.processes for job in jobs]
    assert sorted(done) == sorted((name, str(case.folder)) for name in names for case in cases)


def test_what_was_converted_before_is_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case(tmp_path)
    versions = {"weebill_native": make_engine("weebill_native").version()}
    assert convert([case], versions, Options("models"), quiet) == {}
    assert (case.folder / f"weebill_native-{versions['weebill_native']}/model.weebill").is_file()
    monkeypatch.setattr(conversion, "Worker", None)
    assert convert([case], versions, Options("models"), quiet) == {}


def test_a_case_that_cannot_be_converted_is_the_only_one(tmp_path: Path) -> None:
    sound = small_case(tmp_path)
    broken = make_case("broken", sound.blocks, tmp_path)
    (broken.folder / "weights.npz").unlink()
    versions = {"weebill_native": make_engine("weebill_native").version()}
    failed = convert([broken, sound], versions, Options("models"), quiet)
    assert list(failed) == [("weebill_native", broken.folder)]
    assert "weights.npz" in failed["weebill_native", broken.folder]
    assert sound.export_folder(make_engine("weebill_native")).is_dir()


def test_a_folder_is_made_once_and_whole(tmp_path: Path) -> None:
    case = small_case(tmp_path)
    calls: list[Path] = []

    def make(_case: Case, folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("whole")

    assert (case.made("shared", make) / "file").read_text() == "whole"
    assert case.made("shared", make) == case.folder / "shared"
    assert len(calls) == 1

    def beaten(_case: Case, folder: Path) -> None:
        (folder / "file").write_text("second")
        (case.folder / "late").mkdir()
        (case.folder / "late" / "file").write_text("first")

    assert (case.made("late", beaten) / "file").read_text() == "first"

    def fail(_case: Case, folder: Path) -> None:
        (folder / "file").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        case.made("never", fail)
    assert not (case.folder / "never").exists()
    assert not list(case.folder.glob("partial-*"))


def test_converters_that_leave_files_do_so_in_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case(tmp_path)
    places: list[Path] = []

    def run(command: list[str], cwd: Path, **_rest: Any) -> subprocess.CompletedProcess[str]:
        places.append(cwd)
        (cwd / "model.mnn").write_text("")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("weebill.bench.engines.mnn.exported_onnx", lambda case: case.folder)
    for name in ("one", "two"):
        case.made(name, make_engine("mnn").export)
    assert len(set(places)) == 2
    assert all(place.parent == case.folder for place in places)


@pytest.mark.parametrize("name", ["weebill", "torch", "torch_nhwc", "torch_folded"])
def test_engines_of_torch_stay_in_inference_mode(tmp_path: Path, name: str) -> None:
    case = small_case(tmp_path)
    engine = make_engine(name)
    session: Any = engine.load(case.exported(engine), case.input(), 1)
    with session.active():
        session.run()
        assert session._y.is_inference()
    assert session.output().shape == case.reference().shape
