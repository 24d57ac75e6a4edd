"""``vedette infer MODEL FILE...``"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .plain import add_plain_arguments, plain_model

if TYPE_CHECKING:
    # --help must not import numpy and OpenCV
    from vedette.contract.errors import ReadingsError
    from vedette.contract.manifest import SeriesInput
    from vedette.contract.types import Readings
    from vedette.contract.window import WindowBuilder
    from vedette.flow.regions import Regions
    from vedette.models.model import ModelSpec

    from .findings import Finder

HELP = "run a model on pictures or recordings"
DESCRIPTION = (
    "Runs a model on pictures and prints what it found; --draw leaves a picture with boxes. A model of sensor readings "
    "runs on recordings (.csv, .ndjson, .jsonl or .npy) and prints a line a window."
)
EXAMPLES = """examples:
  vedette infer coco-ssdlite-mobilenet-v2 street.jpg
  vedette infer coco-ssdlite-mobilenet-v2 *.jpg --draw out/
  vedette infer coco-ssdlite-mobilenet-v2 street.jpg --json | jq '.results[0].objects'
  vedette infer other.tflite cat.png --decoder classify --labels labels.txt
  vedette infer coco-ssdlite-mobilenet-v2 square.jpg --tiles 3x2 --draw out/
  vedette infer coco-ssdlite-mobilenet-v2 pictures/ --draw out/
  vedette infer pump.tflite monday.csv

--json prints one object: model {name, version, sha256}, engine {runtime, delegate, threads}, results: a list of
{file, width, height, latency_ms {preprocess, infer, decode}, objects [{label, class_id, score, box}]}, or `classes`,
`poses`, `segments`, `anomaly` or `values` in the place of `objects`, as the agent publishes them. box is x_min, y_min,
x_max, y_max as fractions of the picture. Of a recording: {file, readings, gaps, late, clock_back, windows [{window {seq,
samples, first_us, last_us}, latency_ms, classes, anomaly or values}]}; readings without times have times of 0.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("model", metavar="MODEL", help="a name or a file")
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="pictures or recordings, or folders of them"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="SCORE",
        help="least score, 0 to 1, or an anomaly's (default: the model's own)",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="inference threads (default 1)")
    parser.add_argument("--runtime", choices=("auto", "litert", "tflite-runtime"), default="auto")
    parser.add_argument("--draw", type=Path, metavar="OUT", help="a picture file, or for several FILEs a folder")
    parser.add_argument(
        "--tiles",
        metavar="CxR",
        help="show a detector the picture in so many columns and rows of tiles, and whole: for what is small in it",
    )
    parser.add_argument("--crop", metavar="X0,Y0,X1,Y1", help="look at this part alone, in fractions of the picture")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    add_plain_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    from vedette.contract.errors import UserError
    from vedette.contract.manifest import AnomalyOutput, SeriesInput
    from vedette.models.model import read_model

    spec = read_model(arguments.model, plain_model(arguments))
    threshold = arguments.threshold
    if threshold is not None and isinstance(spec.output, AnomalyOutput):
        if not 0 < threshold <= 1e12:
            raise UserError("--threshold", expected="a number above 0, for an anomaly's score", found=str(threshold))
    elif threshold is not None and not 0 <= threshold <= 1:
        raise UserError("--threshold", expected="a number from 0 to 1", found=str(threshold))
    if isinstance(spec.input, SeriesInput):
        return _on_recordings(arguments, spec, spec.input)
    return _on_pictures(arguments, spec)


def _finder(arguments: argparse.Namespace, spec: ModelSpec) -> Finder:
    from vedette.models.model import load_model

    from .findings import Finder

    regions = _regions(arguments, spec)
    options = {"runtime": arguments.runtime, "threads": arguments.threads, "score_threshold": arguments.threshold}
    return Finder(load_model(spec, **options), regions)


def _regions(arguments: argparse.Namespace, spec: ModelSpec) -> Regions | None:
    """What --tiles and --crop ask for; None without them. Raises `UserError`."""
    import re

    import msgspec

    from vedette.contract.errors import UserError
    from vedette.contract.manifest import task_of
    from vedette.contract.wording import explained
    from vedette.flow.regions import RegionOptions, Regions

    asked: dict[str, list[float]] = {}
    if arguments.tiles is not None:
        if not re.fullmatch(r"[0-9]{1,3}x[0-9]{1,3}", arguments.tiles):
            raise UserError("--tiles", expected="COLUMNSxROWS, such as 3x2", found=repr(arguments.tiles))
        asked["tiles"] = [int(part) for part in arguments.tiles.split("x")]
    if arguments.crop is not None:
        try:
            asked["crop"] = [float(part) for part in arguments.crop.split(",")]
        except ValueError:
            asked["crop"] = []
        if len(asked["crop"]) != 4:
            raise UserError("--crop", expected="four fractions, such as 0,0.5,1,1", found=repr(arguments.crop))
    if not asked:
        return None
    if task_of(spec.output) != "detect":
        raise UserError("--" + ", --".join(asked), expected="a detector", found=spec.name)
    try:
        return Regions(msgspec.convert(asked, RegionOptions))
    except msgspec.ValidationError as error:
        where, expected, found = explained(error)
        option = where.partition("[")[0]
        if option in asked:
            given = repr(getattr(arguments, option))
            raise UserError(f"--{option}", expected=expected, found=f"{given}: {found}" if found else given) from None
        raise UserError("--" + ", --".join(asked), expected=expected, found=found) from None


