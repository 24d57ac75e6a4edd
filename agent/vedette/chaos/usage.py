"""What a process uses, looked at from outside."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vedette.service.health import pss_bytes


class Usage(NamedTuple):
    """``threads`` and ``open_files`` of the process alone, ``pss_bytes`` with its children."""

    threads: int
    open_files: int
    pss_bytes: int


def usage_of(pid: int) -> Usage | None:
    """None where it has ended."""
    try:
        threads = sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
        open_files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    return Usage(threads, open_files, pss_bytes(pid))


def descendants(pid: int) -> dict[int, str]:
    """Processes that it has started, and those they have: by their numbers, the command lines."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue  # the thread has ended meanwhile
        for child in children:
            try:
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            found[child] = b" ".join(words).decode(errors="replace")
            found.update(descendants(child))
    return found
