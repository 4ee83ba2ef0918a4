"""A case: a network, block or operator with its weights, one input, and the answer in float64.

A case lives in a folder of its own under the cache, named by a hash of what it is, so that exports
made by slow converters are reused and other processes load it by its path::

    <cache>/<name>-<hash>/case.json input.npy weights.npz reference.npy <engine>-<version>/...
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from weebill.bench.reference import forward
from weebill.bench.suites import Block
from weebill.bench.weights import SEED, Weights, make_input, make_weights

if TYPE_CHECKING:
    from torch import nn

    from weebill.bench.engines.base import Engine

__all__ = ["Case", "default_cache", "make_case", "read_case"]

VERSION = 2  # of weights, input and files


def default_cache() -> Path:
    """Where cases and converted models are kept: ``$XDG_CACHE_HOME/weebill/bench``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "weebill" / "bench"


@dataclass(frozen=True)
class Case:
    """`folder` holds everything, so that another process needs no more than its path."""

    name: str  # unique among the cases of a run
    suite: str  # the file that it comes from
    folder: Path
    blocks: tuple[Block, ...]
    shape: tuple[int, ...]  # of the input, NCHW
    norm: bool  # convolutions have a BatchNorm

    @property
    def macs(self) -> int:
        """Multiply-adds of one inference."""
        return self.shape[0] * sum(block.macs for block in self.blocks)

    @property
    def bytes(self) -> int:
        """Input, weights and output, each moved once: what no implementation can do without."""
        last = self.blocks[-1]
        out = last.c_out * last.out_size[0] * last.out_size[1]
        first = self.shape[1] * self.shape[2] * self.shape[3]
        return 4 * (self.shape[0] * (first + out) + sum(block.weights for block in self.blocks))

    def input(self) -> npt.NDArray[np.float32]:
        """The NCHW input."""
        x: npt.NDArray[np.float32] = np.load(self.folder / "input.npy")
        return x

    def weights(self) -> list[Weights]:
        """The weights of every block."""
        found: list[Weights] = [{} for _ in self.blocks]
        with np.load(self.folder / "weights.npz") as stored:
            for key, value in stored.items():
                index, _, name = key.partition(".")
                found[int(index)][name] = value
        return found

    def reference(self) -> npt.NDArray[np.float64]:
        """The float64 output."""
        y: npt.NDArray[np.float64] = np.load(self.folder / "reference.npy")
        return y

    def module(self) -> nn.Module:
        """The blocks as a plain torch module in evaluation mode."""
        from weebill.bench.modules import make_module

        return make_module(self.blocks, self.weights())

    def export_folder(self, engine: Engine) -> Path:
        """Where the engine's file is, or will be."""
        return self.folder / f"{engine.name}-{engine.version()}"

    def exported(self, engine: Engine) -> Path:
        """Folder with the engine's file."""
        return self.made(self.export_folder(engine).name, engine.export)

    def made(self, name: str, make: Callable[[Case, Path], None]) -> Path:
        """Folder of this name, filled by `make` on first use and complete when it exists."""
        final = self.folder / name
        if not final.exists():
            partial = Path(tempfile.mkdtemp(prefix="partial-", dir=self.folder))
            try:
                make(self, partial)
                os.rename(partial, final)
            except OSError:
                if not final.exists():  # another process was faster
                    raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return final


def make_case(
    name: str,
    blocks: Sequence[Block],
    cache: Path,
    *,
    suite: str = "",
    batch: int = 1,
    norm: bool = True,
) -> Case:
    """Make a case, or find the one made before.

    Args:
        name: Row name; also the start of the folder's name.
        blocks: Each with count 1, the first of them gives the input's size.
        cache: Folder of all cases.
        suite: Name of the file that the blocks come from.
        batch: Images of the input.
        norm: Whether convolutions have a BatchNorm.
    """
    shape = (batch, blocks[0].c_in, blocks[0].h, blocks[0].w)
    facts: dict[str, Any] = {
        "name": name,
        "suite": suite,
        "shape": shape,
        "norm": norm,
        "blocks": [asdict(block) for block in blocks],
    }
    digest = hashlib.sha256(json.dumps([VERSION, SEED, facts]).encode()).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
    folder = cache.absolute() / f"{stem}-{digest[:16]}"
    if not (folder / "case.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        weights, x = make_weights(blocks, norm=norm), make_input(shape)
        arrays = {
            f"{i}.{key}": value for i, own in enumerate(weights) for key, value in own.items()
        }
        np.savez(folder / "weights.npz", **arrays)  # type: ignore[arg-type]
        np.save(folder / "input.npy", x)
        np.save(folder / "reference.npy", forward(blocks, weights, x))
        # Last, and in one step: it marks the case as complete.
        partial = folder / "case.json.partial"
        partial.write_text(json.dumps(facts))
        os.replace(partial, folder / "case.json")
    return read_case(folder)


def read_case(folder: Path) -> Case:
    """The case stored in `folder`."""
    facts: dict[str, Any] = json.loads((folder / "case.json").read_text())
    blocks = tuple(Block(**block) for block in facts["blocks"])
    shape = tuple(facts["shape"])
    return Case(facts["name"], facts["suite"], folder, blocks, shape, facts["norm"])
