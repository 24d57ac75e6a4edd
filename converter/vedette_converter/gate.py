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
    gate: Gate, max_ratio: float, accuracy: Accuracy | None, agreement: Agreement, latency: Latency
) -> list[GateRow]:
    """Every row, whether it holds or not. The row on mAP is there where annotated pictures were given."""
    rows = []
    if accuracy is not None:
        rows.append(GateRow("mAP drop", accuracy.drop, f"<= {gate.max_drop:g}", accuracy.drop <= gate.max_drop))
    share = agreement.share
    rows.append(GateRow("agreement", share, f">= {gate.min_agreement:g}", share >= gate.min_agreement))
    rows.append(GateRow("latency ratio", latency.ratio, f"<= {max_ratio:g}", latency.ratio <= max_ratio))
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
