"""The epoch: a counter made durable once at each start, before anything is published, so that no id is used twice.

``STATE_DIR/epoch.json``, written whole or not at all (temporary file, fsync, rename, fsync of the folder)::

    {"epoch": 41, "streams": [["door", "detections"]], "ended": null}

``ended`` becomes the ledger's last rows when the agent ends: this epoch's, and earlier ones that wait. Where it is still
null at the next start, the epoch before ended without saying goodbye, and its streams get a row that says nobody knows;
where rows still had messages waiting in memory, those are ``lost_at_crash``, to the very number. An outbox with a file of
its own knows more, and keeps the epoch there as well: the higher of the two counts.

Where the last epoch cannot be known (this file is broken, or gone while others of ours are there) or the next one cannot
be made durable (the disk is full or read-only), guessing could use an id twice. The epoch is then a number that no count
reaches, 2**52 + days since 2020 * 2**36 + 36 random bits: such epochs stay in order from day to day, and a thousand of one
day, made by a clock that stands still, have one chance in 100,000 that two are alike. Counting goes on from it.
"""

from __future__ import annotations

import errno
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec

from vedette.contract.errors import StateError, one_line
from vedette.delivery import LedgerRow, Stream
from vedette.durable import write_durably

from .aside import aside, put_aside

log = logging.getLogger(__name__)

FILE: Final = "epoch.json"
UNCOUNTED_FROM: Final = 2**52
_MAX_EPOCH: Final = 2**53 - 1
_MAX_BYTES: Final = 1 << 20  # of the file
_RANDOM_BITS: Final = 36
_2020: Final = 18_262  # days since 1970
_PASSING: Final = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    epoch: int
    streams: list[tuple[str, str]]
    ended: list[LedgerRow] | None


@dataclass(slots=True)
class Epoch:
    """This start's number. ``lost``: rows of the last one where it was not ended properly, as far as this file knows.
    ``kept``: whether the number is durable."""

    number: int
    lost: tuple[LedgerRow, ...]
    kept: bool
    _path: Path = field(repr=False)
    _streams: tuple[Stream, ...] = field(repr=False)

    def keep(self) -> None:
        """Makes it durable where that failed. Raises `OSError`."""
        if not self.kept:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(self._path, _Record(self.number, _pairs(self._streams), None))
            self.kept = True

    def end(self, rows: Sequence[LedgerRow]) -> None:
        """Notes this epoch's last account. What keeps it from that is logged, and no more: the agent is about to end, and
        the next start then says that nobody knows, or what the outbox's file knows."""
        unsettled = [row for row in rows if row.epoch == self.number or row.waiting]
        try:
            _write(self._path, _Record(self.number, _pairs(self._streams), unsettled))
            self.kept = True
        except OSError as error:
            log.warning("%s: the epoch's end cannot be noted: %s", self._path, error.strerror or error)


def next_epoch(
    state_dir: Path,
    streams: Sequence[Stream],
    *,
    filed: int | None = None,
    others: Sequence[Path] = (),
    on_alert: Callable[[str], None] = log.warning,
) -> Epoch:
    """Counts up and makes it durable.

    ``filed``: the last epoch as the outbox's file has it. ``others``: files which show, where they are, that there was an
    epoch before. Raises `StateError` where the folder cannot be used at all; one that is full, read-only or failing can.
    """
    path = state_dir / FILE
    previous: _Record | None = None
    kept = False
    try:
        known_before = any(file.exists() for file in (path, *others)) or bool(aside(path)) or filed is not None
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            previous = _read(path, on_alert)
            number = _next(previous, filed, known_before)
            _write(path, _Record(number, _pairs(streams), None))
            kept = True
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            number = _uncounted(max(filed or 0, previous.epoch if previous is not None else 0))
            on_alert(f"{path}: {error.strerror}: the epoch cannot be counted, and {number} stands for it")
    except OSError as error:
        raise StateError(
            "state folder cannot be used", where=state_dir, expected="a folder that the agent may write to",
            found=error.strerror or str(error), fix="set state_dir to another folder",
        ) from None  # fmt: skip
    lost = _lost(previous) if previous else ()
    return Epoch(number, lost, kept, path, tuple(streams))


def _next(previous: _Record | None, filed: int | None, known_before: bool) -> int:
    if previous is not None:
        # this file is written before the other one, so that it can only be behind where somebody has put an old one back
        last = max(previous.epoch, filed or 0)
        return last + 1 if last < _MAX_EPOCH else _uncounted(0)
    return _uncounted(filed or 0) if known_before else 1


def _uncounted(above: int) -> int:
    """See the module. Higher than ``above``."""
    days = min(max(int(time.time() // 86400) - _2020, 0), 2**16 - 1)
    number = UNCOUNTED_FROM + (days << _RANDOM_BITS) + secrets.randbits(_RANDOM_BITS)
    if number <= above < _MAX_EPOCH - 2**_RANDOM_BITS:
        number = above + 1 + secrets.randbits(_RANDOM_BITS)
    return number


def _pairs(streams: Sequence[Stream]) -> list[tuple[str, str]]:
    return [(stream.pipeline, stream.topic) for stream in streams]


def _lost(previous: _Record) -> tuple[LedgerRow, ...]:
    if previous.ended is None:
        return tuple(_unknown(previous.epoch, Stream(*stream)) for stream in previous.streams)
    return tuple(replace(row, waiting=0, lost_at_crash=row.waiting) for row in previous.ended if row.waiting)


def _unknown(epoch: int, stream: Stream) -> LedgerRow:
    return LedgerRow(epoch, stream, 1, None, 0, 0, 0, 0, (), 0, lost_at_crash=None)


def _read(path: Path, on_alert: Callable[[str], None]) -> _Record | None:
    """None where it is not there, or broken: it is then put aside."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    try:
        record = msgspec.json.decode(raw, type=_Record)
        if not 0 <= record.epoch < _MAX_EPOCH:
            why = f"epoch {record.epoch}"
        elif not all(map(_can_be, record.ended or ())):
            why = "an account that cannot be"
        else:
            return record
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = one_line(str(error))  # which may repeat a part of the file
    kept = put_aside(path)
    on_alert(f"{path} is broken and was put aside as {kept.name}: {why}; the epoch is not counted on from it")
    return None


def _can_be(row: LedgerRow) -> bool:
    """Whether its numbers are some that are counted up to."""
    ranges = [number for span in row.dropped_ranges for number in (span.first, span.last)]
    counts = (
        row.epoch,
        row.first,
        row.last or 0,
        row.acknowledged,
        row.waiting,
        row.rejected,
        row.dropped,
        row.ranges_cut,
    )
    return all(0 <= number <= _MAX_EPOCH for number in (*counts, row.lost_at_crash or 0, *ranges))


def _write(path: Path, record: _Record) -> None:
    write_durably(path, msgspec.json.encode(record))
