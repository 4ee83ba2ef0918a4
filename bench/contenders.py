"""Contenders: a session in this process, or one in a worker process of its own.

With one thread all sessions share a process, so that nothing but the calls differs.  With
more, each engine gets a process: thread pools of several engines in one process disturb
each other (their idle workers spin on the cores that the engine in turn needs).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench.engines import make_engine
from bench.engines.base import FloatArray, Session
from bench.options import thread_environment
from bench.timing import Turn, take_turn


class LocalContender:
    """A session of this process."""

    def __init__(self, session: Session, cpus: Sequence[int]) -> None:
        self._session = session
        self._cpus = cpus

    def turn(self, refill: int, calls: int) -> Turn:
        """See `bench.timing.Contender`."""
        return take_turn(self._session.run, self._cpus, refill, calls)

    def output(self) -> FloatArray:
        """Output of the last call."""
        return self._session.output()

    def close(self) -> None:
        """Nothing to end; the session goes with its references."""


class WorkerContender:
    """A session in a spawned process, which sleeps between its turns."""

    def __init__(
        self,
        engine: str,
        folder: Path,
        x: FloatArray,
        threads: int,
        wait_policy: str,
        cpus: Sequence[int],
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, engine, folder, x, threads, tuple(cpus))
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        inherited = dict(os.environ)
        os.environ.update(thread_environment(threads, wait_policy))
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(inherited)
        theirs.close()
        try:
            self._receive()  # loaded
        except RuntimeError:
            self.close()
            raise

    def _receive(self) -> Any:
        try:
            failed, value = self._pipe.recv()
        except EOFError:
            self._process.join(5)
            code = self._process.exitcode
            raise RuntimeError(f"worker process ended with code {code}") from None
        if failed:
            raise RuntimeError(value)
        return value

    def turn(self, refill: int, calls: int) -> Turn:
        """See `bench.timing.Contender`."""
        self._pipe.send(("turn", refill, calls))
        turn: Turn = self._receive()
        return turn

    def output(self) -> FloatArray:
        """Output of the last call."""
        self._pipe.send(("output",))
        y: FloatArray = self._receive()
        return y

    def close(self) -> None:
        """End the worker."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(
    pipe: Connection, engine: str, folder: Path, x: FloatArray, threads: int, cpus: tuple[int, ...]
) -> None:
    """Body of the worker: load, then answer requests until the pipe closes."""
    os.sched_setaffinity(0, cpus)
    try:
        session = make_engine(engine).load(folder, x, threads)
        session.run()
        pipe.send((False, None))
        while True:
            request = pipe.recv()
            if request[0] == "turn":
                pipe.send((False, take_turn(session.run, cpus, request[1], request[2])))
            else:
                pipe.send((False, np.array(session.output())))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:
        pipe.send((True, f"{type(error).__name__}: {error}"))


def make_contender(
    engine: str, folder: Path, x: FloatArray, threads: int, wait_policy: str, cpus: Sequence[int]
) -> LocalContender | WorkerContender:
    """Load `engine` from its export in `folder`, ready for its first turn."""
    if threads > 1:
        return WorkerContender(engine, folder, x, threads, wait_policy, cpus)
    session = make_engine(engine).load(folder, x, threads)
    session.run()
    return LocalContender(session, cpus)
