"""``vedette infer MODEL FILE...``"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .plain import add_plain_arguments, plain_model

HELP = "run a model on picture files"
DESCRIPTION = "Runs a model on pictures and prints what it found; --draw leaves a picture with boxes."
EXAMPLES = """examples:
  vedette infer coco-ssdlite-mobilenet-v2 street.jpg
  vedette infer coco-ssdlite-mobilenet-v2 *.jpg --draw out/
  vedette infer coco-ssdlite-mobilenet-v2 street.jpg --json | jq '.results[0].objects'
  vedette infer other.tflite cat.png --decoder classify --labels labels.txt

--json prints one object: model {name, version, sha256}, engine {runtime, delegate, threads}, results: a list of
{file, width, height, latency_ms {preprocess, infer, decode}, objects [{label, class_id, score, box}]}, or `classes`
in the place of `objects`. box is x_min, y_min, x_max, y_max as fractions of the picture.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("model", metavar="MODEL", help="a name or a file")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="pictures")
    parser.add_argument(
        "--threshold", type=float, metavar="SCORE", help="least score, 0 to 1 (default: the model's own)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="inference threads (default 1)")
    parser.add_argument("--runtime", choices=("auto", "litert", "tflite-runtime"), default="auto")
    parser.add_argument("--draw", type=Path, metavar="OUT", help="a picture file, or for several FILEs a folder")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    add_plain_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    import itertools
    import sys
    import time

    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    from vedette.contract.errors import UserError
    from vedette.contract.types import Detections
    from vedette.model import load_model, read_model
    from vedette.pictures import SUFFIXES, draw, read_picture, write_picture

    threshold = arguments.threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError("--threshold", expected="a number from 0 to 1", found=str(threshold))
    spec = read_model(arguments.model, plain_model(arguments))
    out: Path | None = arguments.draw
    if out is not None:
        as_folder = len(arguments.files) > 1 or out.is_dir() or out.suffix.lower() not in SUFFIXES
        folder = out if as_folder else out.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                "--draw", expected="a folder that can be written to", found=f"{folder}: {error.strerror}"
            ) from None
    pictures = [
        (file, read_picture(file)) for file in arguments.files[:1]
    ]  # a bad file is found before the model loads
    model = load_model(spec, runtime=arguments.runtime, threads=arguments.threads, score_threshold=threshold)
    console = Console(stderr=True)
    results = []
    files = track(arguments.files, "pictures", console=console, disable=len(arguments.files) < 20, transient=True)
    for file in files:
        pixels = pictures.pop()[1] if pictures else read_picture(file)
        stamps = [time.perf_counter_ns()]
        placement = model.preprocess(pixels)
        stamps.append(time.perf_counter_ns())
        model.infer()
        stamps.append(time.perf_counter_ns())
        found = model.decode(placement)
        stamps.append(time.perf_counter_ns())
        spans = [(b - a) / 1e6 for a, b in itertools.pairwise(stamps)]
        entry: dict[str, object] = {
            "file": str(file),
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "latency_ms": dict(zip(("preprocess", "infer", "decode"), (round(s, 3) for s in spans), strict=True)),
        }
        rows = [
            {"label": spec.labels[i], "class_id": int(i), "score": round(float(s), 4)}
            for i, s in zip(found.class_ids, found.scores, strict=True)
        ]
        if isinstance(found, Detections):
            for row, box in zip(rows, found.boxes, strict=True):
                row["box"] = [round(float(v), 4) for v in box]
            entry["objects"] = rows
        else:
            entry["classes"] = rows
        drawn = None
        if out is not None and isinstance(found, Detections):
            drawn = out / f"{file.stem}.jpg" if as_folder else out
            write_picture(drawn, draw(pixels, found, spec.labels))
            entry["drawn"] = str(drawn)
        results.append(entry)
        if not arguments.json:
            print(
                f"{file}  {pixels.shape[1]}x{pixels.shape[0]}  infer {spans[1]:.1f} ms"
                + (f"  -> {drawn}" if drawn else "")
            )
            for row in rows:
                box = " ".join(f"{v:.3f}" for v in row["box"]) if "box" in row else ""
                print(f"  {row['score']:.2f}  {row['label']:<16} {box}")
            if not rows:
                print("  nothing found")
    if out is not None and results and "classes" in results[0]:
        print(f"vedette: a classifier has no boxes to draw: {escape(str(out))} not written", file=sys.stderr)
    if arguments.json:
        description = model.engine.description
        print(
            json.dumps(
                {
                    "model": {"name": spec.name, "version": spec.version, "sha256": spec.sha256},
                    "engine": {
                        "runtime": description.runtime,
                        "delegate": description.delegate,
                        "threads": description.threads,
                    },
                    "results": results,
                }
            )
        )
    return 0
