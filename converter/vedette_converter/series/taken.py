"""What became of each recording's readings, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vedette.contract.errors import ReadingsError
from vedette.contract.manifest import SeriesInput
from vedette.contract.time_unit import doubted_order, doubted_unit
from vedette.contract.types import Int64Array
from vedette.contract.window import WindowCounts

FAR: Final = 1.5  # times more or fewer readings a second than the network takes: worth a word


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one recording's readings."""

    counts: WindowCounts
    rate_hz: float | None
    """Readings a second, by the usual step of their times; None where they have none."""
    doubt: str = ""
    """What to ask about its columns where there are no times."""


def rate_of(times_ns: Int64Array | None) -> float | None:
    """Readings a second, by the usual step; None where nothing says it."""
    steps = np.diff(times_ns) if times_ns is not None else np.empty(0, np.int64)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    return 1e9 / usual if usual else None


def no_window(path: Path, spec: SeriesInput, taken: Taken) -> ReadingsError:
    """Why nothing came of a recording."""
    counts, rate_hz = taken.counts, taken.rate_hz
    found, fix = f"{counts.readings} readings{_broken(counts)}", "take it out of the folder"
    wanted = f"{spec.length} samples" + (f" at {spec.rate_hz:g} Hz" if spec.rate_hz else "") + " without a gap"
    if order := doubted_order(counts.readings, counts.late + counts.clock_back):
        found, fix = f"{found}: {order[0]}", order[1]
    elif rate_hz and spec.rate_hz and counts.gaps:
        asked, fix = doubted_unit(1 / rate_hz, 1 / spec.rate_hz) or (
            f"they are {1 / rate_hz:.6g} s apart",
            f"is [input] rate_hz their rate? It asks for one every {1 / spec.rate_hz:.6g} s",
        )
        found += f": {asked}"
    return ReadingsError("recording is shorter than a window", where=path, expected=wanted, found=found, fix=fix)


def _broken(counts: WindowCounts) -> str:
    """What was left out, and what began windows anew; empty for nothing."""
    said = ((counts.gaps, "gaps"), (counts.late, "late"), (counts.clock_back, "times the clock was set back"))
    return "".join(f", {count} {what}" for count, what in said if count)


def oddities(found: Mapping[Path, Taken], spec: SeriesInput) -> list[str]:
    """What is to be said of recordings, each once: that they have no times, were not used whole, or have another rate."""
    every, rate_hz = list(found.values()), spec.rate_hz
    said = []
    if odd := [own.counts for own in every if _broken(own.counts)]:
        total = WindowCounts(
            gaps=sum(own.gaps for own in odd), late=sum(own.late for own in odd),
            clock_back=sum(own.clock_back for own in odd),
        )  # fmt: skip
        said.append(
            f"{len(odd)} of {len(every)} recordings are not whole{_broken(total)}: late readings, not later than the one "
            "before, are left out, and windows begin anew after a gap or a clock that is set back"
        )
    if rate_hz is None:
        return said
    if untimed := [own for own in every if own.rate_hz is None]:
        doubt = next((own.doubt for own in untimed if own.doubt), "")
        said.append(
            f"{len(untimed)} recordings have no times: their samples are taken to be {rate_hz:g} a second"
            + (f" ({doubt}, or name it as [series] time)" if doubt else "")
        )
    rates = [own.rate_hz for own in every if own.rate_hz is not None]
    if slow := [rate for rate in rates if rate < rate_hz / FAR]:
        said.append(
            f"{len(slow)} recordings have {min(slow):.4g} readings a second or more, where the network takes {rate_hz:g}: "
            "what lies between is interpolated"
        )
    if quick := [rate for rate in rates if rate > rate_hz * FAR]:
        said.append(
            f"{len(quick)} recordings have up to {max(quick):.4g} readings a second, where the network takes {rate_hz:g}: "
            f"nothing is filtered, so what is above {rate_hz / 2:g} Hz shows as something slower"
        )
    return said
