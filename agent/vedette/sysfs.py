"""Small files that the kernel fills in: /sys and /proc. Any of them may be missing, refuse, or go away meanwhile."""

from __future__ import annotations

from pathlib import Path


def text(file: Path) -> str:
    """What it says, without what stands around it; empty where it cannot be read."""
    try:
        return file.read_text("utf-8", "replace").strip(" \n\t\0")
    except OSError:
        return ""


def number(file: Path) -> int | None:
    """A file that holds one number; None where it holds none, or one beyond all measure."""
    try:
        value = int(text(file))
        float(value)
    except (ValueError, OverflowError):
        return None
    return value


def matching(folder: Path, pattern: str) -> list[Path]:
    """What there is, by name; nothing where nobody can look."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []
