"""The account of one stream: what became of each seq, in as little memory as ranges need."""

from __future__ import annotations

from typing import Final

from vedette.delivery import Dropped, LedgerRow, Stream

MAX_RANGES: Final = 32  # of dropped messages a ledger row names; older ones are counted alone


class Account:
    """Counts for one stream in one epoch. Owned by its outbox, under its lock.

    ``replay_until``: what waits up to this seq is a replay. ``number``, ``lease`` and ``stale`` are a disk's, see
    `vedette.outbox.disk`: the account's row in the file, the last seq that the file knows may have been given, and how
    many settled messages the file still holds, by its last transaction and by the one that is under way. ``written``:
    ``last``, as that transaction wrote it.
    """

    def __init__(self, epoch: int, stream: Stream) -> None:
        self.epoch = epoch
        self.stream = stream
        self.last = 0
        self.acknowledged = 0
        self.rejected = 0
        self.dropped = 0
        self.lost = 0
        self.waiting = 0
        self.ranges: list[Dropped] = []
        self.ranges_cut = 0
        self.replay_until = 0
        self.number = 0
        self.lease = 0
        self.written = 0
        self.stale = (0, 0)

    def next_seq(self) -> int:
        """1, 2, 3 ..."""
        self.last += 1
        return self.last

    def drop(self, seq: int, reason: str) -> None:
        """Notes a message given up; neighbours with one reason become one range."""
        self.dropped += 1
        if self.ranges:
            newest = self.ranges[-1]
            if newest.reason == reason and newest.last + 1 == seq:
                self.ranges[-1] = Dropped(newest.first, seq, reason)
                return
        self.ranges.append(Dropped(seq, seq, reason))
        if len(self.ranges) > MAX_RANGES:
            del self.ranges[0]
            self.ranges_cut += 1

    def row(self) -> LedgerRow:
        """The ledger's row."""
        return LedgerRow(
            epoch=self.epoch,
            stream=self.stream,
            first=1,
            last=self.last,
            acknowledged=self.acknowledged,
            waiting=self.waiting,
            rejected=self.rejected,
            dropped=self.dropped,
            dropped_ranges=tuple(self.ranges),
            ranges_cut=self.ranges_cut,
            lost_at_crash=self.lost,
        )