def _on_pictures(arguments: argparse.Namespace, spec: ModelSpec) -> int:
    import sys

    from rich.markup import escape
    from rich.progress import track

    from vedette.contract.errors import PictureError
    from vedette.contract.types import Detections, Poses, Segments
    from vedette.pictures.drawing import SUFFIXES, draw, read_picture, write_picture
    from vedette.terminal import Console

    from .drawn import drawn_places
    from .findings import lines
    from .given import given_files, refuse_videos

    refuse_videos(arguments.files, arguments.model)
    pictures = given_files(arguments.files, SUFFIXES, "pictures")
    out: Path | None = arguments.draw
    places = drawn_places(out, pictures) if out is not None else []
    first = [read_picture(pictures[0])] if len(pictures) == 1 else []  # found to be bad before the model loads
    finder = _finder(arguments, spec)
    console = Console(stderr=True)
    results: list[dict[str, object]] = []
    doubts: dict[str, None] = {}  # each once, in their order
    bad = 0
    files = track(pictures, "pictures", console=console, disable=len(pictures) < 20, transient=True)
    for number, file in enumerate(files):
        try:
            pixels = first.pop() if first else read_picture(file)
        except PictureError as error:  # the others may be good
            print(f"vedette: error: {error}", file=sys.stderr)
            bad += 1
            continue
        finding = finder(pixels)
        if finding.doubt:
            doubts[finding.doubt] = None
        entry: dict[str, object] = {
            "file": str(file),
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "latency_ms": finding.latency_ms,
            finding.kind: finding.value,
        }
        drawn = None
        if out is not None and isinstance(finding.result, Detections | Poses | Segments):
            drawn = places[number]
            write_picture(drawn, draw(pixels, finding.result, spec.labels))
            entry["drawn"] = str(drawn)
        results.append(entry)
        if not arguments.json:
            print(
                f"{file}  {pixels.shape[1]}x{pixels.shape[0]}  infer {finding.latency_ms['infer']:.1f} ms"
                + (f"  -> {drawn}" if drawn else "")
            )
            for line in lines(finding) or ["nothing found"]:
                print(f"  {line}")
    if out is not None and results and "drawn" not in results[0]:
        print(f"vedette: a model that says nothing of places: {escape(str(out))} not written", file=sys.stderr)
    for doubt in doubts:
        print(f"vedette: {spec.path}: {doubt}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(finder.document(results)))
    return 2 if bad else 0


def _on_recordings(arguments: argparse.Namespace, spec: ModelSpec, series: SeriesInput) -> int:
    import statistics
    import sys

    import msgspec

    from vedette.contract.errors import UserError
    from vedette.contract.window import WindowBuilder
    from vedette.recordings import SUFFIXES, read_recording

    from .findings import lines, window_info
    from .given import given_files

    if arguments.draw is not None:
        raise UserError("--draw", expected="a model of pictures", found="one of sensor readings")
    channels = tuple(channel.name for channel in series.channels)

    def read(file: Path) -> Readings:
        return read_recording(
            file, channels, on_doubt=lambda doubt: print(f"vedette: {file}: {doubt}", file=sys.stderr)
        )

    recordings = given_files(arguments.files, SUFFIXES, "recordings")
    first = [read(recordings[0])]  # a bad file is found before the model loads
    finder = _finder(arguments, spec)
    results: list[dict[str, object]] = []
    useless: list[ReadingsError] = []
    for file in recordings:
        readings = first.pop() if first else read(file)
        builder = WindowBuilder(series)
        windows = builder.push(readings)
        found = [finder(window) for window in windows]
        counts = builder.counts
        if not counts.windows:
            useless.append(_no_window(file, series, builder))
        results.append(
            {
                "file": str(file),
                "readings": counts.readings,
                "gaps": counts.gaps,
                "late": counts.late,
                "clock_back": counts.clock_back,
                "windows": [
                    {
                        "window": msgspec.to_builtins(window_info(window)),
                        "latency_ms": finding.latency_ms,
                        finding.kind: finding.value,
                    }
                    for window, finding in zip(windows, found, strict=True)
                ],
            }
        )
        if arguments.json:
            continue
        infer_ms = statistics.median(f.latency_ms["infer"] for f in found) if found else 0.0
        print(
            f"{file}  {counts.readings} readings, {counts.windows} windows, {counts.gaps} gaps, {counts.late} late"
            + (f", {counts.clock_back} clock set back" if counts.clock_back else "")
            + (f"  infer {infer_ms:.3f} ms" if found else "")
        )
        begin_ns = int(readings.times_ns[0])
        for window, finding in zip(windows, found, strict=True):
            at = f"{(window.first_ns - begin_ns) / 1e9:10.3f} s" if readings.timed else f"{window.seq:10d}"
            for number, line in enumerate(lines(finding) or ["nothing found"]):
                print(f"{at if not number else ' ' * len(at)}  {line}")
    if arguments.json:
        print(json.dumps(finder.document(results)))
    for error in useless:
        print(f"vedette: error: {error.line()}", file=sys.stderr)
    return useless[0].exit_code if useless else 0


def _no_window(file: Path, series: SeriesInput, builder: WindowBuilder) -> ReadingsError:
    """Why nothing came of a recording."""
    from vedette.contract.errors import ReadingsError

    counts = builder.counts
    if (doubt := builder.doubt) is not None:
        asked, fix = doubt
        return ReadingsError(f"not one window: {asked}", where=file, fix=fix)
    apart = f", none more than {series.max_gap / series.rate_hz:.3g} s after another" if series.rate_hz else ""
    breaks = f", {counts.gaps} gaps, {counts.late} late" if counts.gaps or counts.late else ""
    return ReadingsError(
        "not one window", where=file, expected=f"{series.length} readings{apart}",
        found=f"{counts.readings} readings{breaks}", fix="take a longer recording" if not breaks else "",
    )  # fmt: skip
