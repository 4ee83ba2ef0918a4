"""The processes of a run, and which engine sits in which."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from weebill.bench.engines import make_engine
from weebill.bench.worker import Seat, Worker, python_of

__all__ = ["Seats"]


class Seats:
    """Seats by engine; those of engines that share a process have one worker.

    Args:
        engines: Their names.
        environment, cpus: Of every process; see `Worker`.
    """

    def __init__(
        self, engines: Sequence[str], environment: Mapping[str, str], cpus: Sequence[int]
    ) -> None:
        self._environment = environment
        self._cpus = cpus
        self._process = {
            name: (make_engine(name).process or name, python_of(name)) for name in engines
        }
        self._workers: dict[tuple[str, str], Worker] = {}
        for name in engines:
            if self._process[name] not in self._workers:
                self._start(name)

    def __getitem__(self, engine: str) -> Seat:
        return Seat(self._workers[self._process[engine]], engine)

    def prepare(self) -> None:
        """Import all libraries at the same time, before their processes are pinned."""
        for name in self._process:
            self[name].worker.send("prepare", name)
        for name in self._process:
            with contextlib.suppress(RuntimeError):  # loading will say it again, as a row
                self[name].worker.receive()

    def renew(self, engine: str) -> None:
        """A new process where the engine's has died."""
        worker = self._workers[self._process[engine]]
        if not worker.alive:
            worker.close()
            self._start(engine)

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers.values():
            worker.kill()
            worker.close()

    def _start(self, engine: str) -> None:
        self._workers[self._process[engine]] = Worker(engine, self._environment, self._cpus)
