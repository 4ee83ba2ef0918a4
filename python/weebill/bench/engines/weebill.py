"""weebill: `weebill.convert` on the plain module, and the native core without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weebill.bench.engines.base import Engine, FloatArray, Session, Settings
from weebill.bench.engines.torch_eager import TorchEager, TorchSession, channels_last, load_module
from weebill.bench.records import pack_blocks

if TYPE_CHECKING:
    from weebill.bench.case import Case


class Weebill(TorchEager):
    """Converted module called under inference mode on a channels_last input."""

    name: ClassVar[str] = "weebill"
    distribution: ClassVar[str] = "weebill"
    modules: ClassVar[tuple[str, ...]] = ("weebill", "torch")
    library: ClassVar[str] = "weebill.convert"
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
        return TorchSession(weebill.convert(load_module(folder)), channels_last(x))


class NativeSession(Session):
    """Records run by the core on a numpy array."""

    def __init__(self, records: Any, x: FloatArray, *, vector: bool) -> None:
        from weebill import _C

        self._run = _C.run
        self._records = records
        # NHWC in memory, NCHW in shape: what the core takes as it is.
        self._x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        self._vector = vector
        self._y: FloatArray

    def run(self) -> None:
        """One inference."""
        self._y = self._run(self._x, self._records)

    def output(self) -> FloatArray:
        """The last output, (N, classes) for a network."""
        return self._y[:, :, 0, 0] if self._vector else np.ascontiguousarray(self._y)


class WeebillNative(Engine):
    """The same kernels without torch: what a board without torch runs."""

    name: ClassVar[str] = "weebill_native"
    distribution: ClassVar[str] = "weebill"
    modules: ClassVar[tuple[str, ...]] = ("weebill",)
    settings: ClassVar[Settings] = Settings(
        layout="NHWC", isa="environment", note="packed blocks on numpy arrays, no torch"
    )

    def version(self) -> str:
        """The version that the package reports."""
        import weebill

        return str(weebill.__version__)

    def export(self, case: Case, folder: Path) -> None:
        """Pack the blocks and write ``records.npz``."""
        records = pack_blocks(case.blocks, case.weights())
        pooled = any(block.kind == "pool" for block in case.blocks)
        np.savez(folder / "records.npz", records=records, vector=np.array(pooled))

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Read the records; they are copied to an aligned address."""
        from weebill import _C, config

        config.set_threads(threads)
        with np.load(folder / "records.npz") as stored:
            records = _C.join([stored["records"]])
            return NativeSession(records, x, vector=bool(stored["vector"]))
