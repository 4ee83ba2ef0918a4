"""Every engine has a process of its own, which converts, loads, and runs when it is told to.

Engines of one library (torch as written, and with its other settings) share theirs: importing it
takes seconds. Otherwise engines cannot disturb each other (idle workers of one thread pool spin on
the cores that the next engine needs, an allocator or a denormal flag set by one holds for all), a
crash is a row and not the end, and an engine may run in another Python environment. The process
sleeps between its turns. Run as a program this module is that process: ``python -m
weebill.bench.worker FD``.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from weebill.bench.engines.base import FloatArray, Session
from weebill.bench.timing import Turn, take_turn

__all__ = ["Seat", "Worker", "python_of"]

LOAD_TIMEOUT_S = 600.0  # converters and compilers are slow
TURN_TIMEOUT_S = 120.0


def python_of(engine: str) -> str:
    """The Python that an engine's processes run in."""
    common = os.environ.get("WEEBILL_BENCH_PYTHON", sys.executable)
    return os.environ.get(f"WEEBILL_BENCH_PYTHON_{engine.upper()}", common)


class Worker:
    """The parent's end of a process.

    Args:
        engine: That the process is for, or one of them: its Python is taken.
        environment: Variables that the process has besides ours: engines read them at import.
        cpus: Cores that the process is pinned to, once it is prepared; empty: not pinned.
    """

    def __init__(
        self, engine: str, environment: Mapping[str, str], cpus: Sequence[int] = ()
    ) -> None:
        self.engine = engine
        python = python_of(engine)
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close)
        with theirs:
            command = [python, "-m", "weebill.bench.worker", str(theirs.fileno())]
            self._process = subprocess.Popen(
                [*command, ",".join(map(str, cpus))],
                env={**os.environ, **environment},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is the parent's business
            )
        self._pipe = Connection(ours.detach())

    def send(self, request: str, *arguments: object) -> None:
        """Send a request; every request has one answer."""
        with contextlib.suppress(BrokenPipeError):  # `receive` tells why
            self._pipe.send((request, arguments))

    def receive(self, timeout: float = LOAD_TIMEOUT_S) -> Any:
        """The answer to the oldest open request.

        Raises:
            RuntimeError: The engine failed, its process ended, or it took too long.
        """
        if not self._pipe.poll(timeout):
            self.kill()
            raise RuntimeError(f"no answer within {timeout:.0f} s")
        try:
            failed, value = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError(self._last_words()) from None
        if failed:
            raise RuntimeError(value)
        return value

    def call(self, request: str, *arguments: object, timeout: float = LOAD_TIMEOUT_S) -> Any:
        """Send a request and wait for its answer."""
        self.send(request, *arguments)
        return self.receive(timeout)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        return f"process ended with {end}" + (f": {lines[-1][:300]}" if lines else "")

    def kill(self) -> None:
        """End the process at once, what it started too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._log.close()


@dataclass(frozen=True)
class Seat:
    """An engine in a process: what `weebill.bench.timing` gives turns to."""

    worker: Worker
    engine: str

    def send_load(self, folder: Path, x_path: Path, threads: int) -> None:
        """Ask for what was exported to be loaded and run once; the answer is the output."""
        self.worker.send("load", self.engine, str(folder), str(x_path), threads)

    def turn(self, refill: int, calls: int) -> Turn:
        """See `weebill.bench.timing.Contender`."""
        turn: Turn = self.worker.call("turn", self.engine, refill, calls, timeout=TURN_TIMEOUT_S)
        return turn

    def output(self) -> FloatArray:
        """Output of the last call."""
        y: FloatArray = self.worker.call("output", self.engine, timeout=TURN_TIMEOUT_S)
        return y


class _Server:
    """The process's end: one method per request."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = cpus
        self._unpinned = bool(cpus)
        self._sessions: dict[str, Session] = {}

    def answer(self, request: str, arguments: Sequence[object]) -> Any:
        """What the request's method returns; all but `prepare` run on the given cores only."""
        if self._unpinned and request != "prepare":
            self._unpinned = False
            for task in os.listdir("/proc/self/task"):  # an import may have started threads
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task), self._cpus)
        return getattr(self, request)(*arguments)

    def prepare(self, engine: str) -> None:
        """Import the engine."""
        from weebill.bench.engines import make_engine

        make_engine(engine).import_library()

    def describe(self, engine: str) -> dict[str, Any]:
        """Whether the engine can be used here, and its version."""
        from weebill.bench.engines import make_engine

        adapter = make_engine(engine)
        reason = adapter.missing()
        return {"missing": reason, "version": "" if reason else adapter.version()}

    def export(self, engine: str, case_folder: str) -> str:
        """Convert the case; the folder of the result."""
        from weebill.bench.case import read_case
        from weebill.bench.engines import make_engine

        gc.set_threshold(100_000, 20, 20)  # compilers' graphs are made of millions of objects
        return str(read_case(Path(case_folder)).exported(make_engine(engine)))

    def load(self, engine: str, folder: str, x_path: str, threads: int) -> FloatArray:
        """Load what `export` made and run once; the output."""
        from weebill.bench.engines import make_engine

        self._sessions.pop(engine, None)  # the one before goes first
        x = np.load(x_path)
        self._sessions[engine] = make_engine(engine).load(Path(folder), x, threads)
        with self._sessions[engine].active():
            self._sessions[engine].run()
        return self.output(engine)

    def turn(self, engine: str, refill: int, calls: int) -> Turn:
        """A turn of the loaded session."""
        session = self._sessions[engine]
        with session.active():
            return take_turn(session.run, self._cpus, refill, calls)

    def output(self, engine: str) -> FloatArray:
        """The loaded session's last output."""
        return np.array(self._sessions[engine].output())

    def peaks(self, seconds: float) -> dict[str, Any]:
        """What the core under us can do at most; see `weebill.bench.roofline`."""
        from weebill.bench.roofline import measure_peaks

        return measure_peaks(seconds)

    def stages(self, case_folder: str, peak_gflops: float) -> list[dict[str, Any]]:
        """Where the time of a case goes; see `weebill.bench.stages`."""
        from weebill.bench.stages import run_stages

        return run_stages(Path(case_folder), peak_gflops)


def _serve(pipe: Connection, cpus: Sequence[int]) -> None:
    server = _Server(cpus)
    while True:
        try:
            request, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = (False, server.answer(request, arguments))
        except Exception as error:  # engines raise anything
            answer = (True, f"{type(error).__name__}: {error}"[:500])
        pipe.send(answer)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])), [int(cpu) for cpu in sys.argv[2].split(",") if cpu])
