"""Whether a classifier sees anything at all in the pictures it is judged by.

A network that is fed in the wrong range, or whose labels are in another order, answers all the same, and a quantised one
agrees with it. So the float network's hits are held against what its own answers would hit, dealt out without looking: the
sum over the classes of how often each is answered times how often it is right (Cohen, Educational and Psychological
Measurement 20, 1960). Under that hypothesis hits are binomial, and a one-sided exact test at `LEVEL` (Clopper and Pearson,
1934) must reject it. Where labels are uneven, to see the rare ones counts, and always to answer the frequent one does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEVEL: Final = 0.05
FEWEST: Final = 20  # pictures without labels that say something when all have one answer
ASK: Final = "are mean and std (--mean, --std) those it was trained with, and the labels in the network's order?"


def blind(answers: NDArray[np.int64], truth: NDArray[np.int32], labels: Sequence[str]) -> float | None:
    """The probability of so many hits without looking, 0..1; above `LEVEL` the network sees nothing.

    A network's best classes, -1 for none, against the right ones; both (n,). None where even a network that is always
    right would not be told from one that does not look: there are too few pictures.
    """
    count = len(truth)
    if at_least(count, count, _share(truth.astype(np.int64), truth, labels)) > LEVEL:
        return None
    return at_least(int((answers == truth).sum()), count, _share(answers, truth, labels))


def doubts(answers: NDArray[np.int64], truth: NDArray[np.int32], labels: Sequence[str]) -> list[str]:
    """What is to be said of it: see `blind`. Mostly nothing."""
    count = len(truth)
    p = blind(answers, truth, labels)
    if p is None or p <= LEVEL:
        return []
    if len(set(truth.tolist())) > 1 and len(set(answers.tolist())) == 1:
        return [f"the float network answers all {count} evaluation pictures alike{_quoted(answers, labels)}: {ASK}"]
    hits = int((answers == truth).sum())
    return [
        f"the float network is no better than chance on the evaluation pictures: top-1 {hits / count:.4f} of {count}, and "
        f"without looking it would be {_share(answers, truth, labels):.4f} (binomial test, p = {p:.2g}, above {LEVEL:g}): "
        f"{ASK}"
    ]


def _share(answers: NDArray[np.int64], truth: NDArray[np.int32], labels: Sequence[str]) -> float:
    """Of hits, without looking; where all pictures have one label, of one guess among all labels."""
    right = np.bincount(truth, minlength=len(labels)) / len(truth)
    if np.count_nonzero(right) < 2:
        return 1 / len(labels)
    answered = np.bincount(answers[answers >= 0], minlength=len(labels)) / len(truth)
    return float(right @ answered[: len(right)])


def doubts_unlabelled(answers: NDArray[np.int64], labels: Sequence[str]) -> list[str]:
    """The same where nobody knows the right classes: that at least `FEWEST` pictures have one answer of several."""
    if len(answers) < FEWEST or len(set(answers.tolist())) > 1 or len(labels) < 2:
        return []
    return [f"the float network answers all {len(answers)} pictures of --data alike{_quoted(answers, labels)}: {ASK}"]


def at_least(hits: int, count: int, share: float) -> float:
    """The probability of ``hits`` or more among ``count`` that each are one with probability ``share``, 0..1."""
    from scipy.stats import binom

    return float(binom.sf(hits - 1, count, share))


def _quoted(answers: NDArray[np.int64], labels: Sequence[str]) -> str:
    return f", {labels[answers[0]]!r}" if answers[0] >= 0 else ""
