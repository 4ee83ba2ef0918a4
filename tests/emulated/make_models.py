"""Saves one network of each family with random weights, an input, and what torch gives for it:
`make_models.py FOLDER`, run on the machine that emulates."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import weebill

# Small images: emulation is some hundred times slower than the machine.
NETWORKS = {"mobilenet_v3_small": 64, "mobilenet_v3_large": 64, "mobilenet_v2": 64}
NETWORKS |= {"efficientnet_lite0": 64}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in NETWORKS.items():
        torch.manual_seed(0)
        model = weebill.models.create_model(name).eval()
        x = torch.randn(2, 3, size, size)
        with torch.inference_mode():
            y = model(x)
        weebill.save(weebill.convert(model), folder / f"{name}.weebill")
        np.savez(folder / f"{name}.npz", x=x.numpy(), y=y.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
