"""The accounts' numbers at this very moment, for whoever comes after a crash of the process.

``STATE_DIR/outbox.tally`` is overwritten in place at each message that comes or goes, and never synced: what was written
stays in the kernel's page cache when a process is killed, and no flash memory wears for it (the kernel writes the page
out now and then, about twice a minute). After a power cut it is worth nothing, so it counts within one boot only.

A header (magic, epoch, boot id, CRC-32) and one record of 64 bytes for each account of the epoch, each with its CRC-32::

    account, last, acknowledged, rejected, dropped, stale before, stale after, CRC-32

Stale: settled messages that the outbox's file still holds, by its last transaction and by the one under way.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from .account import Account

FILE: Final = "outbox.tally"
MAX_NUMBER: Final = 2**53 - 1  # that any reader of JSON takes as it is (RFC 8259, section 6)
RECORDS: Final = 255  # accounts of one epoch; those beyond it have no tally
_RECORD_BYTES: Final = 64
_MAGIC: Final = b"vdtally1"
_HEAD: Final = struct.Struct("<8sQQ36sI")
_RECORD: Final = struct.Struct("<7QI")


class Count(NamedTuple):
    """An account as it stood. See `vedette.outbox.account.Account`."""

    last: int
    acknowledged: int
    rejected: int
    dropped: int
    stale: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a file says. ``counts``: by the account's id in the outbox's file."""

    epoch: int
    boot: str
    counts: dict[int, Count]


class Tally:
    """The file, written. Owned by its outbox, under its lock. Raises `OSError` when it is made, later on never."""

    def __init__(self, folder: Path, epoch: int, boot: str, generation: int) -> None:
        self._head = (epoch, boot.encode()[:36])
        self._places: dict[int, int] = {}
        self._fd = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            blank = bytes((RECORDS + 1) * _RECORD_BYTES)
            # all of it now, for a full disk must not stop it later; the header last
            if os.pwrite(self._fd, blank, 0) != len(blank):
                raise OSError("short write")
            os.ftruncate(self._fd, len(blank))
            os.fsync(self._fd)
            self.generation(generation)
        except OSError:
            self.close()
            raise

    def generation(self, generation: int) -> None:
        """The outbox's file has seen so many transactions."""
        values = (_MAGIC, self._head[0], generation, self._head[1])
        self._write(0, _HEAD.pack(*values, zlib.crc32(_HEAD.pack(*values, 0))))

    def note(self, account: Account) -> None:
        """How the account stands now."""
        if not account.number or account.epoch != self._head[0]:
            return  # the outbox's file has never heard of it, or knows all there is to know
        place = self._places.setdefault(account.number, len(self._places) + 1)
        if place > RECORDS:
            return
        values = (
            account.number, account.last, account.acknowledged, account.rejected, account.dropped, *account.stale,
        )  # fmt: skip
        self._write(place * _RECORD_BYTES, _RECORD.pack(*values, zlib.crc32(_RECORD.pack(*values, 0))))

    def _write(self, offset: int, record: bytes) -> None:
        if self._fd < 0:
            return
        try:
            os.pwrite(self._fd, record, offset)
        except OSError:
            # one number that is missing makes all of them worthless
            self.close()

    def close(self) -> None:
        """What it says no longer counts."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # where it fails, the transaction that follows makes it worthless
                os.pwrite(self._fd, bytes(_RECORD_BYTES), 0)
            os.close(self._fd)
            self._fd = -1


def read_tally(folder: Path, generation: int) -> Found | None:
    """What was left behind; None where there is nothing to be trusted. ``generation``: of the outbox's file, now."""
    try:
        with (folder / FILE).open("rb") as file:
            raw = file.read((RECORDS + 1) * _RECORD_BYTES)
    except OSError:
        return None
    if len(raw) < (RECORDS + 1) * _RECORD_BYTES:
        return None
    *head, seal = _HEAD.unpack_from(raw)
    magic, epoch, before, boot = head
    if magic != _MAGIC or seal != zlib.crc32(_HEAD.pack(*head, 0)) or not before <= generation <= before + 1:
        return None
    counts = {}
    for offset in range(_RECORD_BYTES, len(raw), _RECORD_BYTES):
        *values, seal = _RECORD.unpack_from(raw, offset)
        if seal == zlib.crc32(_RECORD.pack(*values, 0)) and 0 < values[0] <= max(values) <= MAX_NUMBER:
            account, last, acknowledged, rejected, dropped, *stale = values
            counts[account] = Count(last, acknowledged, rejected, dropped, stale[generation - before])
    return Found(epoch, boot.decode("ascii", "replace"), counts)
