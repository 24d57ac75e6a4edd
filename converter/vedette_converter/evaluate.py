"""Float original against quantised network: COCO mAP on annotated pictures, agreement on any, large objects found.

Both run through the agent's own engine, preprocessing and decoder (`vedette_converter.detect`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedette.contract.manifest import Dataset, Evaluation, ImageInput, Metric, OutputSpec
from vedette.engine import Engine

from .agreement import Agreement, compare
from .coco import AnnotatedPictures, Evaluated, bootstrap, share_of_large
from .detect import Detector, detect_all
from .progress import Progress
from .recipe import Evaluate

LARGE_CLASSES: Final = ("person", "dog", "cat", "car")  # what people mount a camera for; those that the labels have


@dataclass(frozen=True, slots=True)
class Pair:
    """Two networks that ought to see the same, and how their tensors are read."""

    before: Engine
    after: Engine
    input: ImageInput
    output: OutputSpec
    labels: tuple[str, ...]

    def detectors(self, score_threshold: float) -> tuple[Detector, Detector]:
        """Both, decoded from this score on."""
        before, after = (
            Detector(engine, self.input, self.output, self.labels, score_threshold=score_threshold)
            for engine in (self.before, self.after)
        )
        return before, after


@dataclass(frozen=True, slots=True)
class Found:
    """How many annotated objects each network found, of how many."""

    before: int
    after: int
    total: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """COCO mAP over all annotated pictures, 0..1, with the 95 % interval of ``after - before`` over the pictures."""

    data: Dataset
    before: float
    after: float
    interval: tuple[float, float]
    large: Mapping[str, Found]
    """Annotated objects above 96 x 96 pixels found with confidence, by label."""

    @property
    def drop(self) -> float:
        """Float less quantised; below 0 where the quantised network is better."""
        return self.before - self.after


def measure_agreement(pair: Pair, pictures: Sequence[Path], options: Evaluate, progress: Progress) -> Agreement:
    """Over any pictures. Raises `PictureError` naming a file that cannot be read."""
    step = progress.begin("agreement", len(pictures))
    lowest = min(options.partner_score, options.confident)
    before, after = detect_all(pair.detectors(lowest), pictures, step)
    return compare(before, after, confident=options.confident, partner_score=options.partner_score, iou=options.iou)


def measure_accuracy(pair: Pair, truth: AnnotatedPictures, options: Evaluate, progress: Progress) -> Accuracy:
    """Over annotated pictures. Raises `PictureError` naming a file that cannot be read, `MissingPackageError`."""
    step = progress.begin("detections", len(truth.pictures))
    found = detect_all(pair.detectors(options.score_threshold), [p.path for p in truth.pictures], step)
    before, after = (Evaluated(truth, detections) for detections in found)
    interval = bootstrap(
        before, after, len(truth.pictures), resamples=options.resamples, seed=options.seed,
        on_resample=progress.begin("bootstrap", options.resamples),
    )  # fmt: skip
    large: dict[str, Found] = {}
    for label in LARGE_CLASSES:
        if label not in pair.labels:
            continue
        class_id = pair.labels.index(label)
        hits = [
            share_of_large(truth, detections, [class_id], score=options.confident, least_iou=options.iou)
            for detections in found
        ]
        large[label] = Found(hits[0][0], hits[1][0], hits[0][1])
    return Accuracy(truth.data, before.mean_average_precision(), after.mean_average_precision(), interval, large)


def as_manifest(
    accuracy: Accuracy | None, agreement: Agreement, agreement_data: Dataset, options: Evaluate
) -> list[Evaluation]:
    """What the bundle's manifest says of it."""
    evaluations = []
    if accuracy is not None:
        metrics = [
            Metric(
                name=f"COCO mAP 0.50:0.95, scores from {options.score_threshold:g} on", before=round(accuracy.before, 4),
                after=round(accuracy.after, 4),
                difference_interval=(round(accuracy.interval[0], 4), round(accuracy.interval[1], 4)),
            )
        ]  # fmt: skip
        for label, found in accuracy.large.items():
            if found.total:
                metrics.append(
                    Metric(
                        name=f"share of {found.total} large objects found (area above 96 x 96, score >= "
                        f"{options.confident:g}, IoU >= {options.iou:g}): {label}",
                        before=round(found.before / found.total, 4),
                        after=round(found.after / found.total, 4),
                    )
                )
        evaluations.append(Evaluation(data=accuracy.data, metrics=metrics))
    shares = [(options.partner_score, agreement.share), (options.confident, agreement.share_confident)]
    metrics = [
        Metric(
            name=f"share of the float network's {agreement.confident} detections (score >= {options.confident:g}) found "
            f"again (same label, IoU >= {options.iou:g}, score >= {score:g})",
            before=1.0,
            after=round(share, 4),
        )
        for score, share in dict(shares).items()
    ]
    return [*evaluations, Evaluation(data=agreement_data, metrics=metrics)]
