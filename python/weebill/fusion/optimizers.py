"""Steps of optimizers that change weights unseen.

torch counts the changes of a tensor in place, and the guard looks at the count. The kernels of
optimizers with `fused=True` do not count theirs: behind such a step, records of weights that it has
moved are dropped.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

if TYPE_CHECKING:
    from weebill.fusion.module import Fusion

_watched: weakref.WeakSet[Fusion] = weakref.WeakSet()
_lock = threading.Lock()
_registered: list[object] = []


def watch(fusion: Fusion) -> None:
    """From now on, its records are dropped where a step moves what they were made from."""
    with _lock:
        _watched.add(fusion)
        if not _registered:
            _registered.append(register_optimizer_step_post_hook(_after_step))


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    moved = {
        id(tensor)
        for group in optimizer.param_groups
        if group.get("fused")
        for tensor in group["params"]
    }
    if not moved:
        return
    with _lock:
        watched = list(_watched)
    for fusion in watched:
        if fusion.depends_on(moved):
            fusion.forget()
