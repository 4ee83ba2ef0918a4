"""ncnn, converted by pnnx."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weebill.bench.engines.base import Engine, FloatArray, Session, Settings

if TYPE_CHECKING:
    from weebill.bench.case import Case


class NcnnSession(Session):
    """A net; each inference needs a fresh extractor, as in ncnn's own benchmark."""

    def __init__(self, net: Any, x: FloatArray) -> None:
        import ncnn

        self._net = net
        self._array = x[0]  # ncnn borrows this memory
        self._x = ncnn.Mat(self._array)
        self._y: Any = None

    def run(self) -> None:
        """One inference."""
        extractor = self._net.create_extractor()
        extractor.input("in0", self._x)
        _, self._y = extractor.extract("out0")

    def output(self) -> FloatArray:
        """The last output with its batch axis restored."""
        y: FloatArray = np.array(self._y)[None]
        return y


def pnnx_program() -> Path:
    """The converter itself; the script of that name imports torch to do no more than start it.

    Raises:
        RuntimeError: The package is not what it was.
    """
    found = importlib.util.find_spec("pnnx")
    for folder in (found and found.submodule_search_locations) or ():
        if (program := Path(folder) / "pnnx").is_file():
            return program
    raise RuntimeError("pnnx: the package has no program of that name")


class Ncnn(Engine):
    """float32 throughout: half-precision packing, storage and arithmetic are turned off."""

    name: ClassVar[str] = "ncnn"
    distribution: ClassVar[str] = "ncnn"
    modules: ClassVar[tuple[str, ...]] = ("ncnn", "pnnx")
    settings: ClassVar[Settings] = Settings(note="fp16 and bf16 off, pnnx fp16=0")

    def refuses(self, case: Case, threads: int) -> str | None:
        """ncnn's layers work on one image."""
        del threads
        return "batch 1 only" if case.shape[0] != 1 else None

    def export(self, case: Case, folder: Path) -> None:
        """Trace, then let pnnx write ``model.ncnn.param`` and ``model.ncnn.bin``."""
        import torch

        traced = torch.jit.trace(case.module(), torch.from_numpy(case.input()))
        traced.save(str(folder / "model.pt"))
        shape = ",".join(str(n) for n in case.shape)
        command = [str(pnnx_program()), "model.pt", f"inputshape=[{shape}]", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not (folder / "model.ncnn.param").exists():
            raise RuntimeError(f"pnnx failed: {(done.stderr or done.stdout).strip()[-400:]}")
        for path in folder.iterdir():
            if not path.name.startswith("model.ncnn."):
                path.unlink()

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Load the net with `threads` threads."""
        import ncnn

        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_fp16_packed = False
        net.opt.use_fp16_storage = False
        net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        for load, name in ((net.load_param, "param"), (net.load_model, "bin")):
            if load(str(folder / f"model.ncnn.{name}")) != 0:
                raise RuntimeError(f"ncnn could not load model.ncnn.{name}")
        return NcnnSession(net, x)
