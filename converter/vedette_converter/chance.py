"""Whether a classifier sees anything at all in the pictures it is judged by.

A network that is fed in the wrong range, or whose labels are in another order, answers all the same, and a quantised one
agrees with it: every gate holds. So the float network's hits are held against the best that can be had without looking,
which is to answer each picture with the most frequent label: under that hypothesis hits are binomial, and a one-sided exact
test at `LEVEL` (Clopper and Pearson, 1934) must reject it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, lgamma, log
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEVEL: Final = 0.05
FEWEST: Final = 20  # pictures without labels that say something when all have one answer
_ASK: Final = "are mean and std (--mean, --std) those it was trained with, and the labels in the network's order?"


def doubts(answers: NDArray[np.int64], truth: NDArray[np.int32], labels: Sequence[str]) -> list[str]:
    """What is to be said of a network's best classes, -1 for none, against the right ones; both (n,). Mostly nothing."""
    count = len(truth)
    hits = int((answers == truth).sum())
    shares = np.bincount(truth, minlength=len(labels)) / count
    common = int(shares.argmax())
    several = np.count_nonzero(shares) > 1
    if several and len(set(answers.tolist())) == 1:
        return [f"the float network answers all {count} evaluation pictures alike{_quoted(answers, labels)}: {_ASK}"]
    blind = float(shares[common]) if several else 1 / len(labels)
    p = at_least(hits, count, blind)
    if p <= LEVEL:
        return []
    how = f"always answering {labels[common]!r}" if several else "guessing"
    return [
        f"the float network is no better than chance on the evaluation pictures: top-1 {hits / count:.4f} of {count}, and "
        f"{how} gives {blind:.4f} (binomial test, p = {p:.2g}, above {LEVEL:g}): {_ASK}"
    ]


def doubts_unlabelled(answers: NDArray[np.int64], labels: Sequence[str]) -> list[str]:
    """The same where nobody knows the right classes: that at least `FEWEST` pictures all have one answer."""
    if len(answers) < FEWEST or len(set(answers.tolist())) > 1:
        return []
    return [f"the float network answers all {len(answers)} pictures of --data alike{_quoted(answers, labels)}: {_ASK}"]


def at_least(hits: int, count: int, share: float) -> float:
    """The probability of ``hits`` or more among ``count`` that each are one with probability ``share``, 0..1."""
    if hits <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    chosen = lgamma(count + 1)
    return min(1.0, sum(
        exp(chosen - lgamma(k + 1) - lgamma(count - k + 1) + k * log(share) + (count - k) * log(1 - share))
        for k in range(hits, count + 1)
    ))  # fmt: skip


def _quoted(answers: NDArray[np.int64], labels: Sequence[str]) -> str:
    return f", {labels[answers[0]]!r}" if answers[0] >= 0 else ""
