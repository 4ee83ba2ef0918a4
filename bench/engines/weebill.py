"""weebill: `weebill.convert` on the plain module."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import ClassVar

import torch

from bench.engines.base import FloatArray, Session, Settings
from bench.engines.torch_eager import TorchEager, TorchSession, load_module


class Weebill(TorchEager):
    """Converted module called under inference mode on a channels_last input."""

    name: ClassVar[str] = "weebill"
    distribution: ClassVar[str] = "weebill"
    modules: ClassVar[tuple[str, ...]] = ("weebill", "torch")
    settings: ClassVar[Settings] = Settings(
        layout="NHWC", isa="environment", note="weebill.convert"
    )

    def version(self) -> str:
        """The version that the package reports."""
        import weebill

        return str(weebill.__version__)

    def import_library(self) -> None:
        """weebill beside what the pickled network needs."""
        super().import_library()
        importlib.import_module("weebill")

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Unpickle the plain module and convert it: packing is part of loading."""
        import weebill

        torch.set_num_threads(threads)
        module = weebill.convert(load_module(folder))
        bound = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        return TorchSession(module, bound)
