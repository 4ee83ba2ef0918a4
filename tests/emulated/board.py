"""A board without torch: `board.py FOLDER` runs the networks that make_models.py saved there, by
the runtime, and sees that an error arrives as an exception."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np

import weebill
from weebill import config


def check(got: np.ndarray, expected: np.ndarray, name: str) -> None:
    scale = float(np.abs(expected).max())
    error = float(np.abs(got - expected).max()) / scale
    assert error < 2e-5, f"{name}: largest difference {error:.1e} of the largest value"


def main(folder: Path) -> None:
    assert importlib.util.find_spec("torch") is None, "this environment must not have torch"
    saved = sorted(folder.glob("*.weebill"))
    assert saved, f"no networks in {folder}"
    for path in saved:
        data = np.load(path.with_suffix(".npz"))
        model = weebill.runtime.load(path)
        check(model(data["x"]), data["y"], path.stem)
    refused = ""
    try:
        config.set_isa("avx2")
    except ValueError as error:
        refused = str(error)
    assert "neon" in refused, "an instruction set of another architecture was taken"
    print(f"{len(saved)} networks on {config.isas()[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
