"""Float original against another network: COCO mAP or top-1 on annotated pictures, agreement on any, large objects found.

Both run through the agent's own engine, preprocessing and decoder (`vedette_converter.subject`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from vedette.contract.manifest import ClassifyOutput, Dataset, Evaluation, ImageInput, Metric, OutputSpec
from vedette.contract.types import Classes
from vedette.engine import Engine

from . import chance
from .agreement import Agreement, compare, compare_classes
from .coco import AnnotatedPictures, Evaluated, bootstrap, share_of_large
from .progress import Progress
from .recipe import Evaluate
from .subject import Classifier, Detector, Subject, look
from .train.data import Labelled

LARGE_CLASSES: Final = ("person", "dog", "cat", "car")  # what people mount a camera for; those that the labels have


Kind = TypeVar("Kind", bound=Subject)
Truth: TypeAlias = AnnotatedPictures | Labelled


@dataclass(frozen=True, slots=True)
class Pair:
    """Two networks that ought to see the same, and how their tensors are read."""

    before: Engine
    after: Engine
    input: ImageInput
    output: OutputSpec
    labels: tuple[str, ...]

    @property
    def classifies(self) -> bool:
        """Whether their results are classes, not boxes."""
        return isinstance(self.output, ClassifyOutput)

    def subjects(self, score_threshold: float) -> tuple[Subject, Subject]:
        """Both, decoded from this score on."""
        return self._both(Subject, score_threshold)

    def detectors(self, score_threshold: float) -> tuple[Detector, Detector]:
        """The same for networks that find boxes."""
        return self._both(Detector, score_threshold)

    def classifiers(self) -> tuple[Classifier, Classifier]:
        """The same for networks that name classes, whatever their score."""
        return self._both(Classifier, 0.0)

    def _both(self, kind: type[Kind], score_threshold: float) -> tuple[Kind, Kind]:
        before, after = (
            kind(engine, self.input, self.output, self.labels, score_threshold=score_threshold)
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
class Figure:
    """One more figure of both networks. ``interval``: 95 %, of ``after - before``."""

    name: str
    before: float
    after: float
    interval: tuple[float, float] | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A figure over all annotated pictures, 0..1, with the 95 % interval of ``after - before`` over the pictures.

    Over windows of recordings likewise, the interval over the recordings; None where a label has one alone.
    """

    metric: str
    """``mAP`` (COCO's, 0.50:0.95) or ``top-1``; of windows ``top-1``, ``AUC`` or ``R2``."""
    data: Dataset
    before: float
    after: float
    interval: tuple[float, float] | None
    large: Mapping[str, Found]
    """Annotated objects above 96 x 96 pixels found with confidence, by label."""
    more: tuple[Figure, ...] = ()
    """What else was measured on the same data."""
    doubts: tuple[str, ...] = ()
    """Why the figures may mean nothing: see `vedette_converter.chance`."""
    blind: float | None = None
    """The probability of the float network's figure without looking, where that can be told."""
    ask: str = chance.ASK
    """What to look at where it is too large."""
    told: float | None = None
    """Of anomalies, the later network's: share of the anomalous windows above the threshold less that of the normal ones."""
    tellable: float = 0.0
    """The same at the best threshold that there would have been."""

    @property
    def drop(self) -> float:
        """Before less after; below 0 where the later network is better."""
        return round(self.before - self.after, 9)  # 0.8485 - 0.8455 shall be 0.003, not a hair above


def measure_agreement(pair: Pair, pictures: Sequence[Path], options: Evaluate, progress: Progress) -> Agreement:
    """Over any pictures. Raises `PictureError` naming a file that cannot be read."""
    step = progress.begin("agreement", len(pictures))
    if pair.classifies:
        first, second = look(pair.classifiers(), pictures, step)
        agreement = compare_classes(first, second, confident=options.confident, partner_score=options.partner_score)
        return replace(agreement, doubts=tuple(chance.doubts_unlabelled(_answers(first), pair.labels)))
    lowest = min(options.partner_score, options.confident)
    before, after = look(pair.detectors(lowest), pictures, step)
    return compare(before, after, confident=options.confident, partner_score=options.partner_score, iou=options.iou)


def measure_accuracy(pair: Pair, truth: Truth, options: Evaluate, progress: Progress) -> Accuracy:
    """Over annotated pictures. Raises `PictureError` naming a file that cannot be read, `MissingPackageError`."""
    if isinstance(truth, Labelled):
        return _top_1(pair, truth, options, progress)
    step = progress.begin("detections", len(truth.pictures))
    found = look(pair.detectors(options.score_threshold), [p.path for p in truth.pictures], step)
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
    first, second = before.mean_average_precision(), after.mean_average_precision()
    blind = first == 0
    said = f"the float network finds nothing that is annotated in {len(truth.pictures)} pictures: {chance.ASK}"
    return Accuracy(
        "mAP", truth.data, first, second, interval, large, doubts=(said,) if blind else (), blind=1.0 if blind else None
    )


def _top_1(pair: Pair, truth: Labelled, options: Evaluate, progress: Progress) -> Accuracy:
    found = look(pair.classifiers(), truth.files, progress.begin("classes", len(truth.files)))
    answers = [_answers(each) for each in found]
    before, after = (each == truth.class_ids for each in answers)
    rng = np.random.default_rng(options.seed)
    difference = after.astype(np.float64) - before
    means = [difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(options.resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Accuracy(
        "top-1", truth.data, float(before.mean()), float(after.mean()), (float(low), float(high)), {},
        doubts=tuple(chance.doubts(answers[0], truth.class_ids, pair.labels)),
        blind=chance.blind(answers[0], truth.class_ids, pair.labels),
    )  # fmt: skip


def _answers(found: Sequence[Classes]) -> NDArray[np.int64]:
    """(n,): the best class of each, -1 where there is none."""
    return np.array([int(seen.class_ids[0]) if len(seen) else -1 for seen in found], np.int64)


def as_manifest(
    accuracy: Accuracy | None, agreement: Agreement, agreement_data: Dataset, options: Evaluate, *, classifies: bool
) -> list[Evaluation]:
    """What the bundle's manifest says of it."""
    evaluations = []
    if accuracy is not None:
        metrics = [
            Metric(
                name="top-1 accuracy" if accuracy.metric == "top-1"
                else f"COCO mAP 0.50:0.95, scores from {options.score_threshold:g} on", before=round(accuracy.before, 4),
                after=round(accuracy.after, 4),
                difference_interval=rounded(accuracy.interval),
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
            name=agreement_name(agreement, options, score, classifies=classifies),
            before=1.0,
            after=round(share, 4),
        )
        for score, share in dict(shares).items()
    ]
    return [*evaluations, Evaluation(data=agreement_data, metrics=metrics)]


def rounded(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """As a manifest has it."""
    return None if interval is None else (round(interval[0], 4), round(interval[1], 4))


def agreement_name(agreement: Agreement, options: Evaluate, score: float, *, classifies: bool) -> str:
    """What the share is a share of."""
    if classifies:
        return (
            f"share of the {agreement.confident} pictures of whose class the float network is sure (score >= "
            f"{options.confident:g}) that keep it (score >= {score:g})"
        )
    return (
        f"share of the float network's {agreement.confident} detections (score >= {options.confident:g}) found "
        f"again (same label, IoU >= {options.iou:g}, score >= {score:g})"
    )
