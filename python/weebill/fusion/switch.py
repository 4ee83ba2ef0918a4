"""The switch that has modules run their plain forward.

Apart from the modules that look at it: a trial of a plain forward needs it too, before there is
anything fused.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

#: Whether this runs inside `unfused()`.
UNFUSED = contextvars.ContextVar("weebill_unfused", default=False)


def is_unfused() -> bool:
    """Whether this runs inside `unfused()`."""
    return UNFUSED.get()


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """Inside this context every module runs its plain torch forward, in evaluation too.

    For comparisons: results and times of a fused model against the same model in torch eager. It
    holds for the current thread (or task).
    """
    token = UNFUSED.set(True)
    try:
        yield
    finally:
        UNFUSED.reset(token)
