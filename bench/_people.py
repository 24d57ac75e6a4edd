"""Annotated people as a detector would find them: TUD-Campus and TUD-Stadtmitte (Andriluka, Roth and Schiele, CVPR 2010).

Their annotations come inside the package `motmetrics`. A detector's faults are made up, by a seed: boxes that tremble,
people it misses or is unsure of, and things that are no people.
"""

from __future__ import annotations

import collections
import csv
from pathlib import Path

import numpy as np

from vedette.contract.types import Detections
from vedette.follow.track import Tracker, TrackOptions

WIDTH, HEIGHT, FPS = 640, 480, 25.0
SEQUENCES = ("TUD-Campus", "TUD-Stadtmitte")

JITTER = 0.035  # standard deviation of each side's place, in box sizes
MISSED, UNSURE = 0.10, 0.15  # share of people; unsure ones score 0.2 to 0.5, the others 0.5 to 1
FALSE = 0.3  # things that are no people, a frame; they score 0.2 to 0.75

Boxes = list[list[list[float]]]


def read_truth(folder: Path) -> Boxes:
    """For each frame: id, x_min, y_min, x_max, y_max in pixels, of each person."""
    frames: dict[int, list[list[float]]] = collections.defaultdict(list)
    with (folder / "gt.txt").open() as file:
        for row in csv.reader(file):
            x, y, w, h = (float(value) for value in row[2:6])
            frames[int(float(row[0]))].append([float(row[1]), x, y, x + w, y + h])
    return [frames[number] for number in range(min(frames), max(frames) + 1)]


def detect(truth: Boxes, seed: int) -> Boxes:
    """For each frame: x_min, y_min, x_max, y_max, score of what a detector finds, best score first."""
    rng = np.random.default_rng(seed)
    found: Boxes = []
    for frame in truth:
        rows = []
        for _, *corners in frame:
            box = np.array(corners)
            size = np.tile(box[2:] - box[:2], 2)
            trembling = box + rng.normal(0.0, JITTER, 4) * size
            luck = rng.random()
            if luck < MISSED:
                continue
            score = rng.uniform(0.2, 0.5) if luck < MISSED + UNSURE else rng.uniform(0.5, 1.0)
            rows.append([*np.clip(trembling, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]).tolist(), score])
        for _ in range(rng.poisson(FALSE)):
            height = rng.uniform(60, 250)
            width = 0.4 * height
            x, y = rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height)
            rows.append([x, y, x + width, y + height, rng.uniform(0.2, 0.75)])
        rows = [row for row in rows if row[2] > row[0] + 1 and row[3] > row[1] + 1]
        found.append(sorted(rows, key=lambda row: -row[4]))
    return found


def follow(
    found: Boxes, fps: float, threshold: float, keep_s: float, size: tuple[float, float] = (WIDTH, HEIGHT)
) -> list[list[int]]:
    """Our track of each detection, 0 for none. ``size``: width and height of the picture."""
    tracker = Tracker(TrackOptions(keep_s=keep_s), threshold)
    scale = np.array([*size, *size], np.float32)
    ids = []
    for number, frame in enumerate(found, start=1):
        rows = np.array(frame, np.float32).reshape(-1, 5)
        detections = Detections(rows[:, :4] / scale, rows[:, 4], np.zeros(len(rows), np.int32))
        ids.append(tracker.update(detections, int(number * 1e9 / fps)).ids.tolist())
    return ids


def crowd(objects: int, frames: int, seed: int = 0) -> Boxes:
    """As `detect`, of so many people who walk about and turn back at the edges; none is missed."""
    rng = np.random.default_rng(seed)
    place, step = rng.uniform(0.1, 0.9, (objects, 2)), rng.normal(0, 0.05 / FPS, (objects, 2))
    size = rng.uniform(0.05, 0.15, (objects, 2))
    found: Boxes = []
    for number in range(frames):
        centre = 1 - np.abs((place + step * number) % 2 - 1) + rng.normal(0, 0.002, (objects, 2))
        corners = np.concatenate((centre - size / 2, centre + size / 2), axis=1) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
        rows = np.concatenate((corners, rng.uniform(0.4, 1.0, (objects, 1))), axis=1)
        found.append(rows[np.argsort(-rows[:, 4])].tolist())
    return found
