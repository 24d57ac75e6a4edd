"""A wall clock that a test sets for one process, and a kernel that says whether it is disciplined."""

from __future__ import annotations

from pathlib import Path

import pytest

from vedette.chaos.clock import SetClock, set_clock


def clock_of_its_own(folder: Path, *, ahead_s: float = 0.0, synced: bool = True) -> SetClock:
    """Whose ``environment`` is the process's. Skips where it cannot be made."""
    made = set_clock(folder)
    if isinstance(made, str):
        pytest.skip(f"{made}: a wall clock that is set stays untested")
    made.set(ahead_s, synced=synced)
    return made
