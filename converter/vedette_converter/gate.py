"""What must hold before a bundle is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vedette.contract.errors import FaultError

from . import chance
from .agreement import Agreement
from .evaluate import Accuracy
from .latency import Latency
from .recipe import ANY_RATIO, Gate


class GateError(FaultError):
    """A row of the recipe's gate does not hold, so there is no bundle."""


@dataclass(frozen=True, slots=True)
class GateRow:
    """One promise, and what was measured. ``holds``: None where nothing is promised, and ``target`` is empty. ``key``:
    where the promise is made, a recipe's table and key, or a flag."""

    what: str
    value: float
    target: str
    holds: bool | None
    key: str = ""
    fix: str = ""
    """What to look at where it does not hold, and no key says it."""

    @property
    def verdict(self) -> str:
        """In a word; empty where there is none."""
        return "" if self.holds is None else "yes" if self.holds else "no"


def judge(
    gate: Gate, max_ratio: float, accuracy: Accuracy | None, agreement: Agreement, latency: Latency, size: int
) -> list[GateRow]:
    """Every row that the recipe asks for, whether it holds or not. ``size``: of the flatbuffer, bytes.

    The rows on accuracy are there where annotated pictures or recordings were given. That the float network sees anything
    at all is asked of every network, of a detector that it finds one object: against one that is blind nothing is lost. A
    limit that nothing can break is no promise.
    """
    rows = []
    if accuracy is not None:
        if accuracy.blind is not None:
            seeing = _at_most("float network better than chance, p", accuracy.blind, chance.LEVEL, "")
            rows.append(replace(seeing, fix=accuracy.ask))
        rows.append(_at_most(f"{accuracy.metric} drop", accuracy.drop, gate.max_drop, "[gate] max_drop"))
        if gate.min_accuracy is not None:
            rows.append(_at_least(accuracy.metric, accuracy.after, gate.min_accuracy, "[gate] min_accuracy"))
        if accuracy.told is not None:
            row = _at_least("anomalies told at the threshold", accuracy.told, gate.min_told, "[gate] min_told")
            rows.append(replace(row, fix=_why_untold(accuracy.tellable, gate.min_told)))
    if gate.min_agreement > 0:
        rows.append(_at_least("agreement", agreement.share, gate.min_agreement, "[gate] min_agreement"))
    else:
        rows.append(GateRow("agreement", agreement.share, "", None))
    return rows + limits_rows(
        latency, size, max_ratio=max_ratio, min_speedup=gate.min_speedup, max_latency_ms=gate.max_latency_ms,
        max_bytes=gate.max_bytes,
    )  # fmt: skip


def _why_untold(tellable: float, wanted: float) -> str:
    """What to look at: the network, or the threshold alone."""
    if tellable < wanted:
        return (
            f"no threshold reaches more than {tellable:.2g} with these scores: another [input] length, [source] code or "
            "filters, more epochs, or are the recordings in the wrong folders?"
        )
    return (
        f"another threshold would have reached {tellable:.2g}: is [output] quantile or threshold amiss, or something odd "
        "among the normal recordings?"
    )


def limits_rows(
    latency: Latency, size: int, *, max_ratio: float | None, min_speedup: float | None, max_latency_ms: float | None,
    max_bytes: int | None,
) -> list[GateRow]:  # fmt: skip
    """Rows on speed and size, for each limit that is given."""
    rows = []
    if max_ratio == ANY_RATIO:
        rows.append(GateRow("latency ratio", latency.ratio, "", None))
    elif max_ratio is not None:
        rows.append(_at_most("latency ratio", latency.ratio, max_ratio, "[latency] max_ratio"))
    if min_speedup is not None:
        rows.append(_at_least("speedup", 1 / latency.ratio, min_speedup, "[gate] min_speedup"))
    if max_latency_ms is not None:
        rows.append(_at_most("latency, ms", latency.after.p50_ms, max_latency_ms, "[gate] max_latency_ms"))
    if max_bytes is not None:
        rows.append(_at_most("flatbuffer, bytes", float(size), max_bytes, "[gate] max_bytes"))
    return rows


def _at_most(what: str, value: float, limit: float, key: str) -> GateRow:
    return GateRow(what, value, f"<= {limit:g}", value <= limit, key)


def _at_least(what: str, value: float, limit: float, key: str) -> GateRow:
    return GateRow(what, value, f">= {limit:g}", value >= limit, key)


def failing(rows: Sequence[GateRow]) -> list[GateRow]:
    """Those whose promise is broken."""
    return [row for row in rows if row.holds is False]


def enforce(rows: Sequence[GateRow], *, by_flags: bool = False) -> None:
    """Raises `GateError` naming every row that does not hold, and where it is promised. ``by_flags``: there is no recipe."""
    failed = failing(rows)
    if failed:
        keys = [_flag(row.key) if by_flags else row.key for row in failed if row.key]
        promised = [f"make the network better, or promise less: {', '.join(keys)}"] if keys else []
        raise GateError(
            "the gate does not hold, no bundle was written",
            expected=", ".join(f"{row.what} {row.target}" for row in failed),
            found=", ".join(f"{row.value:.4g}" for row in failed),
            fix="; ".join([*(row.fix for row in failed if row.fix), *promised]),
        )


def _flag(key: str) -> str:
    name = key.rpartition(" ")[2]
    # nobody states an agreement without a recipe
    return f"a recipe with {key}" if name == "min_agreement" else "--" + name.replace("_", "-")
