"""Commands that need no torch, in processes where there is none; and `save`, which feeds them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import weebill
from tests.runtime.files import document, write_file
from weebill.data import ImageClassification, read_image
from weebill.models import mobilenet_v3_small

PRESET = ImageClassification(crop_size=64, resize_size=64)
NAMES = [f"thing {i}" for i in range(7)]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(3)
    return weebill.convert(mobilenet_v3_small(num_classes=7))


@pytest.fixture
def folder(tmp_path: Path, model: torch.nn.Module) -> Path:
    weebill.save(model, tmp_path / "small.weebill", preprocessing=PRESET, categories=NAMES)
    pixels = np.random.default_rng(7).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line where torch can't be imported."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"sys.argv = ['weebill', *{list(arguments)!r}]\n"
        "from weebill.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_classify(folder: Path, model: torch.nn.Module) -> None:
    options = ("--model", "small.weebill", "--topk", "3", "--threads", "2", "--json")
    result = run(folder, "classify", "photo.png", *options)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["threads"] == 2
    assert found["input"] == [1, 3, 64, 64]
    classes = found["results"][0]["classes"]
    with torch.inference_mode():
        x = PRESET(read_image(folder / "photo.png"))[None]
        best = model(x)[0].double().softmax(0).topk(3)
    assert [entry["index"] for entry in classes] == best.indices.tolist()
    assert [entry["label"] for entry in classes] == [NAMES[i] for i in best.indices.tolist()]
    probabilities = [entry["probability"] for entry in classes]
    np.testing.assert_allclose(probabilities, best.values.tolist(), rtol=1e-6)
    text = run(folder, "classify", "photo.png", "--model", "small.weebill").stdout
    assert "thing" in text
    assert "small.weebill (saved by weebill" in text
    assert ", float32" in text
    half = {"WEEBILL_ISA": "scalar"}
    result = run(folder, "classify", "photo.png", *options, "--precision", "float16", **half)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["precision"] == "float16"
    assert found["results"][0]["classes"] != classes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "missing.weebill"], "missing.weebill"),
        (["--model", "photo.weebill"], "must be an intact weebill file"),
        (["--model", "small.weebill", "--compare"], "--compare must go with a network's name"),
        (["--model", "small.weebill", "--weights", "x"], "--weights must go with"),
        (["--model", "small.weebill", "--precision", "float16"], "must be 'float32' with"),
        (["--model", "small.weebill", "--precision", "int8"], "int8"),
        (["--model", "two.weebill"], "must give scores of classes"),
        (["--model", "plain.weebill"], "must tell how"),
        (["--model", "names.weebill"], "must have a name for each of its 7 classes, got 2"),
        (["--model", "mobilenet_v3_small"], "torch is needed for this and is not installed"),
    ],
)
def test_errors_are_one_line(
    folder: Path, model: torch.nn.Module, arguments: list[str], words: str
) -> None:
    if "names" in arguments[1]:
        weebill.save(model, folder / "names.weebill", preprocessing=PRESET, categories=NAMES[:2])
    elif "plain" in arguments[1]:
        weebill.save(model, folder / "plain.weebill", input_shape=(1, 3, 64, 64))
    elif "two" in arguments[1]:
        write_file(folder / "two.weebill", document())
    elif "photo" in arguments[1]:
        (folder / "photo.weebill").write_bytes((folder / "photo.png").read_bytes())
    result = run(folder, "classify", "photo.png", *arguments)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_doctor_and_info(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, "doctor", "--json").stdout)["findings"]
    assert {"instruction set", "threads", "page size"} <= {entry["name"] for entry in found}
    text = run(tmp_path, "doctor").stdout
    assert "instruction set" in text
    assert run(tmp_path, "info").returncode == 0


def test_save(tmp_path: Path) -> None:
    weights = tmp_path / "small.pth"
    torch.save(mobilenet_v3_small(num_classes=5).state_dict(), weights)
    command = [sys.executable, "-m", "weebill.cli", "save", "mobilenet_v3_small"]
    result = subprocess.run(
        [*command, "out.weebill", "--weights", str(weights), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["file"] == "out.weebill"
    loaded = weebill.runtime.load(tmp_path / "out.weebill")
    assert loaded.preprocessing is not None
    assert loaded.output_shapes() == (1, 5)
