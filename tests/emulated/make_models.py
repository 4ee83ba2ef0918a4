"""What the emulated boards are given, made on the PC that emulates:
`python -m tests.emulated.make_models FOLDER [--trained]`.

Saves one network of each family with the trained weights of the package, some more with random
ones unless --trained is given, a photo, and what they give on this PC. Every output of a kernel
is its bias followed by one fused multiply-add per input in a fixed order, on every instruction set
that has a fused one. So what this PC computes and what a board computes may differ by nothing: the
boards compare bits.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import weebill
from weebill import config

TRAINED = {
    "mobilenet_v3_small": "FASHION_MNIST_X0_5",
    "shufflenet_v2_x0_5": "FASHION_MNIST_V1",
}
RANDOM = ("mobilenet_v3_large", "shufflenet_v2_x1_0", "mobilenet_v2", "efficientnet_lite0")
# Small images: emulation is some hundred times slower than the machine.
SIZE = 64


def draw_photo(path: Path) -> None:
    """A T-shirt, as Fashion-MNIST's: light on black."""
    image = Image.new("RGB", (112, 112))
    shirt = [(36, 8), (76, 8), (110, 34), (98, 52), (82, 42), (82, 104), (30, 104), (30, 42)]
    ImageDraw.Draw(image).polygon([*shirt, (14, 52), (2, 34)], fill=(190, 190, 200))
    image.save(path)


def save_outputs(file: Path, x: np.ndarray) -> None:
    """The input, and what the runtime of this PC gives for it; of one image in float16 too, by the
    plain C++ that rounds as a processor with such arithmetic does."""
    y = weebill.runtime.load(file)(x)
    with config.use_isa("scalar"):
        y16 = weebill.runtime.load(file, precision="float16")(x[:1])
    np.savez(file.with_suffix(".npz"), x=x, y=y, y16=y16)


def main(folder: Path, *, trained_only: bool) -> None:
    if config.isa() == "scalar":
        raise SystemExit("make_models: this PC must have fused multiply-adds, to compare bits")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    photo = folder / "photo.png"
    draw_photo(photo)
    command = [sys.executable, "-m", "weebill.cli"]
    for name, weights in TRAINED.items():
        file = folder / f"{name}.weebill"
        subprocess.run([*command, "save", name, str(file), "--weights", weights], check=True)
        classified = [*command, "classify", str(photo), "--model", str(file), "--json"]
        done = subprocess.run(classified, check=True, capture_output=True, text=True)
        results = json.loads(done.stdout)["results"]
        assert results[0]["classes"][0]["label"] == "T-shirt/top", results
        file.with_suffix(".json").write_text(json.dumps(results))
        # The photo, and noise, which reaches the activations' other branches.
        x = weebill.runtime.load(file).preprocess(weebill.data.read_image(photo))
        noise = np.random.default_rng(0).standard_normal((3, *x.shape[1:]), dtype=np.float32)
        save_outputs(file, np.concatenate([x, noise]))
    for name in () if trained_only else RANDOM:
        torch.manual_seed(0)
        file = folder / f"{name}.weebill"
        weebill.save(weebill.models.create_model(name).eval(), file)
        x = np.random.default_rng(0).standard_normal((2, 3, SIZE, SIZE), dtype=np.float32)
        save_outputs(file, x)


if __name__ == "__main__":
    main(Path(sys.argv[1]), trained_only="--trained" in sys.argv)
