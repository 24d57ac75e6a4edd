"""Which networks are worth a look: those that no other one beats in accuracy, latency and size at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class Point:
    """What a network costs. Less is better, of each."""

    drop: float
    """Accuracy (0..1) of the float original less the network's; below 0 where the network is better."""
    ratio: float
    """The network's median latency by the float original's, timed by turns."""
    bytes: int
    """Of the flatbuffer."""


def dominates(one: Point, other: Point, *, slack: float = 1.0) -> bool:
    """Whether ``one`` is no worse in anything and better in something.

    ``slack``: ``one`` must be so many times faster before its latency counts as no worse. 1 for exact figures; more where
    latencies are noisy and nobody should be lost to noise.
    """
    better = one.drop < other.drop or one.ratio < other.ratio or one.bytes < other.bytes
    return better and one.drop <= other.drop and one.ratio * slack <= other.ratio and one.bytes <= other.bytes


Item = TypeVar("Item")


def front(items: Sequence[tuple[Item, Point]], *, slack: float = 1.0) -> list[tuple[Item, Point]]:
    """Those that none of the others dominates, fastest first; of equals all.

    Pareto's front. Comparing all pairs: a search has hundreds of points, not millions.
    """
    kept = [
        (item, point) for item, point in items if not any(dominates(other, point, slack=slack) for _, other in items)
    ]
    return sorted(kept, key=lambda pair: (pair[1].ratio, pair[1].drop, pair[1].bytes))


def choose(items: Sequence[tuple[Item, Point]], budget: float) -> Item | None:
    """The fastest whose drop is within the budget, the smaller of equals; None where there is none."""
    within = [(item, point) for item, point in items if point.drop <= budget]
    if not within:
        return None
    return min(within, key=lambda pair: (pair[1].ratio, pair[1].bytes, pair[1].drop))[0]
