"""What a build found out, as a Markdown table for people and one object for programs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from vedette.contract.bundle import Bundle

from ..evaluate import Accuracy
from ..gate import failing
from ..measured import Measured, Stage
from .words import in_bytes, in_ms

NAMES = {
    "mAP": "COCO mAP",
    "top-1": "top-1 accuracy",
    "AUC": "area under the ROC curve",
    "R2": "coefficient of determination R2",
}
NO_INTERVAL = "no interval: one recording alone of a label"


def stage_rows(measured: Measured) -> list[list[str]]:
    """One row a figure: what it is, then a cell for each network on the way. The networks' names stand above."""
    stages, latency = measured.stages, measured.latency
    first = stages[0]

    def row(what: str, value: Callable[[Stage], str]) -> list[str]:
        return [what, *(value(stage) for stage in stages)]

    rows: list[list[str]] = []
    if any(stage.cost is not None for stage in stages):
        rows.append(row("multiply-accumulates", lambda s: _macs(s.cost.macs) if s.cost else ""))
        rows.append(row("parameters", lambda s: f"{s.cost.parameters / 1e3:.1f} k" if s.cost else ""))
    rows.append(row("flatbuffer", lambda s: _bytes(s.bytes, first.bytes)))
    rows.append(row("the same, compressed", lambda s: _bytes(s.compressed_bytes, first.compressed_bytes)))
    rows.append(
        row(
            f"latency, median of {latency.rounds}, {latency.threads} thread, {latency.runtime}",
            lambda s: (
                in_ms(s.timing.p50_ms) + ("" if s is first else f" ({first.timing.p50_ms / s.timing.p50_ms:.2f}x)")
            ),
        )
    )
    rows.append(row("latency, p90, p99", lambda s: f"{in_ms(s.timing.p90_ms)}, {in_ms(s.timing.p99_ms)}"))
    accuracies = [stage.accuracy for stage in stages if stage.accuracy is not None]
    if accuracies:
        rows += _accuracy_rows(accuracies[0], stages, measured.noun)
    agreement = measured.agreement
    rows.append(
        row(
            f"confident results kept, {agreement.pictures} {measured.noun}",
            lambda s: (
                f"{s.agreement.share:.1%} ({s.agreement.share_confident:.1%} with confidence)"
                if s.agreement
                else f"{agreement.confident}"
            ),
        )
    )
    return rows


