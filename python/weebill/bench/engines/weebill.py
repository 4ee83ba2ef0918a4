"""weebill: `weebill.convert` on the plain module, and a saved network without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from weebill.bench.engines.base import Engine, FloatArray, Session, Settings
from weebill.bench.engines.torch_eager import TorchEager, TorchSession, channels_last, load_module

if TYPE_CHECKING:
    from weebill.bench.case import Case
    from weebill.runtime import Model


class Weebill(TorchEager):
    """Converted module called under inference mode on a channels_last input."""

    name: ClassVar[str] = "weebill"
    distribution: ClassVar[str] = "weebill"
    modules: ClassVar[tuple[str, ...]] = ("weebill", "torch")
    library: ClassVar[str] = "weebill.convert._convert"  # not the package, which is lazy
    settings: ClassVar[Settings] = Settings(
        layout="NHWC", isa="environment", note="weebill.convert"
    )

    def version(self) -> str:
        """The version that the package reports."""
        import weebill

        return str(weebill.__version__)

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Unpickle the plain module and convert it: packing is part of loading."""
        import torch

        import weebill

        torch.set_num_threads(threads)
        return TorchSession(weebill.convert(load_module(folder), inplace=True), channels_last(x))


def on_cache_line(x: FloatArray) -> FloatArray:
    """A C-contiguous copy on a multiple of 64 bytes, where torch and this library put tensors.

    numpy's lie on 16: vectors that straddle cache lines, for an engine that reads its input as it
    is.
    """
    buffer = np.empty(x.size + 16, dtype=np.float32)
    first = -buffer.ctypes.data % 64 // 4
    aligned = buffer[first : first + x.size].reshape(x.shape)
    aligned[...] = x
    return aligned


class NativeSession(Session):
    """A saved network called on a numpy array."""

    def __init__(self, model: Model, x: FloatArray) -> None:
        self._model = model
        # NHWC in memory, NCHW in shape: what the core takes as it is.
        self._x = on_cache_line(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        self._y: FloatArray

    def run(self) -> None:
        """One inference."""
        self._y = self._model(self._x)

    def output(self) -> FloatArray:
        """The last output, (N, classes) for a network."""
        return np.ascontiguousarray(self._y)


class WeebillNative(Engine):
    """The same kernels without torch: what a board without torch runs."""

    name: ClassVar[str] = "weebill_native"
    distribution: ClassVar[str] = "weebill"
    modules: ClassVar[tuple[str, ...]] = ("weebill",)
    library: ClassVar[str] = "weebill.runtime"
    settings: ClassVar[Settings] = Settings(
        layout="NHWC", isa="environment", note="weebill.runtime on numpy arrays, no torch"
    )
    fused: ClassVar[bool] = True

    def version(self) -> str:
        """The version that the package reports."""
        import weebill

        return str(weebill.__version__)

    def export(self, case: Case, folder: Path) -> None:
        """Write ``model.weebill``, as `weebill.save` would; no torch is needed."""
        from weebill.bench.records import describe, tensors
        from weebill.runtime._model import save

        description = describe(case.blocks, case.shape, fused=self.fused)
        save(folder / "model.weebill", description, tensors(case.blocks, case.weights()))

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Read the file: packing is part of loading."""
        from weebill import config, runtime

        config.set_threads(threads)
        return NativeSession(runtime.load(folder / "model.weebill"), x)


class WeebillUnfused(WeebillNative):
    """The kernels of single operators, one after another: what fusing them is measured against."""

    name: ClassVar[str] = "weebill_unfused"
    slow: ClassVar[str] = "of use beside weebill_native alone"
    settings: ClassVar[Settings] = Settings(
        layout="NHWC", isa="environment", note="one record for each operator, no torch"
    )
    fused: ClassVar[bool] = False

    def refuses(self, case: Case, threads: int) -> str | None:
        """A shuffle unit has no other form."""
        if any(block.kind == "shuffle_unit" for block in case.blocks):
            return "a shuffle unit is not taken apart"
        return super().refuses(case, threads)
