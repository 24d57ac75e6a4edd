"""Files that cannot be read are put aside, for somebody to look at, and only so many."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

KEPT: Final = 3  # of one name; the oldest goes


def put_aside(path: Path, *companions: str) -> Path:
    """Renames it to ``NAME.broken-TIME``; ``companions`` are suffixes of files that go with it. Its new path.

    Raises `OSError`.
    """
    stem = f"{path.name}.broken-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    new = path.with_name(stem)
    for number in range(2, 1000):
        if not new.exists():
            break
        new = path.with_name(f"{stem}.{number}")  # a clock that stands still, or a quick succession
    path.rename(new)
    for suffix in companions:
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(new.with_name(new.name + suffix))
    others = [file for file in aside(path, *companions) if file != new]  # this one may be older than they, and stays
    for old in others[: 1 - KEPT]:
        for suffix in ("", *companions):
            old.with_name(old.name + suffix).unlink(missing_ok=True)
    return new


def aside(path: Path, *companions: str) -> list[Path]:
    """What was put aside of this name, oldest first."""
    found = [file for file in path.parent.glob(f"{path.name}.broken-*") if not file.name.endswith(companions or "\0")]
    return sorted(found, key=lambda file: (file.stat().st_mtime_ns, file.name))
