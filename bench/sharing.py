"""Four cameras on one detector: their inferences a second together, against those of one alone; and who got how much.

Every pipeline reads the shipped clip flat out, so each always wants more than it gets. One alone and four together take
turns in one run: with a single interpreter, and with as many as the rule of `vedette.flow.lane` gives them. Weights are
tried with four pipelines as well. Nothing is sent to a broker; messages are dropped, oldest first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from _results import Results

from vedette.cli.run import SWITCH_INTERVAL_S
from vedette.config import parse_config
from vedette.messages.reporter import NoAudience
from vedette.models.model import share_folder
from vedette.outbox import MemoryOutbox
from vedette.service.compose import make_pipeline, prepare
from vedette.service.lanes import load_models

WEIGHTS = (1.0, 1.0, 2.0, 4.0)


def measure(model: str, clip: Path, weights: tuple[float, ...], interpreters: int, seconds: float) -> list[int]:
    """The inferences of each pipeline in so many seconds, after a second to get going."""
    tables = "\n".join(
        f'[pipeline.camera{n}]\nmodel = "{model}"\nweight = {weight}\nparallel = 1\n'
        f'[pipeline.camera{n}.source]\nurl = "{clip}"\nloop = true\npace = "max"'
        for n, weight in enumerate(weights)
    )
    config = parse_config(f"[engine]\ninterpreters = {interpreters}\n{tables}".encode(), Path("sharing.toml"))
    prepared = prepare(config, Path("sharing.toml"))
    loaded = load_models(prepared, config.engine)
    outbox = MemoryOutbox(1, max_messages=1000, max_bytes=1 << 24)
    pipelines = [
        make_pipeline(p, loaded[p.name], outbox, NoAudience(), clock_state=lambda: "synced", on_source=lambda *_: None)
        for p in prepared
    ]
    lanes = {id(found.lane): found.lane for found in loaded.values()}.values()
    for lane in lanes:
        lane.start()
    for pipeline in pipelines:
        pipeline.feed.start()
        pipeline.start()
    time.sleep(1.0)
    before = [pipeline.seat.inferences for pipeline in pipelines]
    time.sleep(seconds)
    counts = [pipeline.seat.inferences - b for pipeline, b in zip(pipelines, before, strict=True)]
    for pipeline in pipelines:
        pipeline.feed.stop()
        pipeline.stop()
    for lane in lanes:
        lane.stop()
        lane.close()
    return counts


def jain(shares: list[float]) -> float:
    """Jain's fairness index (Jain, Chiu and Hawe, DEC-TR-301, 1984): 1 where all are equal, 1/n where one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def main() -> int:
    """Prints the table; 1 when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="coco-ssdlite-mobilenet-v2")
    parser.add_argument("--clip", type=Path, default=share_folder("media") / "people-walking.mp4")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    results = Results("sharing")
    one: list[float] = []
    four: dict[int, list[list[int]]] = {1: [], 0: []}
    weighted: list[list[int]] = []
    for number in range(arguments.rounds):
        one.append(sum(measure(arguments.model, arguments.clip, (1.0,), 1, arguments.seconds)))
        for interpreters, found in four.items():
            found.append(measure(arguments.model, arguments.clip, (1.0,) * 4, interpreters, arguments.seconds))
        weighted.append(measure(arguments.model, arguments.clip, WEIGHTS, 1, arguments.seconds))
        print(
            f"round {number + 1}: one {one[-1]}, four {four[1][-1]} and {four[0][-1]}, weighted {weighted[-1]}",
            file=sys.stderr,
        )
    rate = [count / arguments.seconds for count in one]
    results.row(
        what="one camera, inferences a second",
        value=statistics.median(rate),
        unit="1/s",
        n=len(one),
        spread=quartiles(rate),
    )
    for interpreters, words in ((1, "one interpreter"), (0, "an interpreter a core")):
        ratios = [sum(counts) / alone for counts, alone in zip(four[interpreters], one, strict=True)]
        ratio = statistics.median(ratios)
        results.row(
            what=f"four cameras on one detector, {words}: throughput by that of one camera", value=ratio, unit="ratio",
            n=len(ratios), target=">= 0.95", holds=ratio >= 0.95, spread=quartiles(ratios),
        )  # fmt: skip
        fairness = [jain([float(count) for count in counts]) for counts in four[interpreters]]
        index = statistics.median(fairness)
        results.row(
            what=f"four cameras on one detector, {words}: Jain's fairness index", value=index, unit="",
            n=len(fairness), target=">= 0.99", holds=index >= 0.99, spread=quartiles(fairness),
        )  # fmt: skip
    fairness = [jain([count / w for count, w in zip(counts, WEIGHTS, strict=True)]) for counts in weighted]
    index = statistics.median(fairness)
    results.row(
        what=f"weights {', '.join(f'{w:g}' for w in WEIGHTS)}, one interpreter: Jain's index of inferences by weight",
        value=index, unit="", n=len(fairness), target=">= 0.99", holds=index >= 0.99, spread=quartiles(fairness),
    )  # fmt: skip
    return 0 if results.write() else 1


def quartiles(values: list[float]) -> list[float]:
    """25 % and 75 %."""
    return [round(float(value), 4) for value in np.percentile(values, [25, 75])]


if __name__ == "__main__":
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    sys.exit(main())
