"""An emulated board without torch: `python -m tests.emulated.board FOLDER` runs, by the runtime and
by the command line, the networks that make_models.py saved there; --float16: in it alone."""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import weebill
from weebill import config


def weebill_command(*arguments: str) -> Any:
    """What the installed command prints with --json."""
    script = Path(sys.executable).parent / "weebill"
    command = [str(script), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stderr}"
    return json.loads(done.stdout)


def check_runtime(folder: Path) -> int:
    """Every network gives the bits that it gave on the PC; with one thread and with two."""
    saved = sorted(folder.glob("*.weebill"))
    assert saved, f"no networks in {folder}"
    for path in saved:
        data = np.load(path.with_suffix(".npz"))
        model = weebill.runtime.load(path)
        for threads in (1, 2):
            config.set_threads(threads)
            np.testing.assert_array_equal(model(data["x"]), data["y"], path.stem, strict=True)
    config.set_threads(None)
    return len(saved)


def check_float16(folder: Path) -> int:
    """In float16 every network gives the bits of the PC's plain C++ and, where the trained ones saw
    the photo, the class of float32; a processor without such arithmetic says so."""
    for path in sorted(folder.glob("*.weebill")):
        if not config.info()["cpu"]["fp16"]:
            refused = ""
            try:
                weebill.runtime.load(path, precision="float16")
            except NotImplementedError as error:
                refused = str(error)
            assert "precision must be 'float32'" in refused, refused
            assert weebill.runtime.load(path, precision="auto").precision == "float32"
            continue
        data = np.load(path.with_suffix(".npz"))
        model = weebill.runtime.load(path, precision="auto")
        assert model.precision == "float16"
        for threads in (1, 2):
            config.set_threads(threads)
            y = model(data["x"][:1])
            np.testing.assert_array_equal(y, data["y16"], path.stem, strict=True)
        config.set_threads(None)
        if path.with_suffix(".json").exists():
            assert y.argmax() == data["y"][0].argmax(), path.stem
    return len(list(folder.glob("*.weebill")))


def check_classify(folder: Path) -> int:
    """`weebill classify` names the classes that it named on the PC."""
    expected = sorted(folder.glob("*.json"))
    assert expected, f"no results in {folder}"
    for path in expected:
        model = str(path.with_suffix(".weebill"))
        found = weebill_command("classify", str(folder / "photo.png"), "--model", model)
        compare_classes(found["results"], json.loads(path.read_text()))
    return len(expected)


def compare_classes(got: Any, expected: Any) -> None:
    got, expected = got[0]["classes"], expected[0]["classes"]
    assert [entry["label"] for entry in got] == [entry["label"] for entry in expected]
    # Equal scores; softmax in float64, whose exp is within a few units in the last place.
    ours, theirs = ([entry["probability"] for entry in which] for which in (got, expected))
    np.testing.assert_allclose(ours, theirs, rtol=64 * 2.0**-52)


def check_doctor() -> None:
    findings = {each["name"]: each for each in weebill_command("doctor")["findings"]}
    assert findings["instruction set"]["value"].startswith("neon"), findings
    # The others judge the machine that emulates: its load, its clock.
    for name in ("weebill", "python", "instruction set", "torch"):
        finding = findings[name]
        # Emulated on a busy machine, importing torch may take longer than a doctor waits.
        late = name == "torch" and "TimeoutExpired" in finding["value"]
        assert finding["status"] != "problem" or late, finding


def check_refusal() -> None:
    """An error arrives as an exception: the unwinder and the C++ library agree."""
    refused = ""
    try:
        config.set_isa("avx2")
    except ValueError as error:
        refused = str(error)
    assert "neon" in refused, "an instruction set of another architecture was taken"


def main(folder: Path, *, only_float16: bool) -> None:
    assert importlib.util.find_spec("torch") is None, "this environment must not have torch"
    assert platform.machine() == "aarch64", platform.machine()
    halves = check_float16(folder)
    if only_float16:
        print(f"{halves} networks in float16 on {config.isas()[0]}")
        return
    networks = check_runtime(folder)
    classified = check_classify(folder)
    check_doctor()
    check_refusal()
    print(f"{networks} networks on {config.isas()[0]}, {classified} of them by the command line")


if __name__ == "__main__":
    main(Path(sys.argv[1]), only_float16="--float16" in sys.argv)