def markdown(measured: Measured) -> str:
    """Every network on the way, one column each; one row a figure."""
    stages = measured.stages
    rows = [["", *(_column(measured, number) for number in range(len(stages)))], ["---", *["---:"] * len(stages)]]
    rows += stage_rows(measured)
    lines = [f"**{measured.name}** on {measured.latency.machine}", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    lines += ["", "| gate | measured | must be | holds |", "| --- | ---: | --- | --- |"]
    lines += [
        f"| {row.what} | {row.value:.4f} | {row.target} | {f'**{row.verdict}**' if row.holds is False else row.verdict} |"
        for row in measured.rows
    ]
    if lost := blame(measured):
        lines += ["", f"Where it was lost: {lost}."]
    lines += ["", "| self-test | judged | agreement | mean score error |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {verdict.judged} | {verdict.agreement:.3f} | {verdict.mean_score_error:.4f} |"
        for name, verdict in measured.verdicts.items()
    ]
    if measured.findings:
        lines += ["", *(f"- note: {finding}" for finding in measured.findings)]
    seconds = ", ".join(f"{step} {taken:g} s" for step, taken in measured.seconds.items())
    lines += ["", f"Took: {seconds}. Peak memory {measured.peak_bytes / 1e6:.0f} MB."]
    return "\n".join(lines)


def blame(measured: Measured) -> str:
    """Which step lost the accuracy or the agreement, where a row of the gate on either does not hold; else nothing."""
    failed = [row.what for row in failing(measured.rows)]
    if not any(what.endswith("drop") or what == "agreement" for what in failed):
        return ""
    way = measured.stages[: measured.product + 1]
    said = []
    for earlier, later in itertools.pairwise(way):
        change = _score(later, way[0]) - _score(earlier, way[0])
        said.append(f"{earlier.name} -> {later.name} {change:+.4f}")
    return ", ".join(said)


def _score(stage: Stage, first: Stage) -> float:
    """Accuracy where there is one, else agreement; relative to the first stage."""
    if stage is first:
        return 0.0
    if stage.accuracy is not None:
        return -stage.accuracy.drop
    return (stage.agreement.share if stage.agreement else 1.0) - 1.0


def _column(measured: Measured, number: int) -> str:
    name = measured.stages[number].name
    return f"**{name}**" if number == measured.product else name


def _interval(accuracy: Accuracy) -> str:
    return f"{accuracy.interval[0]:+.4f} to {accuracy.interval[1]:+.4f}" if accuracy.interval else NO_INTERVAL


def _accuracy_rows(known: Accuracy, stages: tuple[Stage, ...], noun: str) -> list[list[str]]:
    figures = [f"{known.before:.4f}"]
    intervals = [""]
    for stage in stages[1:]:
        accuracy = stage.accuracy
        figures.append(f"{accuracy.after:.4f} ({accuracy.after - accuracy.before:+.4f})" if accuracy else "")
        intervals.append(_interval(accuracy) if accuracy else "")
    rows = [
        [f"{NAMES[known.metric]}, {known.data.count} {noun} ({known.data.name})", *figures],
        ["95 % interval of the change, paired bootstrap", *intervals],
    ]
    for label, found in known.large.items():
        cells = [f"{found.before} of {found.total}"]
        for stage in stages[1:]:
            cells.append(f"{stage.accuracy.large[label].after} of {found.total}" if stage.accuracy else "")
        rows.append([f"large objects found: {label}", *cells])
    for number, figure in enumerate(known.more):
        unit = f" {figure.unit}" if figure.unit else ""
        cells = [f"{figure.before:.4f}{unit}"]
        for stage in stages[1:]:
            own = stage.accuracy.more[number] if stage.accuracy else None
            cells.append(f"{own.after:.4f}{unit} ({own.after - own.before:+.4f})" if own else "")
        rows.append([figure.name, *cells])
    return rows


def _macs(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 100_000 else f"{count / 1e3:.1f} k"


def _bytes(size: int, before: int) -> str:
    text = in_bytes(size)
    return text if size == before else f"{text} ({before / size:.1f}x smaller)"


def written(bundle: Bundle) -> str:
    """One line on the bundle and its parts."""
    parts = {"flatbuffer": bundle.manifest.flatbuffer_bytes, **bundle.members}
    listed = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items() if size >= 1000)
    return f"{bundle.path}: {in_bytes(bundle.path.stat().st_size)} ({listed}), sha256 {bundle.sha256}"


def as_object(measured: Measured | None, bundle: Bundle | None, error: str | None) -> dict[str, Any]:
    """The same for programs; ``bundle`` is null where none was written, and ``error`` then says why."""
    document: dict[str, Any] = {"error": error, "bundle": None, "gate": [], "measured": None}
    if bundle is not None:
        document["bundle"] = {
            "path": str(bundle.path),
            "bytes": bundle.path.stat().st_size,
            "sha256": bundle.sha256,
            "members": dict(bundle.members),
        }
    if measured is None:
        return document
    accuracy, agreement, latency = measured.accuracy, measured.agreement, measured.latency
    document["gate"] = [
        {"what": row.what, "value": row.value, "target": row.target, "holds": row.holds} for row in measured.rows
    ]
    document["measured"] = {
        "name": measured.name,
        "flatbuffer_bytes": {"before": measured.before.bytes, "after": measured.after.bytes},
        "p50_ms": {"before": latency.before.p50_ms, "after": latency.after.p50_ms},
        "accuracy": accuracy
        and {
            "metric": accuracy.metric,
            "before": accuracy.before,
            "after": accuracy.after,
            "difference_interval": accuracy.interval and list(accuracy.interval),
            "more": [{"name": f.name, "before": f.before, "after": f.after, "unit": f.unit} for f in accuracy.more],
        },
        "large_found": accuracy
        and {
            label: {"before": found.before, "after": found.after, "total": found.total}
            for label, found in accuracy.large.items()
        },
        "agreement": {
            "pictures": agreement.pictures,
            "confident": agreement.confident,
            "share": agreement.share,
            "share_confident": agreement.share_confident,
        },
        "stages": [
            {
                "name": stage.name,
                "flatbuffer_bytes": stage.bytes,
                "p50_ms": stage.timing.p50_ms,
                "p90_ms": stage.timing.p90_ms,
                "p99_ms": stage.timing.p99_ms,
                "accuracy": stage.accuracy and stage.accuracy.after,
                "agreement": stage.agreement and stage.agreement.share,
                "macs": stage.cost and stage.cost.macs,
                "parameters": stage.cost and stage.cost.parameters,
            }
            for stage in measured.stages
        ],
        "findings": list(measured.findings),
        "seconds": measured.seconds,
        "peak_bytes": measured.peak_bytes,
    }
    return document
