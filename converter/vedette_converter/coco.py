"""COCO's own evaluation (pycocotools) of one or two networks over annotated pictures, with a paired bootstrap.

mAP is COCO's: mean over categories, IoU 0.50:0.05:0.95, all areas, 100 detections a picture.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vedette.contract.boxes import iou
from vedette.contract.errors import MissingPackageError, UserError
from vedette.contract.labels import is_used
from vedette.contract.manifest import Dataset
from vedette.contract.types import Detections, Float32Array

from .pictures import dataset, read_picture

LARGE: Final = 96 * 96  # square pixels of a segment: COCO's "large" begins here
OTHER_SHAPE: Final = 0.02  # of the ratio of the sides: more than rounding a smaller size makes of them


@dataclass(frozen=True, slots=True)
class Object:
    """One annotated object of a picture. ``box``: x, y, width, height in pixels; ``area``: of its segment, pixels."""

    class_id: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool


@dataclass(frozen=True, slots=True)
class AnnotatedPicture:
    """``width`` and ``height`` in pixels, as the annotations say them."""

    path: Path
    width: int
    height: int
    objects: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class AnnotatedPictures:
    """Pictures of one or several folders, whose categories were mapped to labels by name."""

    pictures: tuple[AnnotatedPicture, ...]
    class_ids: tuple[int, ...]
    """Every class that the annotations know, whether there is an object of it or not."""
    data: Dataset
    unlabelled: Mapping[str, int] = field(default_factory=dict)
    """How many objects were left out of each category that is no label, most first."""


def read_annotated(folders: Sequence[Path], labels: Sequence[str]) -> AnnotatedPictures:
    """Folders with ``instances.json`` (COCO's format) and ``images/`` or the pictures beside it.

    Raises `UserError` naming file and entry where something is missing or no category or object has a label's name, and
    `PictureError`.
    """
    by_name = {label: number for number, label in enumerate(labels) if is_used(label)}
    pictures: list[AnnotatedPicture] = []
    known: set[int] = set()
    unlabelled: Counter[str] = Counter()
    for folder in folders:
        file = folder / "instances.json"
        try:
            document = json.loads(file.read_bytes())
        except OSError as error:
            raise UserError(
                "annotations cannot be read", where=file, found=error.strerror or str(error),
                fix="--evaluate takes a folder with instances.json (COCO format) and images/",
            ) from None  # fmt: skip
        except ValueError as error:
            raise UserError("annotations are no JSON", where=file, found=str(error)) from None
        found = _Tables(document, file)
        categories = {c["id"]: str(c["name"]) for c in found.entries("categories", "id", "name")}
        named = {by_name[name] for name in categories.values() if name in by_name}
        if not named:
            raise UserError("no category has the name of a label", where=file, expected=", ".join(list(by_name)[:5]),
                            found=", ".join(list(categories.values())[:5]))  # fmt: skip
        images = found.entries("images", "id", "file_name", "width", "height")
        objects: dict[Any, list[Object]] = {image["id"]: [] for image in images}
        if len(objects) < len(images):
            raise UserError("two images have one id", where=file, expected=f"{len(images)} ids", found=len(objects))
        for number, a in enumerate(found.entries("annotations", "image_id", "category_id", "bbox")):
            where = f"{file}: annotations[{number}]"
            for key, others in (("category_id", categories), ("image_id", objects)):
                if a[key] not in others:
                    raise UserError(f"{key} is of no entry", where=where, found=repr(a[key]))
            name = categories[a["category_id"]]
            if name in by_name:
                objects[a["image_id"]].append(_object(a, by_name[name], where))
            else:
                unlabelled[name] += 1
        root = folder / "images" if (folder / "images").is_dir() else folder
        for image in images:
            path = root / str(image["file_name"])
            if not path.is_file():
                raise UserError("picture missing", where=path, fix=f"{file} names it")
            pictures.append(_picture(path, image, tuple(objects[image["id"]]), file))
        known.update(named)
    if not any(not item.crowd for picture in pictures for item in picture.objects):
        raise UserError(
            "no annotated object of any label", where=", ".join(str(folder) for folder in folders),
            expected="objects to be found, crowds apart", found=f"{len(pictures)} pictures without one",
        )  # fmt: skip
    name = " + ".join(folder.name for folder in folders)
    data = dataset(name, [p.path for p in pictures])
    return AnnotatedPictures(tuple(pictures), tuple(sorted(known)), data, dict(unlabelled.most_common()))


@dataclass(frozen=True, slots=True)
class _Tables:
    """The lists of a COCO document."""

    document: Any
    file: Path

    def entries(self, name: str, *keys: str) -> list[dict[str, Any]]:
        """Of one list, each with these keys at least."""
        listed = self.document.get(name) if isinstance(self.document, dict) else None
        if not isinstance(listed, list):
            raise UserError("annotations are not in COCO's format", where=self.file, expected=f"a list {name!r}")
        for number, entry in enumerate(listed):
            for key in keys:
                value = entry.get(key) if isinstance(entry, dict) else None
                if value is None or (isinstance(value, list | dict) and key != "bbox"):
                    raise UserError(
                        "annotations are not in COCO's format", where=f"{self.file}: {name}[{number}]",
                        expected=f"a value for {key!r}", found="none" if value is None else repr(value)[:80],
                    )  # fmt: skip
        return listed


def _object(entry: Mapping[str, Any], class_id: int, where: str) -> Object:
    try:
        x, y, w, h = (float(v) for v in entry["bbox"])
        area = float(w * h if entry.get("area") is None else entry["area"])
    except (TypeError, ValueError):
        x = y = w = h = area = float("nan")
    if not (np.isfinite([x, y, area]).all() and 0 <= w < np.inf and 0 <= h < np.inf):
        raise UserError(
            "no box", where=where, expected="bbox of x, y, width and height in pixels, the last two not below 0",
            found=repr(entry["bbox"])[:80],
        )  # fmt: skip
    return Object(class_id, (x, y, w, h), area, bool(entry.get("iscrowd", 0)))


def _picture(path: Path, entry: Mapping[str, Any], objects: tuple[Object, ...], file: Path) -> AnnotatedPicture:
    try:
        width, height = int(entry["width"]), int(entry["height"])
    except (TypeError, ValueError):
        width = height = 0
    high, wide = read_picture(path).shape[:2]
    # boxes are compared as fractions, so another size does no harm, and another shape does
    if min(width, height) < 1 or abs(width * high / (wide * height) - 1) > OTHER_SHAPE:
        raise UserError(
            "not the picture that was annotated", where=path, expected=f"{entry['width']} x {entry['height']} by {file}",
            found=f"{wide} x {high}, as its Exif turns it",
        )  # fmt: skip
    return AnnotatedPicture(path, width, height, objects)


class Evaluated:
    """One network's detections matched with the annotations once; mAP over any choice of the pictures after that."""

    def __init__(self, truth: AnnotatedPictures, found: Sequence[Detections]) -> None:
        """``found``: picture by picture, boxes as fractions of the picture. Raises `MissingPackageError`."""
        try:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        except ImportError as error:
            raise MissingPackageError(
                "pycocotools is needed to evaluate", found=str(error), fix="pip install 'vedette[converter]'"
            ) from None
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            reference = COCO()
            reference.dataset = _truth_document(truth)
            reference.createIndex()
            results = _result_document(truth, found)
            candidates = reference.loadRes(results) if results else _no_results(COCO, reference)
            evaluation = COCOeval(reference, candidates, "bbox")
            evaluation.params.areaRng = [[0, 1e10]]
            evaluation.params.areaRngLbl = ["all"]
            evaluation.params.maxDets = [100]
            evaluation.evaluate()
        self._evaluation: Any = evaluation
        categories, pictures = len(evaluation.params.catIds), len(evaluation.params.imgIds)
        matched = np.empty(len(evaluation.evalImgs), object)
        matched[:] = evaluation.evalImgs
        self._matched = matched.reshape(categories, 1, pictures)

    def mean_average_precision(self, choice: NDArray[np.intp] | None = None) -> float:
        """mAP over the pictures at these positions, repetitions counted; over all of them without a choice. 0..1."""
        evaluation = self._evaluation
        matched = self._matched if choice is None else self._matched[:, :, choice]
        evaluation.evalImgs = list(matched.reshape(-1))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        precision = evaluation.eval["precision"]  # (IoU, recall, category, area, limit); -1 where there is no object
        present = precision[precision > -1]
        return float(present.mean()) if present.size else 0.0

    def average_precision(self, iou: float) -> float:
        """At one of COCO's IoU thresholds (0.5, 0.55 ... 0.95), mean over categories, over all pictures. 0..1."""
        self.mean_average_precision()
        (at,) = np.flatnonzero(np.isclose(self._evaluation.params.iouThrs, iou))
        precision = self._evaluation.eval["precision"][at]
        present = precision[precision > -1]
        return float(present.mean()) if present.size else 0.0


def bootstrap(
    before: Evaluated,
    after: Evaluated,
    pictures: int,
    *,
    resamples: int,
    seed: int,
    on_resample: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """95 % interval of mAP after less mAP before: percentiles over resamples of the pictures, the same for both.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(resamples):
        choice = rng.integers(0, pictures, pictures, np.intp)
        differences.append(after.mean_average_precision(choice) - before.mean_average_precision(choice))
        on_resample()
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def share_of_large(
    truth: AnnotatedPictures, found: Sequence[Detections], class_ids: Sequence[int], *, score: float, least_iou: float
) -> tuple[int, int]:
    """How many large objects of these classes were found, and how many there are; crowds left out.

    Found: a detection of the class with at least this score overlaps it by at least ``least_iou``.
    """
    hits = total = 0
    for picture, detections in zip(truth.pictures, found, strict=True):
        for item in picture.objects:
            if item.crowd or item.area <= LARGE or item.class_id not in class_ids:
                continue
            total += 1
            chosen = detections.take((detections.class_ids == item.class_id) & (detections.scores >= score))
            x, y, w, h = item.box
            corners = np.array([[x, y, x + w, y + h]], np.float32)
            hits += bool(len(chosen)) and bool((iou(corners, _pixels(chosen, picture)) >= least_iou).any())
    return hits, total


def _pixels(detections: Detections, picture: AnnotatedPicture) -> Float32Array:
    size = np.array([picture.width, picture.height, picture.width, picture.height], np.float32)
    return np.asarray(detections.boxes * size, np.float32)


def _truth_document(truth: AnnotatedPictures) -> Mapping[str, Any]:
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(truth.pictures):
        for item in picture.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,  # from 1: pycocotools takes id 0 for "unmatched"
                    "image_id": number,
                    "category_id": item.class_id,
                    "bbox": list(item.box),
                    "area": item.area,
                    "iscrowd": int(item.crowd),
                }
            )
    return {
        "info": {},
        "images": [{"id": n, "width": p.width, "height": p.height} for n, p in enumerate(truth.pictures)],
        "categories": [{"id": class_id, "name": str(class_id)} for class_id in truth.class_ids],
        "annotations": annotations,
    }


def _result_document(truth: AnnotatedPictures, found: Sequence[Detections]) -> list[dict[str, Any]]:
    known = set(truth.class_ids)
    results = []
    for number, (picture, detections) in enumerate(zip(truth.pictures, found, strict=True)):
        for box, score, class_id in zip(
            _pixels(detections, picture), detections.scores, detections.class_ids, strict=True
        ):
            if int(class_id) in known:
                x, y, x_max, y_max = (float(v) for v in box)
                results.append(
                    {
                        "image_id": number,
                        "category_id": int(class_id),
                        "bbox": [x, y, x_max - x, y_max - y],
                        "score": float(score),
                    }
                )
    return results


def _no_results(kind: Any, reference: Any) -> Any:
    empty = kind()
    empty.dataset = {**reference.dataset, "annotations": []}
    empty.createIndex()
    return empty
