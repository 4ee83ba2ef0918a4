"""A case: one float32 module, one input, and the answer in float64.

A case lives in a folder of its own under the cache, named by a hash of weights and input, so
that exports made by slow converters are reused and worker processes can load it by path::

    <cache>/<name>-<hash>/module.pt input.npy reference.npy case.json <engine>-<version>/...
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bench.vision import import_vision

if TYPE_CHECKING:
    from bench.engines.base import Engine


@dataclass(frozen=True)
class Case:
    """One module with its input; `folder` holds everything, so a case pickles cheaply."""

    name: str
    folder: Path
    shape: tuple[int, ...]  # of the input, NCHW
    macs: int  # multiply-adds of one inference

    def module(self) -> nn.Module:
        """The plain float32 eval module (the file is this program's own)."""
        import_vision("torchvision")  # the pickle names its classes
        module: nn.Module = torch.load(self.folder / "module.pt", weights_only=False)
        return module

    def input(self) -> npt.NDArray[np.float32]:
        """The NCHW input."""
        x: npt.NDArray[np.float32] = np.load(self.folder / "input.npy")
        return x

    def reference(self) -> npt.NDArray[np.float64]:
        """The float64 output."""
        y: npt.NDArray[np.float64] = np.load(self.folder / "reference.npy")
        return y

    def exported(self, engine: Engine) -> Path:
        """Folder with the engine's file, made on first use and complete when it exists."""
        final = self.folder / f"{engine.name}-{engine.version()}"
        if not final.exists():
            partial = Path(tempfile.mkdtemp(prefix="partial-", dir=self.folder))
            try:
                engine.export(self, partial)
                os.rename(partial, final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return final


def make_case(name: str, module: nn.Module, x: torch.Tensor, cache: Path) -> Case:
    """Store `module` and `x` as a case, or find the case stored before.

    Args:
        name: Row name; also the start of the folder's name.
        module: Float32 module in eval mode.
        x: Its input, (N, C, H, W).
        cache: Folder of all cases.
    """
    digest = hashlib.sha256(repr((torch.__version__, tuple(x.shape), str(module))).encode())
    digest.update(x.contiguous().numpy().tobytes())
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.contiguous().numpy().tobytes())
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
    folder = cache.absolute() / f"{stem}-{digest.hexdigest()[:16]}"
    described = folder / "case.json"
    if not described.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            reference = copy.deepcopy(module).double()(x.double())
        torch.save(module, folder / "module.pt")
        np.save(folder / "input.npy", x.contiguous().numpy())
        np.save(folder / "reference.npy", reference.contiguous().numpy())
        facts = {"name": name, "shape": list(x.shape), "macs": count_macs(module, x)}
        described.write_text(json.dumps(facts))  # last: marks the case as complete
    return read_case(folder)


def read_case(folder: Path) -> Case:
    """The case stored in `folder`."""
    facts: dict[str, Any] = json.loads((folder / "case.json").read_text())
    return Case(facts["name"], folder, tuple(facts["shape"]), facts["macs"])


def count_macs(module: nn.Module, x: torch.Tensor) -> int:
    """Multiply-adds of all convolutions and linear layers in one forward pass of `x`."""
    total = 0

    def add(layer: nn.Module, _args: object, y: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += y.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += y.numel() * layer.in_features

    kinds = (nn.Conv2d, nn.Linear)
    hooks = [m.register_forward_hook(add) for m in module.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def relative_error(output: npt.NDArray[Any], reference: npt.NDArray[np.float64]) -> float:
    """Largest absolute difference over the largest absolute reference value.

    A wrong shape or a NaN counts as infinitely wrong.
    """
    if output.shape != reference.shape:
        return float("inf")
    error = float(np.max(np.abs(output.astype(np.float64) - reference), initial=0.0))
    scale = float(np.max(np.abs(reference), initial=0.0))
    if not np.isfinite(error):
        return float("inf")
    return error / scale if scale > 0.0 else error
