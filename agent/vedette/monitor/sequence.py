"""Whether every message of every stream has come: ``seq`` leaves no gap in an (epoch, stream), see docs/WIRE.md."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

MAX_STREAMS: Final = 4096  # of those heard last
MAX_GAPS: Final = 256  # open ones of a stream; the oldest are no longer waited for


class StreamKey(NamedTuple):
    """One pipeline's one topic of one device."""

    device: str
    pipeline: str
    topic: str


class Span(NamedTuple):
    """Messages first..last."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}..{self.last}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a message's number says.

    ``missing``: numbers before it that have not come. ``late``: it was missing itself, and here it is. ``again``: it had
    come before. ``new_epoch``: the agent has been started since the last message, so that numbers began again with 1.
    ``away``: the first of its stream since this side was connected again, so that what is missing may be our own fault.
    """

    missing: Span | None = None
    late: bool = False
    again: bool = False
    new_epoch: bool = False
    away: bool = False


@dataclass(slots=True)
class _Account:
    epoch: int
    began: int  # the first number heard: what came before is none of our business
    highest: int
    connection: int
    gaps: list[Span] = field(default_factory=list)  # ascending


class Sequences:
    """Keeps account. Belongs to one thread."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[StreamKey, _Account] = OrderedDict()

    def note(self, key: StreamKey, epoch: int, seq: int, connection: int = 1) -> Arrival:
        """A message has come. ``connection``: the number of ours that it came on."""
        account = self._accounts.get(key)
        if account is None or epoch > account.epoch:
            restarted = account is not None
            away = account is not None and account.connection != connection
            began = 1 if restarted else seq
            self._accounts[key] = account = _Account(epoch, began, began - 1, connection)
            self._accounts.move_to_end(key)
            while len(self._accounts) > MAX_STREAMS:
                self._accounts.popitem(last=False)
            return self._ahead(account, seq, Arrival(new_epoch=restarted, away=away))
        self._accounts.move_to_end(key)
        if epoch < account.epoch:
            return Arrival()  # kept by the agent since an earlier epoch, whose end nobody knows here
        if seq > account.highest:
            away, account.connection = account.connection != connection, connection
            return self._ahead(account, seq, Arrival(away=away))
        for index, gap in enumerate(account.gaps):
            if gap.first <= seq <= gap.last:
                rest = (Span(gap.first, seq - 1), Span(seq + 1, gap.last))
                account.gaps[index : index + 1] = [span for span in rest if span.length > 0]
                return Arrival(late=True)
        return Arrival(again=seq >= account.began)

    def dropped(self, key: StreamKey, epoch: int, first: int, last: int) -> Span | None:
        """The agent says that it gave these up: they are no longer waited for. Those of them that were, from the first to
        the last; None where there are none."""
        account = self._accounts.get(key)
        if account is None or account.epoch != epoch:
            return None
        kept: list[Span] = []
        explained: list[Span] = []
        for gap in account.gaps:
            inside = Span(max(gap.first, first), min(gap.last, last))
            if inside.length <= 0:
                kept.append(gap)
                continue
            explained.append(inside)
            kept += [s for s in (Span(gap.first, inside.first - 1), Span(inside.last + 1, gap.last)) if s.length > 0]
        account.gaps = kept
        return Span(explained[0].first, explained[-1].last) if explained else None

    def missing(self, key: StreamKey) -> Iterable[Span]:
        """What has not come so far, of the epoch heard last."""
        account = self._accounts.get(key)
        return () if account is None else tuple(account.gaps)

    def _ahead(self, account: _Account, seq: int, arrival: Arrival) -> Arrival:
        gap = Span(account.highest + 1, seq - 1)
        account.highest = seq
        if gap.length <= 0:
            return arrival
        account.gaps.append(gap)
        del account.gaps[:-MAX_GAPS]
        return replace(arrival, missing=gap)
