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
    if accuracy is not None:
        rows.append(_at_most(f"{accuracy.metric} drop", accuracy.drop, gate.max_drop))
        if gate.min_accuracy is not None:
            rows.append(_at_least(accuracy.metric, accuracy.after, gate.min_accuracy))
    rows.append(_at_least("agreement", agreement.share, gate.min_agreement))
    return rows + limits_rows(
        latency, size, max_ratio=max_ratio, min_speedup=gate.min_speedup, max_latency_ms=gate.max_latency_ms,
        max_bytes=gate.max_bytes,
    )  # fmt: skip


def limits_rows(
    latency: Latency, size: int, *, max_ratio: float | None, min_speedup: float | None, max_latency_ms: float | None,
    max_bytes: int | None,
) -> list[GateRow]:  # fmt: skip
    """Rows on speed and size, for each limit that is given."""
    rows = []
    if max_ratio is not None:
        rows.append(_at_most("latency ratio", latency.ratio, max_ratio))
    if min_speedup is not None:
        rows.append(_at_least("speedup", 1 / latency.ratio, min_speedup))
    if max_latency_ms is not None:
        rows.append(_at_most("latency, ms", latency.after.p50_ms, max_latency_ms))
    if max_bytes is not None:
        rows.append(_at_most("flatbuffer, bytes", float(size), max_bytes))
    return rows


def _at_most(what: str, value: float, limit: float) -> GateRow:
    return GateRow(what, value, f"<= {limit:g}", value <= limit)


def _at_least(what: str, value: float, limit: float) -> GateRow:
    return GateRow(what, value, f">= {limit:g}", value >= limit)


def enforce(rows: Sequence[GateRow]) -> None:
    """Raises `GateError` naming every row that does not hold."""
    failed = [row for row in rows if not row.holds]
    if failed:
        raise GateError(
            "the gate does not hold, no bundle was written",
            expected=", ".join(f"{row.what} {row.target}" for row in failed),
            found=", ".join(f"{row.value:.4g}" for row in failed),
        )
