"""examples/raspberry-pi: the camera loop on a folder, and on cameras that are stand-ins."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import weebill
from weebill.data import ImageClassification, read_image
from weebill.models import shufflenet_v2_x0_5

SCRIPT = Path(__file__).parents[2] / "examples" / "raspberry-pi" / "camera.py"
PRESET = ImageClassification(crop_size=32, resize_size=32)

# Modules of the cameras' names that give two red frames; then the camera is gone.
PICAMERA2 = """
import numpy as np
class Picamera2:
    frames = 0
    def __enter__(self): return self
    def __exit__(self, *error): print("closed")
    def create_video_configuration(self, main):
        assert main["format"] == "BGR888"
        return main
    def configure(self, main): self.size = main["size"]
    def start(self): pass
    def capture_array(self, stream):
        self.frames += 1
        if self.frames > 2: raise OSError("the cable is off")
        return np.broadcast_to(np.uint8([200, 0, 0]), (*self.size[::-1], 3))
"""
OPENCV = """
import numpy as np
CAP_PROP_FRAME_WIDTH = CAP_PROP_FRAME_HEIGHT = CAP_PROP_BUFFERSIZE = COLOR_BGR2RGB = 0
def cvtColor(frame, code): return frame[..., ::-1]
class VideoCapture:
    frames = 0
    def __init__(self, index): assert index == 1
    def set(self, *setting): pass
    def release(self): print("closed")
    def read(self):
        self.frames += 1
        return self.frames <= 2, np.broadcast_to(np.uint8([0, 0, 200]), (480, 640, 3))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that tells colours apart, somehow, and pictures."""
    folder = tmp_path_factory.mktemp("board")
    torch.manual_seed(5)
    model = shufflenet_v2_x0_5(num_classes=4).eval()
    names = [f"colour {i}" for i in range(4)]
    weebill.save(model, folder / "net.weebill", preprocessing=PRESET, categories=names)
    (folder / "pictures").mkdir()
    for name, colour in (("a.png", (200, 0, 0)), ("b.jpg", (0, 0, 200)), ("c.txt", None)):
        if colour is None:
            (folder / "pictures" / name).write_text("no picture")
        else:
            Image.new("RGB", (640, 480), colour).save(folder / "pictures" / name)
    (folder / "empty").mkdir()
    (folder / "picamera2.py").write_text(PICAMERA2)
    (folder / "cv2.py").write_text(OPENCV)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script where torch can't be imported and the stand-ins are found first."""
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.path.insert(0, '.')\n"
        f"sys.argv = {['camera.py', *arguments]!r}\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def best(folder: Path, pixels: np.ndarray) -> tuple[str, int]:
    model = weebill.runtime.load(folder / "net.weebill")
    scores = torch.from_numpy(model(model.preprocess(pixels))[0]).double().softmax(0)
    return f"colour {int(scores.argmax())}", round(100 * float(scores.max()))


LINE = re.compile(r"(colour \d) +(\d+)%   input [\d.]+ ms, network [\d.]+ ms$", re.MULTILINE)


def test_folder(folder: Path) -> None:
    done = run(folder, "net.weebill", "--source", "pictures", "--threads", "1")
    assert done.returncode == 0, done.stderr
    found = [(label, int(share)) for label, share in LINE.findall(done.stdout)]
    pictures = (folder / "pictures" / "a.png", folder / "pictures" / "b.jpg")
    assert found == [best(folder, read_image(path)) for path in pictures]


@pytest.mark.parametrize(
    ("options", "words"),
    [((), "the cable is off"), (("--source", "1"), "camera 1 gives no picture")],
)
def test_cameras(folder: Path, options: tuple[str, ...], words: str) -> None:
    done = run(folder, "net.weebill", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    red = best(folder, np.full((480, 640, 3), (200, 0, 0), np.uint8))
    assert [(label, int(share)) for label, share in LINE.findall(done.stdout)] == [red, red]
    assert done.stdout.endswith("closed\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.weebill", "--source", "pictures"], "missing.weebill"),
        (["net.weebill", "--source", "empty"], "a folder with pictures, got 'empty'"),
        (["net.weebill", "--source", "nowhere"], "must be 'picamera2', a number or a folder"),
        (["net.weebill", "--source", "pictures", "--threads", "0"], "threads"),
    ],
)
def test_mistakes(folder: Path, arguments: list[str], words: str) -> None:
    done = run(folder, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
