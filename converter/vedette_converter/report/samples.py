"""Pictures with what either network sees in them: some where they agree, and those where they differ most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from vedette.contract.errors import FaultError
from vedette.contract.types import Classes, Detections, UInt8Array
from vedette.contract.verdict import match

from ..evaluate import Pair
from ..pictures import draw, read_picture
from ..progress import Progress, Silent
from ..recipe import Evaluate
from ..subject import look

CANDIDATES: Final = 96  # pictures that are looked at, at most: a few seconds
SIDE: Final = 420  # pixels of a picture's longer side on the page
SMALL: Final = 128  # pixels: pictures up to here are kept without loss
QUALITY: Final = 82  # of JPEG
TOP: Final = 3  # classes that are told of a picture

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """One result of one network."""

    label: str
    score: float
    box: Box | None
    """x_min, y_min, x_max, y_max as fractions of the picture; None for a class."""
    alone: bool
    """The other network does not see it."""
    told: str = ""
    """What is shown in the place of the score."""


@dataclass(frozen=True, slots=True)
class SamplePicture:
    """One picture, encoded small, and what both networks see in it."""

    name: str
    media: str
    """``image/jpeg`` or ``image/png``."""
    encoded: bytes
    width: int
    """Of the encoded picture, pixels."""
    height: int
    before: tuple[Seen, ...]
    after: tuple[Seen, ...]

    @property
    def differing(self) -> int:
        """Results that one network has and the other has not; for classifiers 1 where the best class is another."""
        alone = sum(seen.alone for seen in (*self.before, *self.after))
        return alone if any(seen.box for seen in (*self.before, *self.after)) else min(1, alone)


@dataclass(frozen=True, slots=True)
class Look:
    """Pictures chosen of those that were looked at."""

    pictures: tuple[SamplePicture, ...]
    """Agreeing ones first, then those that differ, the worst last."""
    looked_at: int
    agreeing: int
    """Of those: in how many both networks see the same."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: Path
    before: tuple[Seen, ...]
    after: tuple[Seen, ...]
    differing: int
    gap: float
    """How much the scores differ: of two equally different pictures the one with more is the worse."""


def sample_pictures(
    pair: Pair, pictures: Sequence[Path], count: int, options: Evaluate, progress: Progress | None = None
) -> Look:
    """``count`` of them, or all where there are fewer; half where the networks differ most, as far as there are such.

    What counts as the same result is what ``options`` say, as for the agreement. Raises `PictureError` naming a file
    that cannot be read, `FaultError` for results that are neither boxes nor classes.
    """
    chosen = draw(list(pictures), CANDIDATES, options.seed)
    step = (progress or Silent()).begin("samples", len(chosen))
    compared = _classes if pair.classifies else _boxes
    candidates = compared(pair, chosen, options, step)
    same = [candidate for candidate in candidates if not candidate.differing]
    other = sorted((c for c in candidates if c.differing), key=lambda c: (-c.differing, -c.gap, c.path.name))
    worst = other[: max(count // 2, count - len(same))]
    best = _varied(same, count - len(worst))
    taken = [*best, *reversed(worst)]
    return Look(tuple(_encode(candidate) for candidate in taken), len(candidates), len(same))


def _varied(candidates: Sequence[_Candidate], count: int) -> list[_Candidate]:
    """Pictures that show most: labels that no other one shows yet, then some results, but few enough to be told apart."""
    # an empty street agrees with itself, and shows nothing
    left = sorted(candidates, key=lambda c: (-min(len(c.before), 4), len(c.before), c.path.name))
    chosen: list[_Candidate] = []
    shown: set[str] = set()
    while left and len(chosen) < count:
        one = max(left, key=lambda c: len(_labels(c) - shown))  # the first of equals
        left.remove(one)
        chosen.append(one)
        shown |= _labels(one)
    return chosen


def _labels(candidate: _Candidate) -> set[str]:
    """Of a picture's boxes, or its best class."""
    return {seen.label for place, seen in enumerate(candidate.before) if seen.box or place == 0}


def _boxes(pair: Pair, pictures: Sequence[Path], options: Evaluate, step: Callable[[], None]) -> list[_Candidate]:
    lowest = min(options.partner_score, options.confident)
    found = look(pair.detectors(lowest), pictures, step)
    candidates = []
    for path, before, after in zip(pictures, *found, strict=True):
        first, second = _shown(before, after, options), _shown(after, before, options)
        partners = match(before.take(before.scores >= options.confident), after, min_iou=options.iou)
        gap = sum(
            abs(float(before.scores[i]) - float(after.scores[j])) for i, j in enumerate(partners) if j >= 0
        )  # fmt: skip
        both = [_detected(pair, kept, alone) for kept, alone in (first, second)]
        differing = sum(seen.alone for side in both for seen in side)
        candidates.append(_Candidate(path, both[0], both[1], differing, gap))
    return candidates


def _shown(own: Detections, other: Detections, options: Evaluate) -> tuple[Detections, list[bool]]:
    """What is drawn of one network's results, and which of them the other has not: the confident ones, and those less
    confident that are partners of the other's confident ones."""
    sure = own.scores >= options.confident
    partners = match(other.take(other.scores >= options.confident), own, min_iou=options.iou)
    wanted = sure.copy()
    wanted[[position for position in partners if position >= 0]] = True
    kept = own.take(wanted)
    back = match(kept, other, min_iou=options.iou)
    return kept, [position < 0 for position in back]


def _detected(pair: Pair, kept: Detections, alone: Sequence[bool]) -> tuple[Seen, ...]:
    return tuple(
        Seen(pair.labels[class_id], float(score), (float(box[0]), float(box[1]), float(box[2]), float(box[3])), lonely)
        for box, score, class_id, lonely in zip(kept.boxes, kept.scores, kept.class_ids, alone, strict=True)
    )


def _classes(pair: Pair, pictures: Sequence[Path], options: Evaluate, step: Callable[[], None]) -> list[_Candidate]:
    found = look(pair.classifiers(), pictures, step)
    candidates = []
    for path, before, after in zip(pictures, *found, strict=True):
        if not len(before) or not len(after):
            raise FaultError("a classifier named no class", where=path)
        differs = bool(before.class_ids[0] != after.class_ids[0])
        gap = float(before.scores[0]) if differs else abs(float(before.scores[0]) - float(after.scores[0]))
        first, second = (_named(pair, classes, differs) for classes in (before, after))
        candidates.append(_Candidate(path, first, second, int(differs), gap))
    return candidates


def _named(pair: Pair, classes: Classes, differs: bool) -> tuple[Seen, ...]:
    best = list(zip(classes.class_ids, classes.scores, strict=True))[:TOP]
    return tuple(
        Seen(pair.labels[class_id], float(score), None, differs and place == 0)
        for place, (class_id, score) in enumerate(best)
    )


def _encode(candidate: _Candidate) -> SamplePicture:
    pixels = _reduced(read_picture(candidate.path))
    height, width = pixels.shape[:2]
    small = max(width, height) <= SMALL
    suffix, parameters = (".png", []) if small else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    fits, data = cv2.imencode(suffix, pixels, parameters)
    if not fits:
        raise FaultError("a picture cannot be encoded", where=candidate.path)
    media = "image/png" if small else "image/jpeg"
    return SamplePicture(
        candidate.path.name, media, data.tobytes(), width, height, candidate.before, candidate.after
    )  # fmt: skip


def _reduced(pixels: UInt8Array) -> UInt8Array:
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
