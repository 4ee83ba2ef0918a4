"""Converts saved ``torch.export`` programs to .tflite; run by the converter's own Python.

Importing it takes longer than converting a network, so one process converts them all: it reads
lines ``PROGRAM.pt2<tab>MODEL.tflite<tab>SPATIAL`` and answers each with an empty line, or with what
went wrong. SPATIAL is 1 when the output is an image (then it is NHWC too) and 0 when it is not.
"""

from __future__ import annotations

import gc
import os
import sys

import litert_torch
import torch


def convert(source: str, target: str, spatial: str) -> None:
    """One program."""
    program = torch.export.load(source)
    outputs = [0] if spatial == "1" else []
    x = next(iter(program.example_inputs[0]))
    module = litert_torch.to_channel_last_io(program.module(), args=[0], outputs=outputs)
    nhwc = x.permute(0, 2, 3, 1).contiguous()
    litert_torch.convert(module, (torch.empty_like(nhwc).copy_(nhwc),)).export(target)


def main() -> None:
    """Until the input ends."""
    gc.set_threshold(100_000, 20, 20)  # graphs are made of millions of objects that stay
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # the converter prints what it does
        for line in sys.stdin:
            problem = ""
            try:
                convert(*line.rstrip("\n").split("\t"))
            except Exception as error:
                problem = f"{type(error).__name__}: {error}".replace("\n", " ")[-400:]
            print(problem, file=answers, flush=True)


if __name__ == "__main__":
    main()
