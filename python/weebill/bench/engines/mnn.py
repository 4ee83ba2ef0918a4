"""MNN, converted from ONNX by its own tool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weebill.bench.engines.base import Engine, FloatArray, Session, Settings
from weebill.bench.engines.onnx_export import exported_onnx

if TYPE_CHECKING:
    from weebill.bench.case import Case


class MnnSession(Session):
    """A session.  Its planner reuses the input's memory, so every run copies the input in."""

    def __init__(self, interpreter: Any, session: Any, x: FloatArray) -> None:
        import MNN

        self._interpreter = interpreter
        self._session = session
        layout = MNN.Tensor_DimensionType_Caffe
        self._host = MNN.Tensor(x.shape, MNN.Halide_Type_Float, x, layout)
        self._input = interpreter.getSessionInput(session)

    def run(self) -> None:
        """One inference."""
        self._input.copyFrom(self._host)
        self._interpreter.runSession(self._session)

    def output(self) -> FloatArray:
        """The last output, unpacked from MNN's blocked layout."""
        import MNN

        tensor = self._interpreter.getSessionOutput(self._session)
        shape = tensor.getShape()
        y: FloatArray = np.zeros(shape, np.float32)
        host = MNN.Tensor(shape, MNN.Halide_Type_Float, y, MNN.Tensor_DimensionType_Caffe)
        tensor.copyToHostTensor(host)
        return np.array(host.getNumpyData(), np.float32).reshape(shape)


class Mnn(Engine):
    """CPU back end, precision high (true float32)."""

    name: ClassVar[str] = "mnn"
    distribution: ClassVar[str] = "MNN"
    modules: ClassVar[tuple[str, ...]] = ("MNN", "onnx")
    settings: ClassVar[Settings] = Settings(note="precision high, input copied")

    def export(self, case: Case, folder: Path) -> None:
        """Run MNN's converter on the ONNX file.

        Its library is called directly: the ``mnnconvert`` script around it also reports usage to
        its makers, and pip-installs a package for that at every start. Weights pass through a
        file in the working directory, so two conversions must not share one.
        """
        command = [sys.executable, "-c", "import sys, _tools; _tools.mnnconvert(sys.argv)"]
        command += ["-f", "ONNX", "--modelFile", str(exported_onnx(case))]
        command += ["--MNNModel", str(folder / "model.mnn"), "--bizCode", "bench"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if not (folder / "model.mnn").exists():
            said = (done.stderr or done.stdout).strip()[-400:]
            raise RuntimeError(f"MNN's converter failed: {said}")

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Create a session with `threads` threads."""
        import MNN

        interpreter = MNN.Interpreter(str(folder / "model.mnn"))
        session = interpreter.createSession(
            {"backend": "CPU", "numThread": threads, "precision": "high"}
        )
        return MnnSession(interpreter, session, x)
