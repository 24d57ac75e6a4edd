"""The account of one stream: what became of each seq, in as little memory as ranges need."""

from __future__ import annotations

from typing import Final

from vedette.delivery import Dropped, LedgerRow, Stream

MAX_RANGES: Final = 32  # of dropped messages a ledger row names; older ones are counted alone


class Account:
    """Counts for one stream in one epoch. Owned by its outbox, under its lock."""

    def __init__(self, epoch: int, stream: Stream) -> None:
        self.epoch = epoch
        self.stream = stream
        self.last = 0
        self.acknowledged = 0
        self.rejected = 0
        self.dropped = 0
        self._ranges: list[Dropped] = []
        self._ranges_cut = 0

    def next_seq(self) -> int:
        """1, 2, 3 ..."""
        self.last += 1
        return self.last

    def drop(self, seq: int, reason: str) -> None:
        """Notes a message given up; neighbours with one reason become one range."""
        self.dropped += 1
        if self._ranges:
            newest = self._ranges[-1]
            if newest.reason == reason and newest.last + 1 == seq:
                self._ranges[-1] = Dropped(newest.first, seq, reason)
                return
        self._ranges.append(Dropped(seq, seq, reason))
        if len(self._ranges) > MAX_RANGES:
            del self._ranges[0]
            self._ranges_cut += 1

    def row(self, waiting: int) -> LedgerRow:
        """The ledger's row. Before its first message a stream has first 1 and last 0: nothing to account for."""
        return LedgerRow(
            epoch=self.epoch,
            stream=self.stream,
            first=1,
            last=self.last,
            acknowledged=self.acknowledged,
            waiting=waiting,
            rejected=self.rejected,
            dropped=self.dropped,
            dropped_ranges=tuple(self._ranges),
            ranges_cut=self._ranges_cut,
        )
