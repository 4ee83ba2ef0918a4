"""Memory that a training step frees and the next one takes again."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# Of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory instead of giving it back to the system.

    A training step allocates and frees every layer's results, hundreds of megabytes. glibc returns
    large blocks to the system at once, and each page of the next step is a page fault again: on
    small networks that is up to half of the time. Call this once, before the first step.

    The setting holds for the whole process and cannot be taken back; the process keeps up to 2 GB
    more than it uses. `weebill.train` does it by itself.

    Returns:
        Whether the C library has the setting: true with glibc, false elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl
        return False
    return all(
        mallopt(parameter, value) == 1
        for parameter, value in (
            (_MMAP_MAX, 0),
            (_TRIM_THRESHOLD, 2**31 - 1),
            (_TOP_PAD, 64 << 20),
        )
    )
