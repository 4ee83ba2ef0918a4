"""`weebill train`: options, files, resume, and what comes out of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.data import write_fashion_mnist
from weebill.cli._app import run
from weebill.cli.train import _parse_option
from weebill.models import get_weights

SMALL = ("--model-option", "width_mult=0.35", "--epochs", "2", "--batch-size", "32", "--flip", "0")


@dataclass
class Result:
    """What a process would leave."""

    returncode: int
    stdout: str
    stderr: str


Weebill = Callable[..., Result]


@pytest.fixture
def weebill(capsys: pytest.CaptureFixture[str]) -> Weebill:
    """The command in this process, which saves seconds of importing torch."""

    def call(*arguments: object) -> Result:
        code = run(list(map(str, arguments)))
        return Result(code, *capsys.readouterr())

    return call


def weebill_process(*arguments: object) -> Result:
    """The command as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "weebill.cli", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_train_then_classify(tmp_path: Path, weebill: Weebill) -> None:
    data, output = write_fashion_mnist(tmp_path), tmp_path / "run"
    common = ("train", data, "--output", output, "--no-tensorboard", *SMALL, "--warmup-epochs", 0.5)
    result = weebill_process(*common, "--model-option", "stem_stride=1")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2"]
    assert result.stderr == ""

    resumed = weebill(*common, "--model-option", "stem_stride=1", "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    epochs = json.loads(resumed.stdout)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]

    chosen = get_weights("mobilenet_v3_small", output / "model.safetensors")
    assert chosen.arguments == {"in_channels": 1, "stem_stride": 1, "width_mult": 0.35}
    assert chosen.meta["model"] == "mobilenet_v3_small"
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((30, 40), 200, np.uint8)).save(photo)
    file = output / "model.safetensors"
    answer = weebill(
        "classify", photo, "--model", "mobilenet_v3_small", "--weights", file, "--json"
    )
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    assert document["input"] == [1, 1, 28, 28]
    assert document["results"][0]["classes"][0]["label"] in chosen.meta["categories"]


def test_train_on_a_folder_from_weights(tmp_path: Path, weebill: Weebill) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(8):
                pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    first = tmp_path / "first"
    common = ("train", tmp_path / "photos", "--no-tensorboard", "--image-size", 32)
    small = (*SMALL, "--batch-size", 8, "--warmup-epochs", 0)
    result = weebill(*common, "--output", first, *small, "--grey")
    assert result.returncode == 0, result.stderr
    # The width is the weights'; another number of channels would not fit them.
    file = first / "model.safetensors"
    again = weebill(
        *common, "--output", tmp_path / "second", *small[2:], "--grey", "--weights", file
    )
    assert again.returncode == 0, again.stderr
    second = get_weights("mobilenet_v3_small", tmp_path / "second" / "model.safetensors")
    assert second.arguments == {"width_mult": 0.35, "in_channels": 1}
    assert second.preset.crop_size == 32
    assert second.meta["categories"] == ["ant", "bee"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "DATA must be an existing folder, got 'nowhere'"),
        (["."], "DATA must hold the folders train and val"),
        ([".", "--lr", "-1"], "lr must be finite and not negative, got -1.0"),
    ],
)
def test_train_mistakes_are_one_line(
    tmp_path: Path,
    arguments: list[str],
    words: str,
    weebill: Weebill,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = weebill("train", *arguments, "--output", "out")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_model_options() -> None:
    assert _parse_option("width_mult=0.5") == ("width_mult", 0.5)
    assert _parse_option("reduced_tail=true") == ("reduced_tail", True)
    assert _parse_option("gate=hard") == ("gate", "hard")
    for text in ("width_mult", "=3", "a-b=1"):
        with pytest.raises(ValueError, match="must be NAME=VALUE"):
            _parse_option(text)
