"""Whether a network sees anything at all in the windows that it is judged by: `vedette_converter.chance`, for recordings.

Windows of one recording are no independent witnesses, so whole recordings change places. Classes and anomalies: the labels
are dealt out anew among the recordings, and p is the share of deals that fit the network's answers as well as the true one
does (Pitman, Supplement to the Journal of the Royal Statistical Society 4, 1937). Values: against one who always says the
mean, each recording is won or lost by so much, and p is the share of all ways to swap winners and losers that win as much
(Fisher, The Design of Experiments, 1935, section 21); Bonferroni over the quantities.
Where ways are drawn, p is by Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9, 2010.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from math import factorial, prod
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..chance import LEVEL

MOST: Final = 5000  # ways that are all tried; where there are more, so many are drawn
SEED: Final = 1  # of the draw
_SAME: Final = 1e-9  # relative: sums of the same numbers in another order
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
    count = len(labels)
    ways = factorial(count) // prod(factorial(int(n)) for n in np.bincount(labels))
    if ways * LEVEL < 1:
        return None
    exact = ways <= MOST
    rng = np.random.default_rng(SEED)
    dealt = _deals(np.bincount(labels)) if exact else (rng.permutation(labels) for _ in range(MOST))
    return _at_least(figure(np.array(list(dealt))), float(figure(labels[None])[0]), exact)


def _deals(counts: NDArray[np.int64]) -> Iterator[list[int]]:
    """Every way to deal so many of each label, once."""
    if not counts.any():
        yield []
    for label in np.flatnonzero(counts):
        left = counts.copy()
        left[label] -= 1
        yield from ([int(label), *rest] for rest in _deals(left))


def _swapped(won: Numbers) -> float:
    """The share of all ways to swap winners and losers whose sum is at least that of ``won``; (recordings,)."""
    exact = 2 ** len(won) <= MOST
    rng = np.random.default_rng(SEED)
    signs = np.array(
        list(itertools.product((1, -1), repeat=len(won))) if exact else rng.choice((1, -1), (MOST, len(won)))
    )
    return _at_least(signs @ won, float(won.sum()), exact)


def _at_least(figures: Numbers, true: float, exact: bool) -> float:
    """The true way is one of those that were all tried; where they were drawn, it is added."""
    as_good = int((figures >= true - _SAME * max(1.0, float(np.abs(figures).max()))).sum())
    return as_good / len(figures) if exact else (as_good + 1) / (len(figures) + 1)
