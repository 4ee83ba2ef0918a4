"""`weebill detect` and `weebill segment`, on networks with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from weebill.cli._app import run
from weebill.cli._draw import draw_boxes, draw_masks
from weebill.models import lraspp_mobilenet_v3_large, ssdlite320_mobilenet_v3_large


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    detector = ssdlite320_mobilenet_v3_large(num_classes=4)
    torch.save(detector.state_dict(), folder / "ssd.pth")
    network = lraspp_mobilenet_v3_large(num_classes=4)
    # every pixel is of class 2
    network.classifier.low_classifier.bias.data[2] = 100.0
    torch.save(network.state_dict(), folder / "lraspp.pth")
    pixels = np.random.default_rng(7).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def read(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


def call(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


def test_detect(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, weights = files / "photo.png", files / "ssd.pth"
    assert call("detect", photo, "--weights", weights, "--threshold", 0.2, "--json") == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["model"] == "ssdlite320_mobilenet_v3_large"
    assert answer["size"] == [60, 80]
    assert answer["detections"]
    for found in answer["detections"]:
        assert found["index"] in (1, 2, 3)
        assert found["label"] == f"class {found['index']}"
        assert found["score"] >= 0.2
        x1, y1, x2, y2 = found["box"]
        assert 0 <= x1 <= x2 <= 80
        assert 0 <= y1 <= y2 <= 60
    drawn = read(tmp_path / answer["out"])
    assert drawn.shape == (60, 80, 3)
    assert (drawn != read(photo)).any()
    out = tmp_path / "nothing.jpg"
    assert call("detect", photo, "--weights", weights, "--threshold", 1, "--out", out) == 0
    text = capsys.readouterr().out
    assert "nothing with a score of 1 or more" in text
    assert str(out) in text
    assert read(out).shape == (60, 80, 3)


def test_segment(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, weights = files / "photo.png", files / "lraspp.pth"
    assert call("segment", photo, "--weights", weights, "--threads", 1, "--json") == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["threads"] == 1
    assert answer["classes"] == [{"label": "class 2", "index": 2, "pixels": 4800, "share": 1.0}]
    drawn = read(tmp_path / "photo-segment.png")
    assert (drawn != read(photo)).any()
    assert call("segment", photo, "--weights", weights) == 0
    assert "100.0%  class 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["detect", "no.png"], "no.png"),
        (["detect", "PHOTO", "--model", "mobilenet_v3_small"], "must be one of ssdlite320_mob"),
        (["segment", "PHOTO", "--model", "mobilenet_v3_small"], "must be one of deeplabv3_mob"),
        (["segment", "PHOTO", "--model", "lraspp_mobilenet"], "did you mean 'lraspp_mobilenet_v3"),
        (["detect", "PHOTO", "--weights", "no.pth"], "no.pth"),
        (["segment", "PHOTO", "--weights", "LRASPP", "--out", "no/x.png"], "no/x.png"),
        (["save", "lraspp_mobilenet_v3_large", "x.weebill"], "must be a classifier, got 'lraspp_m"),
        (["detect", "PHOTO", "--threshold", "2"], "see weebill --help"),
    ],
)
def test_errors_are_one_line(
    files: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"PHOTO": files / "photo.png", "LRASPP": files / "lraspp.pth"}
    assert call(*(names.get(word, word) for word in arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("weebill: ")
    assert printed.err.count("\n") == 1
    assert text in printed.err


def test_boxes_are_where_they_should_be() -> None:
    pixels = np.zeros((400, 400, 3), np.uint8)
    found = {"box": [100.0, 150.0, 300.0, 350.0], "index": 1, "label": "dog", "score": 0.5}
    drawn = np.asarray(draw_boxes(pixels, [found])).any(axis=2)
    assert drawn[350, 100:301].all()
    assert drawn[200:351, 300].all()
    assert not drawn[200:340, 110:290].any()
    assert not drawn[:140].any()


def test_masks_are_where_they_should_be() -> None:
    pixels = np.full((300, 400, 3), 100, np.uint8)
    mask = np.zeros((300, 400), np.int32)
    mask[200:, 250:] = 3
    classes = [{"index": 0, "label": "background"}, {"index": 3, "label": "cat"}]
    drawn = np.asarray(draw_masks(pixels, mask, classes))
    changed = (drawn != 100).any(axis=2)
    assert changed[200:, 250:].all()
    assert not changed[100:200].any()
    assert len(np.unique(drawn[200:, 250:].reshape(-1, 3), axis=0)) == 1
