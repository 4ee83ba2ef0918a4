"""What every engine offers: export a case to a file, load the file into a timed session.

The two steps are apart so that a worker process, or a cold-start measurement, loads exactly
what an application would load, without the converter's imports and memory.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from weebill.bench.case import Case

FloatArray = npt.NDArray[np.float32]


class Session(ABC):
    """A loaded model with its input bound and its output owned by the engine."""

    def active(self) -> AbstractContextManager[None]:
        """What an application would enter once and call `run` in many times; around all calls."""
        return nullcontext()

    @abstractmethod
    def run(self) -> None:
        """One inference: the timed call."""

    @abstractmethod
    def output(self) -> FloatArray:
        """The last run's output, copied, as logical NCHW (or (N, classes))."""


@dataclass(frozen=True)
class Settings:
    """How an engine was run, as printed beside each of its rows."""

    precision: str = "f32"
    layout: str = "NCHW"  # of the input and output handed over by the caller
    isa: str = "native"  # "environment": follows --isa; "native": cannot be limited
    note: str = ""


class Engine(ABC):
    """Adapter of one engine.  Instances hold no state; everything is in files and sessions."""

    name: ClassVar[str]
    distribution: ClassVar[str]  # of the Python package that reports the version
    modules: ClassVar[tuple[str, ...]]  # top-level modules that must be importable
    library: ClassVar[str] = ""  # what `load` imports, where it is not modules[0]
    settings: ClassVar[Settings] = Settings()
    process: ClassVar[str] = ""  # shared by the engines that name it; empty: its own
    slow: ClassVar[str] = ""  # why the engine runs only if it is asked for
    heavy: ClassVar[bool] = False  # converting a network takes many seconds

    def missing(self) -> str | None:
        """Why the engine cannot be used here, or None."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"not installed (no module {module!r})"
        return None

    def refuses(self, case: Case, threads: int) -> str | None:
        """Why the engine cannot run this case with so many threads, or None."""
        del case, threads
        return None

    def version(self) -> str:
        """Version of the installed engine."""
        return importlib.metadata.version(self.distribution)

    def import_library(self) -> None:
        """Import what `load` needs; apart from it so that a cold start can time both."""
        importlib.import_module(self.library or self.modules[0])

    @abstractmethod
    def export(self, case: Case, folder: Path) -> None:
        """Write what `load` needs into the empty `folder`."""

    @abstractmethod
    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Load from `folder`, bind the NCHW input `x`, use `threads` threads."""
