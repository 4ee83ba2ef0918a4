"""A program with its weights in records, ready to run."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weebill import _C, _ops
from weebill._errors import fail
from weebill.fusion.fold import fold
from weebill.fusion.match import Program
from weebill.fusion.pack import pack_all

# as globals: behind a network each look-up is of memory that is in no cache
_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_tracing_state: Callable[[], object] = torch._C._get_tracing_state


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
        return self.run_records(x, self.output_rank == 2)

    def run_records(self, x: Tensor, flatten: bool = False) -> Tensor:
        """(N, C, H, W) to (N, O, H', W'), or with all but the first of these as one."""
        # what computes at once reads the records alone, and torch takes 2 to 5 us to hand on a list
        # of some hundred integers; the geometry is for who sees the call and may not compute
        seen = type(x) is not Tensor or _modes() or _tracing_state() is not None
        try:
            return _ops.run_now(x, self.records, self.geometry if seen else [], flatten)
        except RuntimeError as error:
            fail(error, "run", x=x)
