"""Tells cheaply, before every fused call, whether the packed weights are still the module's.

Watched are: the tensors (the object under its name, its in-place version, its memory, how it lies
there), the modules and the attributes that the records were made from, the modes and the hooks of
all modules inside. The memory is kept alive by the guard: as long as the old address is in use, a
new tensor cannot be taken for the old one.

Not seen: an in-place change through `tensor.data`, whose version counter is its own. `train()` and
`eval()` throw the packed weights away for that reason (module.py).

The looking is done in csrc/bindings/guard.cpp: a number per table where the interpreter numbers
their changes (CPython before 3.12), a few words per tensor where torch's memory is known
(memory.py). MobileNetV3-Large takes 2.4 us if all of it is in cache, 12 to 20 us after a forward.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from weebill import _C
from weebill.fusion import activations, memory
from weebill.fusion.effects import TORCHS

#: What `Guard.state` tells. FRESH is 0 in the core's guard.
FRESH = 0
BUSY = 1  # a module inside is in training mode or has hooks: the records wait
CHANGED = 2  # a module or an attribute changed: match again
STALE = 3  # a tensor changed: pack again

#: Attributes of leaf modules that records depend on.
_ATTRIBUTES = ("stride", "padding", "dilation", "padding_mode", "eps")
_LEAVES = (nn.Conv2d, _BatchNorm)


class Guard:
    """Watches what the records of `owner` were made from.

    Args:
        owner: The fused module. Its own mode and hooks are not watched: calling it sees to them.
        sources: (module path, tensor name) of every tensor that is packed.
        reads: By module path, the names of attributes that the forward reads.

    Attributes:
        tensors: The tensors that were packed.
        state: Called without arguments; FRESH, or what has changed since the guard was made.
    """

    def __init__(
        self,
        owner: nn.Module,
        sources: Iterable[tuple[str, str]],
        reads: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        self.tensors: list[Tensor] = []
        guard = _C.Guard(torch.Tensor._version, torch.Tensor.data_ptr, memory.layout())
        for path, module in owner.named_modules():
            inside = module is not owner
            _expect_structure(guard, module, reads.get(path, ()), inside=inside)
        modules = dict(owner.named_modules(remove_duplicate=False))
        for path, name in dict.fromkeys(sources):
            module = modules[path]
            table = module._buffers if name in module._buffers else module._parameters
            guard.expect_entry(table, name, STALE)
            tensor = table[name]
            if tensor is not None:
                guard.watch(tensor, tensor.detach(), STALE)
                self.tensors.append(tensor)
        self.state = guard.state


def _expect_structure(
    guard: _C.Guard, module: nn.Module, reads: Collection[str], *, inside: bool
) -> None:
    if inside:
        if not _ignores_mode(module):
            guard.expect_entry(module.__dict__, "training", BUSY)
        # those of the backward matter only where there is one: module.py looks at them there
        guard.expect_empty(module._forward_hooks, BUSY)
        guard.expect_empty(module._forward_pre_hooks, BUSY)
    if module._modules:
        guard.expect_size(module._modules, CHANGED)
        for name in module._modules:
            guard.expect_entry(module._modules, name, CHANGED)
    if not inside or activations.is_fixed(module):
        return  # the owner's __dict__ leads to the guard, and nobody would collect that: module.py
    if isinstance(module, _LEAVES) or "running_var" in module._buffers:
        names: Iterable[str] = _ATTRIBUTES
    else:
        names = module.__dict__ if type(module).__module__.startswith("torch.nn.") else reads
    for name in names:
        if name in module.__dict__ and name not in TORCHS and name != "_fusion":
            guard.expect_entry(module.__dict__, name, CHANGED)
    guard.expect_size(module.__dict__, CHANGED)  # a forward that is set on the object


def _ignores_mode(module: nn.Module) -> bool:
    """Whether it is one of torch's modules that compute the same in training."""
    depends = isinstance(module, (_BatchNorm, nn.modules.dropout._DropoutNd))
    return not depends and type(module).forward.__module__.startswith("torch.nn.modules.")


def packable(tensors: Iterable[Tensor]) -> bool:
    """Whether the tensors can be packed, and changes to them be seen."""
    return all(
        type(tensor) in _TYPES
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and not tensor.is_inference()
        for tensor in tensors
    )


_TYPES: tuple[type[Any], ...] = (Tensor, nn.Parameter, nn.Buffer)
