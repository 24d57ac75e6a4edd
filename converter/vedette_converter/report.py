"""What a build found out, as a Markdown table for people and one object for programs."""

from __future__ import annotations

from typing import Any

from vedette.contract.bundle import Bundle

from .build import Measured


def markdown(measured: Measured) -> str:
    """Before and after, one row a figure."""
    latency, agreement = measured.latency, measured.agreement
    rows = [
        ("", "float32", "int8", "change"),
        ("---", "---:", "---:", "---"),
        (
            "flatbuffer",
            f"{measured.bytes_before / 1e6:.2f} MB",
            f"{measured.bytes_after / 1e6:.2f} MB",
            f"{measured.bytes_before / measured.bytes_after:.1f} times smaller",
        ),
        (
            f"latency, median of {latency.rounds}, {latency.threads} thread, {latency.runtime}",
            f"{latency.before.p50_ms:.2f} ms",
            f"{latency.after.p50_ms:.2f} ms",
            f"{1 / latency.ratio:.2f} times faster",
        ),
    ]
    accuracy = measured.accuracy
    if accuracy is not None:
        low, high = accuracy.interval
        rows.append(
            (
                f"COCO mAP, {accuracy.data.count} pictures ({accuracy.data.name})",
                f"{accuracy.before:.4f}",
                f"{accuracy.after:.4f}",
                f"{accuracy.after - accuracy.before:+.4f} (95 % interval {low:+.4f} to {high:+.4f})",
            )
        )
        for label, found in accuracy.large.items():
            rows.append(
                (
                    f"large objects found: {label}",
                    f"{found.before} of {found.total}",
                    f"{found.after} of {found.total}",
                    "",
                )
            )
    rows.append(
        (
            f"confident detections found again, {agreement.pictures} pictures",
            f"{agreement.confident}",
            f"{agreement.found}",
            f"{agreement.share:.1%} ({agreement.share_confident:.1%} with confidence again)",
        )
    )
    lines = [f"**{measured.name}** on {latency.machine}", ""]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "| gate | measured | must be | holds |", "| --- | ---: | --- | --- |"]
    lines += [
        f"| {row.what} | {row.value:.4f} | {row.target} | {'yes' if row.holds else '**no**'} |" for row in measured.rows
    ]
    lines += ["", "| self-test | judged | agreement | mean score error |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {verdict.judged} | {verdict.agreement:.3f} | {verdict.mean_score_error:.4f} |"
        for name, verdict in measured.verdicts.items()
    ]
    seconds = ", ".join(f"{step} {taken:g} s" for step, taken in measured.seconds.items())
    lines += ["", f"Took: {seconds}."]
    return "\n".join(lines)


def written(bundle: Bundle) -> str:
    """One line on the bundle and its parts."""
    parts = {"flatbuffer": bundle.manifest.flatbuffer_bytes, **bundle.members}
    listed = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in parts.items() if size >= 10_000)
    return f"{bundle.path}: {bundle.path.stat().st_size / 1e6:.2f} MB ({listed}), sha256 {bundle.sha256}"


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
        "flatbuffer_bytes": {"before": measured.bytes_before, "after": measured.bytes_after},
        "p50_ms": {"before": latency.before.p50_ms, "after": latency.after.p50_ms},
        "map": accuracy
        and {"before": accuracy.before, "after": accuracy.after, "difference_interval": list(accuracy.interval)},
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
        "seconds": measured.seconds,
    }
    return document
