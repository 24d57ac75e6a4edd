"""A backlog that is mostly on disk: the oldest and the newest in memory, the middle in the file alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from vedette.delivery import Key

from .core import Item, MemoryBacklog, Place

PAGE: Final = 256  # messages read at once
RESIDENT_BYTES: Final = 4 << 20  # of the newest that are in the file; more of them are left there alone

Read = Callable[[int, int, int], list[Item]]
Has = Callable[[Key, int, int], bool]


class PagedBacklog:
    """See `vedette.outbox.core.Backlog`. Three parts, in order: ``front``, what is in the file alone, ``recent``.

    ``read(after, before, limit)``: items of the file by their numbers, oldest first; fewer than there are where the file
    cannot be read now. ``has(key, after, before)``: whether one of them has this key. ``doubted``: what is in the file
    alone is not what it should be; until it is `sifted` nobody reads there, and nothing is left to the file alone.
    """

    def __init__(self, read: Read, has: Has) -> None:
        self._read = read
        self._has = has
        self._front = MemoryBacklog()
        self._recent = MemoryBacklog()
        self._recent_bytes = 0
        self.outside = 0  # how many are in the file alone
        self.doubted = False
        self._after = 0  # they have higher numbers than this one
        self._before = 1  # and lower ones than this
        self._apart = False  # numbers between theirs and those of ``recent`` are in memory, or in flight

    def __len__(self) -> int:
        return len(self._front) + self.outside + len(self._recent)

    def __contains__(self, key: Key) -> bool:
        if key in self._front or key in self._recent:
            return True
        return self.outside > 0 and not self.doubted and self._has(key, self._after, self._before)

    def begin(self, count: int, before: int, *, in_flight: bool) -> None:
        """``count`` messages are in the file, all with lower numbers than ``before``, and all older than what is here.
        ``in_flight``: whether messages are that have higher ones."""
        self.outside, self._after, self._before = count, 0, before
        self._apart = in_flight or len(self._front) > 0

    @property
    def span(self) -> tuple[int, int]:
        """What is in the file alone has numbers between these two."""
        return self._after, self._before

    def sifted(self, count: int) -> None:
        """So many are left in the file alone, and can be read."""
        self.outside, self.doubted = count, False

    def push(self, item: Item) -> None:
        """See `Backlog.push`."""
        self._recent.push(item)
        self._recent_bytes += item.entry.size
        self.page_out()

    def page_out(self) -> None:
        """Leaves the oldest of ``recent`` to the file, as far as they are in it, until the rest is small enough."""
        self._apart = self._apart and self.outside > 0
        while self._recent_bytes > RESIDENT_BYTES and not (self.doubted or self._apart):
            item = self._recent.pop()
            if item is None:
                return
            if item.place is not Place.FILE:
                self._recent.put_back([item])
                return
            self._recent_bytes -= item.entry.size
            if not self.outside:
                self._after = item.number - 1
            self._before = item.number + 1
            self.outside += 1

    def pop(self) -> Item | None:
        """See `Backlog.pop`."""
        if not len(self._front) and self.outside:
            page = [] if self.doubted else self._read(self._after, self._before, PAGE)
            if not page:
                return None
            self._after = page[-1].number
            self.outside -= len(page)
            self._front.put_back(page)
        item = self._front.pop()
        if item is None:
            item = self._recent.pop()
            if item is not None:
                self._recent_bytes -= item.entry.size
        return item

    def put_back(self, items: Iterable[Item]) -> None:
        """See `Backlog.put_back`."""
        self._front.put_back(items)

    def take(self, key: Key) -> Item | None:
        """See `Backlog.take`; None for one that is in the file alone."""
        item = self._front.take(key)
        if item is None:
            item = self._recent.take(key)
            if item is not None:
                self._recent_bytes -= item.entry.size
        return item

    def forget_outside(self) -> None:
        """The file is gone, and what was in it alone with it."""
        self.outside, self.doubted = 0, False

    def in_memory(self) -> list[Item]:
        """Oldest first."""
        return [*self._front, *self._recent]
