"""Several processes, as `torchrun` starts them; one process without it."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["World", "parallel", "process_group", "sum_over_processes"]


@dataclass(frozen=True)
class World:
    """The processes of this training.

    Attributes:
        rank: Of this process, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0


@contextlib.contextmanager
def process_group() -> Iterator[World]:
    """Joins the processes that `torchrun` started (by its environment variables), over gloo."""
    if distributed.is_available() and distributed.is_initialized():
        # The caller's own, who also ends it.
        yield World(distributed.get_rank(), distributed.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    # The default arguments of its functions hold the group that there is when it is imported: were
    # that this one, its threads would live until the interpreter ends, and abort the process when
    # they let go of a tensor then.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group("gloo")
    try:
        yield World(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def parallel(model: nn.Module, world: World) -> Iterator[nn.Module]:
    """The model whose gradients are the mean over all processes; must end before the process group.

    DistributedDataParallel's reducer holds the process group. Were it the last to let go of it, its
    destructor would wait, with the interpreter's lock, for a thread of gloo's that needs this lock.
    """
    if world.size == 1:
        yield model
        return
    wrapped = DistributedDataParallel(model)
    try:
        yield wrapped
    finally:
        del wrapped.logger, wrapped.reducer


def sum_over_processes(values: Sequence[float], world: World) -> list[float]:
    """The sums of every process's values."""
    if world.size == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(total)
    sums: list[float] = total.tolist()
    return sums
