"""torch eager: as written, and with BatchNorm folded in channels_last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn

from bench.engines.base import Engine, FloatArray, Session, Settings
from bench.engines.fold import fold_batch_norm
from bench.vision import import_vision

if TYPE_CHECKING:
    from bench.case import Case


class TorchSession(Session):
    """Calls a module (or a compiled one) on a bound tensor under inference mode."""

    def __init__(self, call: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
        self._call = call
        self._x = x
        self._y = torch.empty(0)

    def run(self) -> None:
        """One inference."""
        with torch.inference_mode():
            self._y = self._call(self._x)

    def output(self) -> FloatArray:
        """The last output as logical NCHW."""
        y: FloatArray = np.ascontiguousarray(self._y.numpy())
        return y


def load_module(folder: Path) -> nn.Module:
    """The pickled module that an adapter wrote into its own folder."""
    import_vision("torchvision")  # the pickle names its classes
    module: nn.Module = torch.load(folder / "module.pt", weights_only=False)
    return module


class TorchEager(Engine):
    """The module as a user gets it: NCHW, BatchNorm separate."""

    name: ClassVar[str] = "torch"
    distribution: ClassVar[str] = "torch"
    modules: ClassVar[tuple[str, ...]] = ("torch",)
    settings: ClassVar[Settings] = Settings(isa="environment", note="eager")

    def version(self) -> str:
        """The version that torch itself reports, with its build suffix."""
        return str(torch.__version__)

    def import_library(self) -> None:
        """torch came with this module; the pickled networks need torchvision's classes."""
        import_vision("torchvision")

    def export(self, case: Case, folder: Path) -> None:
        """Pickle the module."""
        torch.save(case.module(), folder / "module.pt")

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Unpickle the module."""
        torch.set_num_threads(threads)
        return TorchSession(load_module(folder), torch.from_numpy(x))


class TorchFolded(TorchEager):
    """BatchNorm folded, module and input channels_last: the strongest eager form."""

    name: ClassVar[str] = "torch_folded"
    settings: ClassVar[Settings] = Settings(
        layout="NHWC", isa="environment", note="eager, BatchNorm folded, channels_last"
    )

    def export(self, case: Case, folder: Path) -> None:
        """Fold and pickle the module."""
        folded = fold_batch_norm(case.module())
        # torch's types leave out this form of `to`, which its documentation gives.
        folded = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.save(folded, folder / "module.pt")

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Unpickle the module; the input becomes channels_last."""
        torch.set_num_threads(threads)
        bound = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        return TorchSession(load_module(folder), bound)
