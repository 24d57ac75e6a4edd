"""What must hold before a bundle is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vedette.contract.errors import FaultError

from .agreement import Agreement
from .evaluate import Accuracy
from .latency import Latency
from .recipe import Gate


class GateError(FaultError):
    """A row of the recipe's gate does not hold, so there is no bundle."""


@dataclass(frozen=True, slots=True)
class GateRow:
    """One promise, and what was measured."""

    what: str
    value: float
    target: str
    holds: bool


def judge(
    gate: Gate, max_ratio: float, accuracy: Accuracy | None, agreement: Agreement, latency: Latency, size: int
) -> list[GateRow]:
    """Every row that the recipe asks for, whether it holds or not. ``size``: of the flatbuffer, bytes.

    The row on accuracy is there where annotated pictures were given.
    """
    rows = []

    def at_most(what: str, value: float, limit: float | None) -> None:
        if limit is not None:
            rows.append(GateRow(what, value, f"<= {limit:g}", value <= limit))

    def at_least(what: str, value: float, limit: float | None) -> None:
        if limit is not None:
            rows.append(GateRow(what, value, f">= {limit:g}", value >= limit))

    if accuracy is not None:
        at_most(f"{accuracy.metric} drop", accuracy.drop, gate.max_drop)
    at_least("agreement", agreement.share, gate.min_agreement)
    at_most("latency ratio", latency.ratio, max_ratio)
    at_least("speedup", 1 / latency.ratio, gate.min_speedup)
    at_most("latency, ms", latency.after.p50_ms, gate.max_latency_ms)
    at_most("flatbuffer, bytes", float(size), gate.max_bytes)
    return rows


def enforce(rows: Sequence[GateRow]) -> None:
    """Raises `GateError` naming every row that does not hold."""
    failed = [row for row in rows if not row.holds]
    if failed:
        raise GateError(
            "the gate does not hold, no bundle was written",
            expected=", ".join(f"{row.what} {row.target}" for row in failed),
            found=", ".join(f"{row.value:.3f}" for row in failed),
        )
