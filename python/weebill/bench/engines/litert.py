"""LiteRT (formerly TensorFlow Lite) with its default XNNPACK delegate.

The converter, litert-torch, lives in an environment of its own and is run as a subprocess.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weebill.bench.engines.base import Engine, FloatArray, Session, Settings

if TYPE_CHECKING:
    from weebill.bench.case import Case

# Of the environment with the converter.
CONVERTER = Path(os.environ.get("WEEBILL_BENCH_LITERT_PYTHON", ".venv-litert/bin/python"))


@functools.cache
def converter() -> subprocess.Popen[str]:
    """The converter's process, which ends with ours."""
    script = Path(__file__).with_name("litert_convert.py")
    return subprocess.Popen(
        [str(CONVERTER), str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def convert(*request: object) -> str:
    """Have the converter do it; what went wrong, or an empty string."""
    process = converter()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        print(*request, sep="\t", file=process.stdin, flush=True)
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        converter.cache_clear()
        return f"its process ended with code {process.wait()}"
    return answer.strip()


class LiteRtSession(Session):
    """An interpreter with its NHWC input filled once (inputs survive `invoke`)."""

    def __init__(self, interpreter: Any, x: FloatArray, *, spatial: bool) -> None:
        self._interpreter = interpreter
        self._spatial = spatial
        index = interpreter.get_input_details()[0]["index"]
        interpreter.set_tensor(index, np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
        self._output = interpreter.get_output_details()[0]["index"]

    def run(self) -> None:
        """One inference."""
        self._interpreter.invoke()

    def output(self) -> FloatArray:
        """The last output, NHWC images turned to NCHW."""
        y: FloatArray = self._interpreter.get_tensor(self._output)
        return np.ascontiguousarray(y.transpose(0, 3, 1, 2)) if self._spatial else y


class LiteRt(Engine):
    """NHWC in and out, as its converter recommends for image models."""

    name: ClassVar[str] = "litert"
    distribution: ClassVar[str] = "ai-edge-litert"
    modules: ClassVar[tuple[str, ...]] = ("ai_edge_litert",)
    library: ClassVar[str] = "ai_edge_litert.interpreter"
    settings: ClassVar[Settings] = Settings(layout="NHWC", note="XNNPACK delegate")
    heavy: ClassVar[bool] = True

    def missing(self) -> str | None:
        """Why the engine or its converter cannot be used here, or None."""
        if reason := super().missing():
            return reason
        if not CONVERTER.exists():
            return f"no converter: {CONVERTER} (WEEBILL_BENCH_LITERT_PYTHON names its Python)"
        return None

    def export(self, case: Case, folder: Path) -> None:
        """Convert in the other environment; the module crosses over as an exported program.

        The converter folds BatchNorm as well, but takes twice as long over a graph that has it.
        """
        import torch

        from weebill.bench.engines.fold import fold_batch_norm

        module = fold_batch_norm(case.module())
        program = torch.export.export(module, (torch.from_numpy(case.input()),))
        source = folder / "program.pt2"
        torch.export.save(program, source)
        spatial = int(case.reference().ndim == 4)
        problem = convert(source, folder / "model.tflite", str(spatial))
        source.unlink()
        if problem:
            raise RuntimeError(f"litert-torch failed: {problem}")

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Create the interpreter with `threads` threads."""
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(folder / "model.tflite"), num_threads=threads)
        interpreter.allocate_tensors()
        spatial = len(interpreter.get_output_details()[0]["shape"]) == 4
        return LiteRtSession(interpreter, x, spatial=spatial)
