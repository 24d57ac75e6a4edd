"""A float network's sure detections as the truth for a smaller one: what can be measured where nobody labelled anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vedette.contract.manifest import Dataset
from vedette.contract.types import Detections, UInt8Array

from .coco import AnnotatedPicture, AnnotatedPictures, Evaluated, Object
from .subject import Detector

SURE: Final = 0.5  # teacher's score from which a detection is an object
LEAST_SCORE: Final = 0.01  # of the smaller network: average precision needs the whole curve


@dataclass(frozen=True, slots=True)
class Against:
    """How a network does against the reference's sure detections, by COCO's evaluation."""

    frames: int
    objects: int
    ap50: float
    """Average precision at IoU 0.5, mean over the classes that the reference sees at all; 0..1."""
    map: float
    """The same, mean over IoU 0.50:0.05:0.95."""


DEFINITION: Final = (
    f"COCO average precision, truth: the float network's detections with score >= {SURE:g} of the kept classes in frames "
    f"that were not learned from; all areas, 100 detections a frame, scores from {LEAST_SCORE:g} on"
)


def kept(found: Detections, class_ids: Sequence[int]) -> Detections:
    """The detections of some classes, which are numbered anew in this order."""
    new = np.full(1 + max([*class_ids, int(found.class_ids.max(initial=0))]), -1, np.int32)
    new[list(class_ids)] = np.arange(len(class_ids))
    chosen = found.take(new[found.class_ids] >= 0)
    return Detections(chosen.boxes, chosen.scores, new[chosen.class_ids])


def compare(
    reference: Detector, others: Sequence[Detector], frames: Iterable[UInt8Array], class_ids: Sequence[int],
    data: Dataset, on_frame: Callable[[], None] = lambda: None,
) -> list[Against]:  # fmt: skip
    """``reference``: decoded at `SURE` or below, with all its classes. ``others``: decoded at `LEAST_SCORE`, with the kept
    ones, in the order of ``class_ids``. Raises `MissingPackageError` without pycocotools."""
    pictures: list[AnnotatedPicture] = []
    found: list[list[Detections]] = [[] for _ in others]
    for pixels in frames:
        height, width = pixels.shape[:2]
        truth = kept(reference(pixels), class_ids)
        truth = truth.take(truth.scores >= SURE)
        pictures.append(AnnotatedPicture(Path(f"{len(pictures)}"), width, height, _objects(truth, width, height)))
        for number, other in enumerate(others):
            found[number].append(other(pixels))
        on_frame()
    total = sum(len(picture.objects) for picture in pictures)
    everything = AnnotatedPictures(tuple(pictures), tuple(range(len(class_ids))), data)
    results = []
    for one in found:
        evaluated = Evaluated(everything, one)
        overall = evaluated.mean_average_precision()
        results.append(Against(len(pictures), total, evaluated.average_precision(0.5), overall))
    return results


def _objects(truth: Detections, width: int, height: int) -> tuple[Object, ...]:
    objects = []
    for box, class_id in zip(truth.boxes, truth.class_ids, strict=True):
        x, y, x_max, y_max = (float(v) for v in np.clip(box, 0, 1) * (width, height, width, height))
        w, h = x_max - x, y_max - y
        if w > 0 and h > 0:
            objects.append(Object(int(class_id), (x, y, w, h), w * h, False))
    return tuple(objects)
