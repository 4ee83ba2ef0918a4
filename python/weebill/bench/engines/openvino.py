"""OpenVINO, CPU plugin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weebill.bench.engines.base import Engine, FloatArray, Session, Settings
from weebill.bench.engines.onnx_export import exported_onnx

if TYPE_CHECKING:
    from weebill.bench.case import Case


class OpenVinoSession(Session):
    """One infer request with shared input memory, reused."""

    def __init__(self, compiled: Any, x: FloatArray) -> None:
        import openvino as ov

        self._request = compiled.create_infer_request()
        self._x = x
        self._request.set_input_tensor(ov.Tensor(x, shared_memory=True))

    def run(self) -> None:
        """One inference."""
        self._request.infer(share_outputs=True)

    def output(self) -> FloatArray:
        """The last output, copied out of the request's memory."""
        y: FloatArray = np.array(self._request.get_output_tensor().data)
        return y


class OpenVino(Engine):
    """Latency mode in true float32."""

    name: ClassVar[str] = "openvino"
    distribution: ClassVar[str] = "openvino"
    modules: ClassVar[tuple[str, ...]] = ("openvino", "onnx")
    settings: ClassVar[Settings] = Settings(
        isa="environment", note="INFERENCE_PRECISION_HINT f32, LATENCY, one stream"
    )

    def export(self, case: Case, folder: Path) -> None:
        """Write ``model.xml`` and ``model.bin``, weights left in float32."""
        import openvino as ov

        model = ov.convert_model(str(exported_onnx(case)))
        ov.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Compile for the CPU; bfloat16, its default on new CPUs, is turned off."""
        import openvino as ov

        config = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "ENABLE_CPU_PINNING": "NO",
        }
        compiled = ov.Core().compile_model(str(folder / "model.xml"), "CPU", config)
        return OpenVinoSession(compiled, x)
