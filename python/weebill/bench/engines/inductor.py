"""torch.compile with the inductor back end, weights frozen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from weebill.bench.engines.base import FloatArray, Session, Settings
from weebill.bench.engines.torch_eager import (
    TorchFolded,
    TorchSession,
    channels_last,
    load_module,
)


class Inductor(TorchFolded):
    """Frozen weights are what lets inductor use oneDNN's packed convolutions.

    ``options={"freezing": True}`` does not freeze in torch 2.13; the global switch does.
    """

    name: ClassVar[str] = "inductor"
    settings: ClassVar[Settings] = Settings(
        layout="NHWC", isa="environment", note="torch.compile, freezing, cpp_wrapper"
    )

    process: ClassVar[str] = ""  # of its own: the compiler has settings for a whole process
    slow: ClassVar[str] = "compiles for half a minute a network; --backend all includes it"

    def load(self, folder: Path, x: FloatArray, threads: int) -> Session:
        """Compile and call twice (the second call settles the guards)."""
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
        import torch
        import torch._inductor.config as inductor_config

        torch.set_num_threads(threads)
        # Modules of one class share code objects: without a reset their compiled variants
        # pile up until the recompile limit sends the next one to eager mode.
        torch.compiler.reset()
        inductor_config.freezing = True
        inductor_config.cpp_wrapper = True
        compiled = torch.compile(load_module(folder), dynamic=False, fullgraph=True)
        session = TorchSession(compiled, channels_last(x))
        with session.active():
            session.run()
            session.run()
        return session
