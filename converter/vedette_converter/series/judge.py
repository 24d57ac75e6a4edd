"""Float network against another over windows: how often both are right, and how often they say the same.

Intervals are of a paired bootstrap over the recordings: windows of one recording are no independent witnesses. Where a label
has a single recording there is none: nobody knows how another would differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vedette.contract.errors import FaultError
from vedette.contract.manifest import AnomalyOutput, ClassifyOutput, Dataset, RegressOutput
from vedette.contract.types import Anomaly, Classes, Result, Values
from vedette.contract.verdict import NEAR

from ..agreement import Agreement, compare_classes
from ..evaluate import Accuracy, Figure
from ..progress import Progress
from ..recipe import Evaluate
from ..subject import Subject
from . import chance
from .windows import Windows

Numbers: TypeAlias = NDArray[np.float64]
Score = Callable[[NDArray[np.intp]], float]
"""A figure over some of the windows."""


def auc(scores: Numbers, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, a tie counting half.

    By ranks, equal scores sharing the mean of theirs (Mann and Whitney, 1947; Hanley and McNeil, Radiology 143, 1982).
    NaN where there are no positives or no negatives.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[place]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def f1(found: NDArray[np.bool_], positive: NDArray[np.bool_]) -> float:
    """``2 TP / (2 TP + FP + FN)``; 0 where nothing is positive and nothing found."""
    both = int((found & positive).sum())
    total = int(found.sum()) + int(positive.sum())
    return 2 * both / total if total else 0.0


def told(scores: Numbers, positive: NDArray[np.bool_], threshold: float) -> float:
    """Share of the positives above the threshold less that of the negatives, -1..1 (Youden, Cancer 3, 1950: his J): what an
    alarm is worth, however rare positives are. 0 where all alarms are noise, or none ever comes."""
    above = scores > threshold
    return round(float(above[positive].mean() - above[~positive].mean()), 9)


def tellable(scores: Numbers, positive: NDArray[np.bool_]) -> float:
    """The same at the threshold that is best for these very scores: Kolmogorov's and Smirnov's one-sided statistic."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(scores[positive], scores[~positive], alternative="less", method="asymp").statistic)


def macro_f1(found: NDArray[np.int32], truth: NDArray[np.int32]) -> float:
    """Mean of the F1 of every class that occurs in ``truth``."""
    return float(np.mean([f1(found == number, truth == number) for number in np.unique(truth)]))


def r2(found: Numbers, truth: Numbers) -> float:
    """Coefficient of determination, (n, quantities) each; the mean over the quantities, no lower than 0."""
    spread = np.square(truth - truth.mean(axis=0)).sum(axis=0)
    error = np.square(truth - found).sum(axis=0)
    return float(np.maximum(0.0, 1.0 - error / np.maximum(spread, 1e-30)).mean())


def look(
    subjects: Sequence[Subject], windows: Windows, on_window: Callable[[], None] = lambda: None
) -> list[list[Result]]:
    """For each subject, what it makes of window after window."""
    found: list[list[Result]] = [[] for _ in subjects]
    for values in windows.values:
        for number, subject in enumerate(subjects):
            found[number].append(subject(values))
        on_window()
    return found


def scores_of(results: Sequence[Result]) -> Numbers:
    """(n,) anomaly scores. Raises `FaultError` where there are none."""
    if not all(isinstance(result, Anomaly) for result in results):
        raise FaultError("the recipe's decoder gives no anomaly scores", found=type(results[0]).__name__)
    return np.array([result.score for result in results if isinstance(result, Anomaly)], np.float64)


def values_of(results: Sequence[Result]) -> Numbers:
    """(n, quantities). Raises `FaultError` where there are none."""
    if not all(isinstance(result, Values) for result in results):
        raise FaultError("the recipe's decoder gives no values", found=type(results[0]).__name__)
    return np.array([result.values for result in results if isinstance(result, Values)], np.float64)


def classes_of(results: Sequence[Result]) -> list[Classes]:
    """The classes of each. Raises `FaultError` where there are none."""
    found = [result for result in results if isinstance(result, Classes)]
    if len(found) != len(results):
        raise FaultError("the recipe's decoder names no classes", found=type(results[0]).__name__)
    return found


