"""Results that say less than the network gave: whether they are any, how many there were, and why."""

from __future__ import annotations

from collections.abc import Sequence

from vedette.models.model import Doubt

from .stats import PipelineStats


class Doubts:
    """Of one pipeline's results. `trusts` is for whoever reports them, `news` for one thread alone."""

    def __init__(self, stats: PipelineStats) -> None:
        """``stats``: where what is missing is counted."""
        self._stats = stats
        self._why: dict[str, str] = {}  # by reason, the newest
        self._told: dict[str, int] = {}

    def trusts(self, doubts: Sequence[Doubt]) -> bool:
        """Whether there is a result at all. What is missing in it is counted, and told with the next `news`.

        ``doubts``: one and more, each of another view of the sample.
        """
        broken = [doubt for doubt in doubts if doubt.broken]
        for doubt in broken[:1] or doubts:
            self._stats.drop(doubt.reason, doubt.count)
            self._why[doubt.reason] = doubt.why
        return not broken

    def news(self) -> list[tuple[str, str]]:
        """What was wrong with results since this was last asked: a key for its kind, and words for people."""
        counts = self._stats.dropped()
        found = []
        for reason, why in list(self._why.items()):
            if counts[reason] > self._told.get(reason, 0):
                self._told[reason] = counts[reason]
                found.append((reason, f"{why} ({counts[reason]} so far)"))
        return found
