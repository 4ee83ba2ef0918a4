"""An emulated board with torch: `python -m tests.emulated.with_torch FOLDER`. The operators
register themselves; converted networks with the weights of the package give the bits of the PC's
runtime."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

import weebill
from tests.emulated.board import check_doctor, check_runtime, compare_classes, weebill_command
from tests.emulated.make_models import TRAINED


def check_network(folder: Path, name: str, weights: str) -> None:
    data = np.load(folder / f"{name}.npz")
    x = torch.from_numpy(data["x"])
    fused = weebill.convert(weebill.models.create_model(name, weights=weights).eval())
    with torch.inference_mode():
        for layout in (torch.contiguous_format, torch.channels_last):
            got = fused(x.contiguous(memory_format=layout))
            np.testing.assert_array_equal(got.numpy(), data["y"], name, strict=True)


def check_classify(folder: Path, name: str, weights: str) -> None:
    photo = str(folder / "photo.png")
    options = ("--model", name, "--weights", weights, "--threads", "1")
    found = weebill_command("classify", photo, *options)
    compare_classes(found["results"], json.loads((folder / f"{name}.json").read_text()))


def main(folder: Path) -> None:
    assert weebill.config.isa().startswith("neon")
    torch.set_num_threads(1)
    check_runtime(folder)
    for name, weights in TRAINED.items():
        check_network(folder, name, weights)
        check_classify(folder, name, weights)
    check_doctor()
    way = type(torch.ops.weebill.pointwise_conv2d.default).__name__
    print(f"torch {torch.__version__}: {len(TRAINED)} networks ({way})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
