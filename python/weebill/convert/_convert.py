"""Puts fused calls into a model of any origin.

From the top down, the first modules whose whole forward is a chain of known blocks become fused
modules: for most classification networks that is the network itself, in one call. What lies inside
a fused module is fused on demand, should it be called by itself. Everything else stays as it is.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import torch
from torch import nn

from weebill.convert.copying import copied
from weebill.fusion import cost
from weebill.fusion.layers import NotFusable
from weebill.fusion.match import graph_of
from weebill.fusion.module import FusedModule, Fusion, fuse_in_place
from weebill.fusion.trace import Graph


def convert(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """A copy of the model for evaluation, with everything in it fused that can be.

    Parts are found by what they compute, not by their classes, and left where fusion does not pay.
    Each is checked against its plain forward before it takes over. The state dict, the modules and
    their names stay the same; the classes of fused modules become subclasses of what they were. The
    model still trains (as plain torch), is packed again when weights change, can be copied and
    pickled. Results of fused modules are channels_last.

    Args:
        model: Any module; it is put into evaluation mode.
        inplace: Change the model itself instead of a copy.

    Returns:
        The copy, or `model`. `weebill.report` tells what was done to it.

    Raises:
        TypeError: `model` is no module, or `inplace` no bool.

    Example:
        >>> import torch, weebill
        >>> fast = weebill.convert(weebill.models.mobilenet_v3_small())
        >>> with torch.inference_mode():
        ...     scores = fast(torch.rand(1, 3, 224, 224))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(inplace, bool):
        raise TypeError(f"convert: inplace must be a bool, got {inplace!r}")
    # a copy that is made in inference mode would not count its changes
    with _collecting_later(), torch.inference_mode(False), torch.no_grad():
        if not inplace:
            model = copied(model)
        model.eval()
        _convert(model)
    return model


@contextlib.contextmanager
def _collecting_later() -> Iterator[None]:
    """What is made here lives on, most of it: a collection in between finds nothing, and goes
    through all that the import of torch has left, which takes longer than the conversion."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _convert(module: nn.Module) -> None:
    if try_to_fuse(module):
        for inner in module.modules():
            if _may_be_fused(inner):
                fuse_in_place(inner)
        return
    for child in module.children():
        _convert(child)


def try_to_fuse(module: nn.Module) -> bool:
    """Makes the module a fused one and packs it, if its forward has a fused form."""
    if not _may_be_fused(module):
        return isinstance(module, FusedModule) and module.fusion.prepare(module)
    try:
        graph = graph_of(module)
    except NotFusable:
        return False
    plain: type[nn.Module] = type(module)
    fuse_in_place(module)
    assert isinstance(module, FusedModule)
    for splits in (False, True):
        fusion = module.__dict__["_fusion"] = Fusion(splits=splits)
        if fusion.prepare(module, graph) and not _objection(fusion, graph):
            return True
    module.__dict__.pop("_fusion", None)
    module.__class__ = plain  # type: ignore[assignment]
    return False


def _objection(fusion: Fusion, graph: Graph) -> str:
    if fusion.program is None:  # in parts: each of them pays
        return ""
    return cost.objection(fusion.program.blocks, fusion.records(), graph.trial_input.shape)


def _may_be_fused(module: nn.Module) -> bool:
    """Whether the module is a container that is no fused module yet.

    A single layer gains nothing: torch runs it as well, and without a change of memory layout.
    """
    return (
        bool(module._modules)
        and not isinstance(module, FusedModule)
        and not isinstance(module, (nn.ModuleList, nn.ModuleDict, torch.jit.ScriptModule))
        and "forward" not in module.__dict__
    )
