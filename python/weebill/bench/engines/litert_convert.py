"""Converts a saved ``torch.export`` program to .tflite; run by the converter's own Python.

Usage: ``python litert_convert.py PROGRAM.pt2 MODEL.tflite SPATIAL``, where
SPATIAL is 1 when the output is an image (then it is NHWC too) and 0 when it is not.
"""

from __future__ import annotations

import sys

import litert_torch
import torch


def main() -> None:
    """Convert ``argv[1]`` to ``argv[2]``."""
    program = torch.export.load(sys.argv[1])
    outputs = [0] if sys.argv[3] == "1" else []
    x = next(iter(program.example_inputs[0]))
    module = litert_torch.to_channel_last_io(program.module(), args=[0], outputs=outputs)
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    litert_torch.convert(module, (torch.empty_like(nhwc).copy_(nhwc),)).export(sys.argv[2])


if __name__ == "__main__":
    main()
