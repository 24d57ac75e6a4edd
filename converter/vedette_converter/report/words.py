"""Numbers as people read them."""

from __future__ import annotations

import math

from ..gate import GateRow


def in_bytes(size: int) -> str:
    """Decimal units, as downloads are counted."""
    return f"{size / 1e6:.2f} MB" if size >= 1_000_000 else f"{size / 1e3:.1f} KB"


def in_ms(value: float) -> str:
    """Milliseconds, three figures or more."""
    return f"{value:.2f} ms" if value >= 1 else f"{value:.3f} ms"


def percent(share: float, places: int = 0) -> str:
    """``35.5 %``, with a space that does not break."""
    return f"{share * 100:.{places}f}\u00a0%"


def ratio(db: float | None) -> str:
    """``31.2 dB``; words where it is none."""
    if db is None:
        return "not compared"
    if db == math.inf:
        return "equal"
    return f"{db:.1f} dB" if math.isfinite(db) else "no number"


def times(before: float, after: float, less: str, more: str) -> tuple[str, str]:
    """``2.4×`` and the word for it: never a figure below one."""
    return (f"{before / after:.1f}×", less) if after <= before else (f"{after / before:.1f}×", more)


def points(change: float) -> str:
    """Percentage points, with a sign that is a minus; of nothing, none."""
    rounded = round(change * 100, 2)
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def bound(row: GateRow) -> str:
    """What a gate's row must be: ``≤ 0.5``."""
    return row.target.replace("<=", "≤").replace(">=", "≥")


def in_figures(value: float) -> str:
    """Of a gate's row: shares, milliseconds, bytes."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def threads(count: int) -> str:
    """``1 thread``, ``4 threads``."""
    return counted(count, "thread")


def counted(count: int, what: str) -> str:
    """``1 result``, ``2 results``."""
    return f"{count} {what}{'' if count == 1 else 's'}"
