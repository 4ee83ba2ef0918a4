"""ONNX Runtime, CPU provider."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from weebill.bench.engines.base import Engine, FloatArray, Session, Settings
from weebill.bench.engines.onnx_export import INPUT, OUTPUT, exported_onnx

if TYPE_CHECKING:
    from weebill.bench.case import Case


class OnnxRuntimeSession(Session):
    """Input and output bound once: half the call overhead of ``session.run``."""

    def __init__(self, session: Any, x: FloatArray) -> None:
        import onnxruntime as ort

        self._session = session
        self._binding = session.io_binding()
        self._x = ort.OrtValue.ortvalue_from_numpy(x)
        self._binding.bind_ortvalue_input(INPUT, self._x)
        self._binding.bind_output(OUTPUT, "cpu")

    def run(self) -> None:
        """One inference."""
        self._session.run_with_iobinding(self._binding)

    def output(self) -> FloatArray:
        """The last output."""
        y: FloatArray = self._binding.copy_outputs_to_cpu()[0]
        return y


class OnnxRuntime(Engine):
    """All graph optimisations, which is where its blocked NCHWc layout comes in."""

    name: ClassVar[str] = "onnxruntime"
    distribution: ClassVar[str] = "onnxruntime"
    modules: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")
    settings: ClassVar[Settings] = Settings(note="ORT_ENABLE_ALL, io binding, inter 1")

    def export(self, case: Case, folder: Path) -> None:
        """Copy ``model.onnx``."""
        shutil.copy(exported_onnx(case), folder / "model.onnx")

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Create the session with `threads` intra-op threads."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        return OnnxRuntimeSession(session, x)
