"""ExecuTorch with its XNNPACK back end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weebill.bench.engines.base import Engine, FloatArray, Session, Settings

if TYPE_CHECKING:
    import torch

    from weebill.bench.case import Case


class ExecuTorchSession(Session):
    """A loaded method called on a bound tensor."""

    def __init__(self, module: Any, x: torch.Tensor) -> None:
        self._module = module
        self._inputs = [x]
        self._y: torch.Tensor

    def run(self) -> None:
        """One inference."""
        self._y = self._module.run_method("forward", self._inputs)[0]

    def output(self) -> FloatArray:
        """The last output, copied."""
        y: FloatArray = np.array(self._y.numpy())
        return y


class ExecuTorch(Engine):
    """Lowered whole to XNNPACK."""

    name: ClassVar[str] = "executorch"
    distribution: ClassVar[str] = "executorch"
    modules: ClassVar[tuple[str, ...]] = ("executorch",)
    settings: ClassVar[Settings] = Settings(note="XnnpackPartitioner")
    heavy: ClassVar[bool] = True

    def import_library(self) -> None:
        """Import the runtime alone.

        Its Python module `portable_lib` imports the whole compiler for the type of a warning, which
        takes several seconds; all it has comes from this library, which needs torch's first.
        """
        import torch  # noqa: F401
        from executorch.extension.pybindings import _C  # noqa: F401

    def export(self, case: Case, folder: Path) -> None:
        """Export, lower and write ``model.pte``."""
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from weebill.bench.engines.fold import fold_batch_norm

        module = fold_batch_norm(case.module())
        program = torch.export.export(module, (torch.from_numpy(case.input()),))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        (folder / "model.pte").write_bytes(lowered.to_executorch().buffer)

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Load the program; the thread pool is one per process."""
        import torch
        from executorch.extension.pybindings import _C

        _C._unsafe_reset_threadpool(threads)
        module = _C._load_for_executorch(str(folder / "model.pte"))
        return ExecuTorchSession(module, torch.from_numpy(x))
