"""Says what the camera sees: `python camera.py FILE.weebill`, without torch.

    python camera.py large.weebill                        # the Raspberry Pi's camera, by picamera2
    python camera.py large.weebill --source 0             # a USB camera, by OpenCV
    python camera.py large.weebill --source pictures/     # a folder of pictures, once each

Needs weebill and Pillow, and picamera2 or OpenCV for a camera.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import weebill.config
import weebill.data
import weebill.runtime

Pixels = NDArray[np.uint8]
SIZE = (640, 480)
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
# Weight of a new frame in the average that is shown: a label does not flicker.
NEW = 0.3


def from_folder(folder: Path) -> Iterator[Pixels]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(f"--source must be a folder with pictures, got '{folder}'")
    for path in files:
        yield weebill.data.read_image(path)


def from_picamera2() -> Iterator[Pixels]:
    from picamera2 import Picamera2

    with Picamera2() as camera:
        # libcamera names formats by their bytes from the last to the first: this is R, G, B.
        main = {"size": SIZE, "format": "BGR888"}
        camera.configure(camera.create_video_configuration(main=main))
        camera.start()
        while True:
            yield camera.capture_array("main")


def from_opencv(index: int) -> Iterator[Pixels]:
    import cv2

    camera = cv2.VideoCapture(index)
    try:
        camera.set(cv2.CAP_PROP_FRAME_WIDTH, SIZE[0])
        camera.set(cv2.CAP_PROP_FRAME_HEIGHT, SIZE[1])
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest
        while True:
            read, frame = camera.read()
            if not read:
                raise OSError(f"camera {index} gives no picture")
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        camera.release()


def frames(source: str) -> Iterator[Pixels]:
    if source == "picamera2":
        return from_picamera2()
    if source.isdecimal():
        return from_opencv(int(source))
    if Path(source).is_dir():
        return from_folder(Path(source))
    raise ValueError(f"--source must be 'picamera2', a number or a folder, got '{source}'")


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(scores.astype(np.float64) - scores.max())
    return powers / powers.sum()


def watch(model: weebill.runtime.Model, pictures: Iterator[Pixels], smooth: bool) -> None:
    """Prints a line per picture: label, probability, and the milliseconds of input and network."""
    labels = model.categories
    average: NDArray[np.float64] | None = None
    for pixels in pictures:
        start = time.perf_counter()
        x = model.preprocess(pixels)
        ready = time.perf_counter()
        scores = model(x)[0]
        end = time.perf_counter()
        found = softmax(scores)
        average = found if average is None or not smooth else average + NEW * (found - average)
        best = int(average.argmax())
        label = labels[best] if labels else f"class {best}"
        times = f"input {1e3 * (ready - start):.1f} ms, network {1e3 * (end - ready):.1f} ms"
        print(f"{label:30} {average[best]:4.0%}   {times}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a file of weebill.save or `weebill save`")
    parser.add_argument("--source", default="picamera2", help="'picamera2', a number or a folder")
    parser.add_argument("--threads", type=int, help="default: one for each core")
    given = parser.parse_args()
    try:
        if given.threads is not None:
            weebill.config.set_threads(given.threads)
        model = weebill.runtime.load(given.model)
        with contextlib.closing(frames(given.source)) as pictures:
            watch(model, pictures, smooth=not Path(given.source).is_dir())
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"camera.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