@dataclass(frozen=True, slots=True)
class Judge:
    """Two networks that ought to see the same in windows."""

    before: Subject
    after: Subject
    output: ClassifyOutput | AnomalyOutput | RegressOutput
    options: Evaluate

    def agreement(self, windows: Windows, progress: Progress) -> Agreement:
        """Over any windows: best classes kept, verdicts kept, or values near one another."""
        first, second = look((self.before, self.after), windows, progress.begin("agreement", len(windows)))
        options = self.options
        if isinstance(self.output, ClassifyOutput):
            return compare_classes(
                classes_of(first), classes_of(second), confident=options.confident, partner_score=options.partner_score
            )
        if isinstance(self.output, AnomalyOutput):
            limit = self.output.threshold
            before, after = scores_of(first), scores_of(second)
            clear = np.abs(before - limit) > NEAR * limit
            same = int(((before > limit) == (after > limit))[clear].sum())
            return Agreement(len(windows), int(clear.sum()), same, same)
        before, after = values_of(first), values_of(second)
        reach = options.near * np.maximum(np.ptp(before, axis=0), 1e-30)
        near = int((np.abs(before - after) <= reach).all(axis=1).sum())
        return Agreement(len(windows), len(windows), near, near)

    def accuracy(self, windows: Windows, data: Dataset, progress: Progress) -> Accuracy:
        """Over windows with labels or targets."""
        first, second = look((self.before, self.after), windows, progress.begin("accuracy", len(windows)))
        truth = windows.class_ids
        if isinstance(self.output, ClassifyOutput):
            best = [
                np.array([seen.class_ids[0] if len(seen) else -1 for seen in classes_of(results)], np.int32)
                for results in (first, second)
            ]
            return self._judged(
                "top-1", windows, data, progress, [
                    ("top-1", "", [lambda i, b=b: float((b[i] == truth[i]).mean()) for b in best]),
                    ("macro F1", "", [lambda i, b=b: macro_f1(b[i], truth[i]) for b in best]),
                ], chance.blind_classes(best[0], truth, windows.recording),
            )  # fmt: skip
        if isinstance(self.output, AnomalyOutput):
            limit = self.output.threshold
            odd = truth == 1
            scores = [scores_of(results) for results in (first, second)]
            accuracy = self._judged(
                "AUC", windows, data, progress, [
                    ("AUC", "", [lambda i, s=s: auc(s[i], odd[i]) for s in scores]),
                    (f"F1 at the threshold {limit:.4g}", "", [lambda i, s=s: f1(s[i] > limit, odd[i]) for s in scores]),
                    ("share of anomalous windows above the threshold", "",
                     [lambda i, s=s: float((s[i] > limit)[odd[i]].mean()) for s in scores]),
                    ("share of normal windows above the threshold", "",
                     [lambda i, s=s: float((s[i] > limit)[~odd[i]].mean()) for s in scores]),
                ], chance.blind_scores(scores[0], odd, windows.recording),
            )  # fmt: skip
            return replace(accuracy, told=told(scores[1], odd, limit), tellable=tellable(scores[1], odd))
        wanted = windows.targets.astype(np.float64)
        values = [values_of(results) for results in (first, second)]
        figures: list[tuple[str, str, list[Score]]] = [
            ("R2", "", [lambda i, v=v: r2(v[i], wanted[i]) for v in values])  # type: ignore[misc]
        ]
        for number, quantity in enumerate(self.output.quantities):
            figures.append((
                f"mean absolute error: {quantity.name}", quantity.unit,
                [lambda i, v=v, q=number: float(np.abs(v[i, q] - wanted[i, q]).mean()) for v in values],  # type: ignore[misc]
            ))  # fmt: skip
        blind = chance.blind_values(values[0], wanted, windows.recording)
        return self._judged("R2", windows, data, progress, figures, blind)

    def _judged(
        self, metric: str, windows: Windows, data: Dataset, progress: Progress,
        figures: Sequence[tuple[str, str, Any]], blind: float | None,
    ) -> Accuracy:  # fmt: skip
        everything = np.arange(len(windows))
        told = min(map(len, _strata(windows))) > 1  # one recording is the same one in every draw
        draws = _draws(windows, self.options.resamples, self.options.seed) if told else []
        step = progress.begin("bootstrap", len(draws) * len(figures))
        found = []
        for name, unit, (before, after) in figures:
            differences = []
            for draw in draws:
                differences.append(after(draw) - before(draw))
                step()
            low, high = np.nanpercentile(differences, [2.5, 97.5]) if told else (0.0, 0.0)
            interval = (float(low), float(high)) if told else None
            found.append(Figure(name, before(everything), after(everything), interval, unit))
        main, *more = found
        return Accuracy(
            metric, data, main.before, main.after, main.interval, {}, tuple(more),
            chance.doubts(blind, metric, main.before, len(np.unique(windows.recording))), blind, chance.ASK,
        )  # fmt: skip


def _strata(windows: Windows) -> list[NDArray[np.int32]]:
    """The recordings of each label."""
    ids = np.array([one.class_id for one in windows.recordings])
    used = np.unique(windows.recording)
    return [used[ids[used] == label] for label in np.unique(ids[used])]


def _draws(windows: Windows, count: int, seed: int) -> list[NDArray[np.intp]]:
    """Windows of recordings drawn with replacement, within each label, so that every label stays."""
    rng = np.random.default_rng(seed)
    strata = _strata(windows)
    own = {int(number): np.flatnonzero(windows.recording == number) for stratum in strata for number in stratum}
    return [
        np.concatenate([own[int(number)] for stratum in strata for number in rng.choice(stratum, len(stratum))])
        for _ in range(count)
    ]
