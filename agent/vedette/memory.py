"""What the C library keeps of freed memory. glibc alone; another library has its own ways, and is left alone."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h


def share_one_arena() -> None:
    """All threads allocate from one arena: each that has its own keeps what it freed to itself. To be called before there
    are threads. The agent's threads allocate little, and Python's lock is seldom free for two of them at once. Whoever has
    said otherwise in the environment (mallopt(3)) is heard."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)


def return_freed() -> None:
    """What has been freed goes back to the kernel; glibc keeps some of it otherwise (malloc_trim(3))."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
