"""What a camera's planes save: a network's input straight from Y, Cb and Cr, against BGR made of all of them first.

The shipped detector, on frames of the shipped clip, enlarged or reduced and put into planes as ``rpicam-vid`` gives them.
CPU of one frame by the thread's own clock, both ways by turns, each after a copy of 16 MB, after which the core's own caches
hold nothing of the frame. And whether the same is found in them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _results import ROOT, Results

from vedette.contract.planes import PlanesToBgr
from vedette.contract.types import Detections, Planes, UInt8Array
from vedette.models.model import load_model, read_model
from vedette.sources import SourceOptions, make_source
from vedette_converter.agreement import compare

SIZES = ((640, 480), (1280, 720), (1920, 1080))
CLIP = ROOT / "examples/media/people-walking.mp4"
MODEL = "coco-ssdlite-mobilenet-v2"
EVERY = 5  # of the clip's frames, one is looked at


def planes_of(bgr: UInt8Array, size: tuple[int, int]) -> Planes:
    """Full range, chroma 4:2:0."""
    width, height = size
    luma, red, blue = cv2.split(cv2.cvtColor(cv2.resize(bgr, size), cv2.COLOR_BGR2YCrCb))
    halves = [cv2.resize(chroma, (width // 2, height // 2), interpolation=cv2.INTER_AREA) for chroma in (blue, red)]
    return Planes(luma, *halves)  # type: ignore[arg-type]


def frames(clip: Path) -> list[UInt8Array]:
    """Some of the clip's."""
    source = make_source(SourceOptions(str(clip), pace="max"))
    source.open()
    found = []
    number = 0
    while (reading := source.read(None)) is not None:
        if number % EVERY == 0:
            found.append(np.asarray(reading.pixels))
        number += 1
    source.close()
    return found


def by_turns(ways: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Milliseconds of CPU."""
    here, there = np.zeros(16 << 20, np.uint8), np.empty(16 << 20, np.uint8)
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, times in zip(ways, found, strict=True):
            np.copyto(there, here)
            begun = time.thread_time_ns()
            way()
            times.append((time.thread_time_ns() - begun) / 1e6)
    return found


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rounds", type=int, default=300, help="of both ways")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    model = load_model(read_model(options.model), score_threshold=0.2)
    to_bgr = PlanesToBgr()
    results = Results("planes")
    clip = frames(options.clip)
    for size in SIZES:
        width, height = size
        name = f"{width}x{height}"
        planes = planes_of(clip[0], size)
        into = np.empty((height, width, 3), np.uint8)
        as_planes, as_bgr = by_turns(
            [lambda planes=planes: model.preprocess(planes),  # type: ignore[misc]
             lambda planes=planes, into=into: model.preprocess(to_bgr(planes, into))], options.rounds,
        )  # fmt: skip
        for what, times in (("planes", as_planes), ("BGR of all of it, and its input", as_bgr)):
            low, middle, high = statistics.quantiles(times, n=4)
            results.row(what=f"{name}: {what}: CPU a frame", value=middle, unit="ms", n=len(times), spread=[low, high])
        ratio = statistics.median(as_planes) / statistics.median(as_bgr)
        results.row(what=f"{name}: planes by BGR", value=ratio, unit="ratio", n=options.rounds, target="< 1",
                    holds=ratio < 1)  # fmt: skip
        found: list[tuple[Detections, Detections]] = []
        for pixels in clip:
            planes = planes_of(pixels, size)
            pair = [model(planes), model(to_bgr(planes))]
            found.append((pair[0], pair[1]))  # type: ignore[arg-type]
        same = compare(
            [bgr for _, bgr in found], [ours for ours, _ in found], confident=0.5, partner_score=0.4, iou=0.5
        )
        results.row(what=f"{name}: detections in BGR (score >= 0.5) found again in planes (0.4, IoU >= 0.5)",
                    value=same.share, unit="", n=same.confident)  # fmt: skip
    results.write()
    return 0 if all(row.holds in (None, True) for row in results.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
