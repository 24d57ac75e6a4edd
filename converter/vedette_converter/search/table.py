"""What a search found, as a Markdown table for people and one object for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .search import Found, Result

_METRICS = {"top-1": "top-1 accuracy", "mAP": "COCO mAP", "agreement": "confident results kept"}


def markdown(result: Result) -> str:
    """The float original, then the front, fastest first; the chosen one in bold."""
    tested = result.original_test is not None
    head = ["", f"{_METRICS[result.metric]}, chosen by", "change"]
    head += ["on the test pictures", "change, 95 % interval"] if tested else []
    head += ["latency, median", "faster", "flatbuffer", "smaller"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    test = result.original_test
    row = ["float32 original", f"{result.original.accuracy:.4f}", ""]
    row += [f"{test.before:.4f}", ""] if test is not None else []
    rows.append([*row, f"{result.original_timing.p50_ms:.3f} ms", "", f"{result.original.bytes / 1e3:.1f} KB", ""])
    for one in result.front:
        row = [one.choice.words, f"{one.outcome.accuracy:.4f}", f"{0.0 - one.point.drop:+.4f}"]
        if tested:
            assert one.test is not None and one.test.interval is not None  # all or none; pictures always have one
            low, high = one.test.interval
            row += [f"{one.test.after:.4f}", f"{0.0 - one.test.drop:+.4f} ({low:+.4f} to {high:+.4f})"]
        row += [f"{one.timing.p50_ms:.3f} ms", f"{1 / one.point.ratio:.2f}x", f"{one.point.bytes / 1e3:.1f} KB",
                f"{result.original.bytes / one.point.bytes:.1f}x"]  # fmt: skip
        rows.append([f"**{cell}**" for cell in row] if one is result.chosen else row)
    tried = result.tried
    lines = [f"**{result.name}**: the front of {tried.finished} networks tried, on {result.machine}", ""]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", f"Chosen by: {result.judged_by}. Latencies: median of {result.rounds}, all by turns in one run.", ""]
    if result.chosen is not None:
        lines.append(
            f"The fastest that loses at most {result.budget:g}: **{result.chosen.name}**, {result.chosen.recipe}"
            + (f", {result.bundle}" if result.bundle is not None else "")
        )
    else:
        best = min(one.point.drop for one in result.front)
        lines.append(f"None loses at most {result.budget:g}; the best loses {best:.4f}.")
    lines += [
        "",
        f"Tried {tried.finished} of {result.combinations} combinations; {len(tried.failed)} could not be built, "
        f"{tried.died} times a process ended in the middle and its trial went back. Took {result.seconds:g} s.",
    ]
    lines += (
        ["", *(f"- could not be built: {one.choice.words}: {one.reason}" for one in tried.failed)]
        if tried.failed
        else []
    )
    lines += ["", *(f"- note: {note}" for note in result.notes)] if result.notes else []
    return "\n".join(lines)


def as_object(result: Result | None, error: str | None) -> dict[str, Any]:
    """The same for programs; ``chosen`` is the name of one of ``front``, or null."""
    if result is None:
        return {"error": error, "chosen": None, "front": [], "tried": [], "failed": []}
    return {
        "error": error,
        "name": result.name,
        "metric": result.metric,
        "judged_by": result.judged_by,
        "budget": result.budget,
        "machine": result.machine,
        "original": {
            "accuracy": result.original.accuracy, "bytes": result.original.bytes,
            "p50_ms": result.original_timing.p50_ms,
            "test_accuracy": result.original_test.before if result.original_test is not None else None,
        },
        "chosen": result.chosen.name if result.chosen is not None else None,
        "bundle": str(result.bundle) if result.bundle is not None else None,
        "front": [_found(one) for one in result.front],
        "tried": [{"number": one.number, "choice": asdict(one.choice), **asdict(one.point)} for one in result.tried.done],
        "failed": [
            {"number": one.number, "choice": asdict(one.choice), "reason": one.reason} for one in result.tried.failed
        ],
        "died": result.tried.died,
        "combinations": result.combinations,
        "notes": list(result.notes),
        "seconds": result.seconds,
    }  # fmt: skip


def _found(one: Found) -> dict[str, Any]:
    test = one.test
    return {
        "name": one.name, "recipe": str(one.recipe), "choice": asdict(one.choice), **asdict(one.point),
        "accuracy": one.outcome.accuracy, "p50_ms": one.timing.p50_ms, "flatbuffer_sha256": one.outcome.sha256,
        "test": None if test is None else
        {"accuracy": test.after, "drop": test.drop, "interval": test.interval and list(test.interval),
         "pictures": test.data.count},
    }  # fmt: skip
