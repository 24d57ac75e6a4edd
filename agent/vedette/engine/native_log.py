"""What native code writes to file descriptor 2 while it loads a model: kept off the terminal, and kept for errors."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()  # file descriptor 2 is the process's


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Collects the lines native code prints to stderr in this block. Lines that are no ``INFO:`` are printed after it.

    Only for loading, never on the hot path: what other threads print meanwhile is collected as well, and printed after.
    """
    lines: list[str] = []
    with _lock:
        sys.stderr.flush()
        saved = os.dup(2)
        sink = os.memfd_create("stderr")
        os.dup2(sink, 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            size = os.lseek(sink, 0, os.SEEK_CUR)
            text = os.pread(sink, min(size, 64 * 1024), 0).decode("utf-8", "replace")
            os.close(sink)
            lines.extend(line for line in text.splitlines() if line.strip() and not line.startswith("INFO:"))
            if lines:
                os.write(2, ("\n".join(lines) + "\n").encode())
