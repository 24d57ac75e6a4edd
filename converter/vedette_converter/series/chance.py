"""Whether a network sees anything at all in the windows that it is judged by: `vedette_converter.chance`, for recordings.

Windows of one recording are no independent witnesses, so whole recordings change places. Classes and anomalies: the labels
are dealt out anew among the recordings, and p is the share of deals that fit the network's answers as well as the true one
does (Pitman, Supplement to the Journal of the Royal Statistical Society 4, 1937). Values: against one who always says the
mean, each recording is won or lost by so much, and p is the share of all ways to swap winners and losers that win as much
(Fisher, The Design of Experiments, 1935, section 21); Bonferroni over the quantities.
Where ways are drawn, p is by Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9, 2010.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, prod
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..chance import LEVEL

MOST: Final = 5000  # ways that are all tried; where there are more, so many are drawn
SEED: Final = 1  # of the draw
ASK: Final = (
    "are mean, std and layout of [input] those it was trained with, and the labels in the network's order, or "
    "[output] offset and scale those of its values?"
)

Numbers: TypeAlias = NDArray[np.float64]
Ids: TypeAlias = NDArray[np.int32]


def blind_classes(answers: Ids, truth: Ids, recording: Ids) -> float | None:
    """The probability of so many hits without looking, 0..1; above `LEVEL` the network sees nothing.

    Best classes, -1 for none, the right ones, and where each window is from; (n,) each. None where too few recordings, or
    one label alone, would not tell a network that is always right from one that does not look.
    """
    labels, classes = _labels(truth, recording)
    _, number = np.unique(recording, return_inverse=True)
    hits = np.zeros((len(labels), len(classes)))
    np.add.at(hits, number, (answers[:, None] == classes).astype(np.float64))
    return _dealt(labels, lambda dealt: hits[np.arange(len(labels)), dealt].sum(axis=-1))


def blind_scores(scores: Numbers, odd: NDArray[np.bool_], recording: Ids) -> float | None:
    """The same for anomaly scores: of so large an area under the ROC curve."""
    labels, _ = _labels(odd.astype(np.int32), recording)
    _, number = np.unique(recording, return_inverse=True)
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.bincount(number, (np.cumsum(counts) - (counts - 1) / 2)[place])
    windows = np.bincount(number)

    def areas(dealt: NDArray[np.int64]) -> Numbers:
        positives = (dealt * windows).sum(axis=-1)
        pairs = np.maximum(1, positives * (windows.sum() - positives))
        return np.asarray(((dealt * ranks).sum(axis=-1) - positives * (positives + 1) / 2) / pairs)

    return _dealt(labels, areas)


def blind_values(found: Numbers, truth: Numbers, recording: Ids) -> float | None:
    """The same for values, (n, quantities) each: of so small an error in the quantity that is best."""
    _, number = np.unique(recording, return_inverse=True)
    usual = np.square(truth - truth.mean(axis=0))

    def best(won: Numbers) -> float:
        columns = [np.bincount(number, column).astype(np.float64) for column in won.T]
        return min(1.0, len(columns) * min(_swapped(column) for column in columns))

    return None if best(usual) > LEVEL else best(usual - np.square(truth - found))


def doubts(p: float | None, metric: str, value: float, recordings: int) -> tuple[str, ...]:
    """What is to be said of it: mostly nothing."""
    if p is None or p <= LEVEL:
        return ()
    return (
        f"the float network is no better than chance on the evaluation windows: {metric} {value:.4f} over {recordings} "
        f"recordings (permutation test, p = {p:.2g}, above {LEVEL:g}): {ASK}",
    )


def _labels(truth: Ids, recording: Ids) -> tuple[NDArray[np.int64], Ids]:
    """(each recording's label, as a position in the labels that occur; those)."""
    _, first = np.unique(recording, return_index=True)
    classes, labels = np.unique(truth[first], return_inverse=True)
    return labels.astype(np.int64), classes


def _dealt(labels: NDArray[np.int64], figure: Callable[[NDArray[np.int64]], Numbers]) -> float | None:
    """The share of deals of ``labels`` whose ``figure``, of (deals, recordings), is at least the true one's."""
    ways = factorial(len(labels)) // prod(factorial(int(n)) for n in np.bincount(labels))
    if ways * LEVEL < 1:
        return None
    return _share("pairings", labels, lambda dealt, axis: figure(np.moveaxis(dealt, axis, -1)))


def _swapped(won: Numbers) -> float:
    """The share of all ways to swap winners and losers whose sum is at least that of ``won``; (recordings,)."""
    return _share("samples", won, lambda swapped, axis: swapped.sum(axis=axis))


def _share(kind: str, values: Any, figure: Callable[[Any, int], Numbers]) -> float:
    """Of all ways that `scipy.stats.permutation_test` knows as this kind, those whose figure is at least the true one's."""
    from scipy.stats import permutation_test

    found = permutation_test(
        (values,), figure, permutation_type=kind, alternative="greater", n_resamples=MOST, vectorized=True,
        rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(found.pvalue)
