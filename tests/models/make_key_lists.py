"""Writes keys/*.json: the state_dict keys and shapes of torchvision's models, and keys/variants.

Run by hand where torchvision can be imported: python -m tests.models.make_key_lists
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.models.conftest import import_torchvision

KEYS = Path(__file__).parent / "keys"


def main() -> None:
    models = import_torchvision().models
    variants = json.loads((KEYS / "variants.json").read_text())
    for name, (builder, arguments) in variants.items():
        with torch.device("meta"):
            state_dict = getattr(models, builder)(**arguments).state_dict()
        lines = [f'"{key}": {list(value.shape)}' for key, value in state_dict.items()]
        (KEYS / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
