"""A program with its weights in records, ready to run."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weebill import _C, _ops
from weebill._errors import fail
from weebill.fusion.fold import fold
from weebill.fusion.match import Program
from weebill.fusion.pack import pack_all


class Packed:
    """Records of a program of `owner`'s layers, made from what their weights are now."""

    def __init__(self, owner: nn.Module, program: Program) -> None:
        records, sizes = pack_all(program.blocks, functools.partial(fold, owner))
        self.records = torch.from_numpy(records)
        self.geometry = _C.geometry(records)
        self._ends = np.cumsum(sizes)
        self.program = program
        self.input_rank = program.input_rank
        self.output_rank = program.output_rank

    @property
    def separate(self) -> list[NDArray[np.uint8]]:
        """A record per block."""
        return np.split(self.records.numpy(), self._ends[:-1])

    def run(self, x: Tensor) -> Tensor:
        """The program on x, of the ranks that it has in the forward."""
        if self.input_rank == 2:
            x = x[:, :, None, None]
        y = self.run_records(x)
        return y if self.output_rank == 4 else y.flatten(1)

    def run_records(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        try:
            return _ops.run(x, self.records, self.geometry)
        except RuntimeError as error:
            fail(error, "run", x=x)
