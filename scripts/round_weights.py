"""round_weights.py FILE BITS [FOLDER]: rounds float16 weights, a file of `weebill train --half`, to
BITS significant bits, measures the converted network on Fashion-MNIST's test images in FOLDER, and
writes both into FILE.

Zeros at the end of a number are what a compressed archive, a wheel, stores in no space: of 11 bits,
the last ones of a trained weight are noise that takes as much as all others.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from weebill.models import create_model, save_weights
from weebill.models._metadata import read_description
from weebill.models._state_dict import read_state_dict
from weebill.train import FashionMNIST, evaluate

SIGNIFICANT_BITS = 11  # of float16, the implied one too


def rounded(weight: Tensor, bits: int) -> Tensor:
    """The nearest numbers of so many bits; of two as near, the one whose last bit is zero."""
    if weight.dtype != torch.float16:
        return weight
    unit = 1 << (SIGNIFICANT_BITS - bits)
    # A float16's bits are in the order of its magnitude: what is carried out of the significand
    # goes to the exponent, as it should.
    pattern = weight.view(torch.int16).int() & 0xFFFF
    odd = (pattern // unit) & 1
    pattern = (pattern + unit // 2 - 1 + odd) // unit * unit if unit > 1 else pattern
    result = pattern.to(torch.int16).view(torch.float16)
    if not result.isfinite().all():
        raise ValueError("round_weights: weights must not round to infinity")
    return result


def main(file: Path, bits: int, folder: Path) -> None:
    description = read_description(file)
    if description is None or not 2 <= bits <= SIGNIFICANT_BITS:
        raise ValueError("round_weights: FILE must be of `weebill train`, and BITS 2 to 11")
    arguments, preset, meta = description
    weights = {key: rounded(value, bits) for key, value in read_state_dict(file).items()}
    model = create_model(meta["model"], num_classes=len(meta["categories"]), **arguments)
    model.load_state_dict(weights)
    found = evaluate(model, FashionMNIST(folder, "test"))
    accuracy = {
        "acc@1": round(100 * found.accuracy, 2),
        "acc@5": round(100 * found.accuracy5, 2),
        "significant_bits": bits,
    }
    save_weights(
        file, weights, arguments=arguments, preset=preset, meta={**meta, **accuracy}, half=True
    )
    print(f"{file.name}: {accuracy} on {found.images} images")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        Path(sys.argv[3] if len(sys.argv) > 3 else "/usr/share/datasets/fashion-mnist"),
    )
