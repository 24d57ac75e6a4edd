"""Judges trackers, in an environment of its own: ``python bench/_mot.py CASES.json RESULTS.json``.

Runs the trackers of others on the same detections as ours, and scores all of them with `motmetrics` (CLEAR MOT: Bernardin
and Stiefelhagen, 2008; IDF1: Ristani et al., arXiv 1609.01775). bench/tracks.py starts it.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import motmetrics
import norfair
import numpy as np
import supervision
from trackers import ByteTrackTracker

Ids = list[list[int]]
"""For each frame, for each detection: its track, 0 for none."""

LEAST_IOU = 0.5  # of a track's box with the annotated one, as MOTChallenge counts


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) of corners."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.maximum(high - low, 0).prod(axis=2)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(axis=1)[None] - inter
    return inter / np.maximum(union, 1e-9)


def run_bytetrack(case: dict[str, Any]) -> Ids:
    """ByteTrack of Roboflow's `trackers`, thresholds as ours, the rest as it comes."""
    tracker = ByteTrackTracker(
        lost_track_buffer=round(30 * case["keep_s"]), frame_rate=case["fps"], track_activation_threshold=case["threshold"],
        high_conf_det_threshold=case["threshold"],
    )  # fmt: skip
    out = []
    for frame in case["found"]:
        rows = np.array(frame, float).reshape(-1, 5)
        found = supervision.Detections(
            xyxy=rows[:, :4],
            confidence=rows[:, 4],
            class_id=np.zeros(len(rows), int),
            data={"row": np.arange(len(rows))},
        )
        tracked = tracker.update(found)
        ids = [0] * len(frame)
        if tracked.tracker_id is not None and len(tracked):
            for row, number in zip(tracked.data["row"], tracked.tracker_id, strict=True):
                ids[int(row)] = int(number) + 1
        out.append(ids)
    return out


def run_norfair(case: dict[str, Any]) -> Ids:
    """Norfair with its IoU distance; its detections are those above the threshold."""
    tracker = norfair.Tracker(
        distance_function="iou", distance_threshold=0.7, initialization_delay=1,
        hit_counter_max=max(2, round(case["keep_s"] * case["fps"])),
    )  # fmt: skip
    out = []
    for frame in case["found"]:
        ids = [0] * len(frame)
        found = [
            norfair.Detection(np.array(row[:4]).reshape(2, 2), scores=np.array([row[4]] * 2), data=(len(out), i))
            for i, row in enumerate(frame)
            if row[4] >= case["threshold"]
        ]
        for tracked in tracker.update(found):
            number, row = tracked.last_detection.data
            if number == len(out):
                ids[row] = tracked.id
        out.append(ids)
    return out


RIVALS = {f"trackers {version('trackers')} ByteTrack": run_bytetrack, f"norfair {version('norfair')}": run_norfair}


def score(case: dict[str, Any], ids: Ids) -> dict[str, float]:
    """MOTA, IDF1 and identity switches."""
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for truth, found, tracks in zip(case["truth"], case["found"], ids, strict=True):
        objects = np.array(truth, float).reshape(-1, 5)
        boxes = np.array(found, float).reshape(-1, 5)[:, :4]
        chosen = [i for i, number in enumerate(tracks) if number]
        overlap = iou(objects[:, 1:], boxes[chosen])
        distances = np.where(overlap >= LEAST_IOU, 1 - overlap, np.nan)
        accumulator.update(objects[:, 0].astype(int).tolist(), [tracks[i] for i in chosen], distances)
    names = ["mota", "idf1", "num_switches"]
    row = motmetrics.metrics.create().compute(accumulator, metrics=names, name="case").iloc[0]
    return {name: float(row[name]) for name in names}


def main() -> int:
    """See the module."""
    cases = json.loads(Path(sys.argv[1]).read_text())
    results = []
    for case in cases:
        for name, ids in case["ids"].items():
            results.append({"case": case["name"], "tracker": name, **score(case, ids)})
        for name, run in RIVALS.items() if case["rivals"] else ():
            passes = []
            for _ in range(case["passes"]):
                begun = time.perf_counter()
                ids = run(case)
                passes.append((time.perf_counter() - begun) * 1e3 / len(ids))
            ms = min(passes)
            results.append({"case": case["name"], "tracker": name, "ms": ms, **score(case, ids)})
    Path(sys.argv[2]).write_text(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
