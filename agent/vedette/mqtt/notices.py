"""What is sent beside the outbox, now or never: in the order in which it was left, of what is retained the newest alone.

On a slow link they would otherwise grow older and older. Of a topic whose value the broker keeps only the newest counts, and
it takes the place of the one that waits. What the broker does not keep is bounded, and refused beyond that.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MAX_BYTES: Final = 512 * 1024  # of what is not retained: a few pictures


@dataclass(frozen=True, slots=True, eq=False)
class Notice:
    """One message. ``lasting``: it outlives the connection, as the answer to a command does. ``last``: the last words of a
    clean stop, which go before all others."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    lasting: bool = False
    last: bool = False
    acknowledged: threading.Event = field(default_factory=threading.Event)


class Notices:
    """See the module. Any thread may call anything."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """``max_bytes``: of the payloads that are not retained."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str | int, Notice] = (
            OrderedDict()
        )  # by topic what is retained, by a number what is not
        self._numbers = itertools.count()
        self._bytes = 0  # of what is not retained

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    @property
    def last_words(self) -> bool:
        """Whether last words wait."""
        first = self.first()
        return first is not None and first.last

    def put(self, notice: Notice) -> bool:
        """Whether there was room for it."""
        with self._lock:
            if not notice.retain:
                if self._bytes + len(notice.payload) > self._max_bytes:
                    return False
                self._bytes += len(notice.payload)
            key = notice.topic if notice.retain else next(self._numbers)
            self._waiting[key] = notice
            if notice.last:
                self._waiting.move_to_end(key, last=False)
            return True

    def first(self) -> Notice | None:
        """What is to be sent next; it goes on waiting."""
        with self._lock:
            return next(iter(self._waiting.values()), None)

    def take(self, notice: Notice) -> bool:
        """It waits no longer; False where a newer one has its place, or it is gone."""
        with self._lock:
            for key, first in self._waiting.items():
                if first is notice:
                    del self._waiting[key]
                    self._count_out(notice)
                    return True
            return False

    def connection_over(self, unacknowledged: Iterable[Notice]) -> None:
        """Forgets all but what lasts, of what waits and of what the broker has not acknowledged, which goes first."""
        with self._lock:
            lasting = [notice for notice in (*unacknowledged, *self._waiting.values()) if notice.lasting]
            self._waiting.clear()
            self._bytes = 0
            for notice in lasting:
                self._waiting[next(self._numbers)] = notice
                self._bytes += len(notice.payload)

    def _count_out(self, notice: Notice) -> None:
        if not notice.retain:
            self._bytes -= len(notice.payload)
