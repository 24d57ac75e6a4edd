"""The epoch: a counter made durable once at each start, before anything is published, so that no id is used twice.

``STATE_DIR/epoch.json``, written whole or not at all (temporary file, fsync, rename, fsync of the folder)::

    {"epoch": 41, "streams": [["door", "detections"]], "ended": null}

``ended`` becomes the ledger's last rows when the agent ends. Where it is still null at the next start, the epoch before
ended without saying goodbye, and its streams get a row that says nobody knows; where rows still had messages waiting in
memory, those are ``lost_at_crash``, to the very number.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from vedette.contract.errors import StateError
from vedette.delivery import LedgerRow, Stream

FILE = "epoch.json"
_MAX_EPOCH = 2**53 - 1


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    epoch: int
    streams: list[tuple[str, str]]
    ended: list[LedgerRow] | None


@dataclass(frozen=True, slots=True)
class Epoch:
    """This start's number, and the rows of the last one where it was not ended properly."""

    number: int
    lost: tuple[LedgerRow, ...]
    _path: Path
    _streams: tuple[Stream, ...]

    def end(self, rows: Sequence[LedgerRow]) -> None:
        """Notes this epoch's last account. Raises `StateError`."""
        own = [row for row in rows if row.epoch == self.number]
        try:
            _write(self._path, _Record(self.number, _pairs(self._streams), own))
        except OSError as error:
            raise StateError("the epoch's end cannot be noted", where=self._path, found=str(error)) from None


def next_epoch(state_dir: Path, streams: Sequence[Stream]) -> Epoch:
    """Counts up and makes it durable. Raises `StateError` where the folder cannot be used."""
    path = state_dir / FILE
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        previous = _read(path)
        number = previous.epoch + 1 if previous else 1
        _write(path, _Record(number, _pairs(streams), None))
    except OSError as error:
        raise StateError(
            "state folder cannot be used", where=state_dir, expected="a folder that the agent may write to",
            found=error.strerror or str(error), fix="set state_dir to another folder",
        ) from None  # fmt: skip
    return Epoch(number, _lost(previous) if previous else (), path, tuple(streams))


def _pairs(streams: Sequence[Stream]) -> list[tuple[str, str]]:
    return [(stream.pipeline, stream.topic) for stream in streams]


def _lost(previous: _Record) -> tuple[LedgerRow, ...]:
    if previous.ended is None:
        return tuple(_unknown(previous.epoch, Stream(*stream)) for stream in previous.streams)
    return tuple(replace(row, waiting=0, lost_at_crash=row.waiting) for row in previous.ended if row.waiting)


def _unknown(epoch: int, stream: Stream) -> LedgerRow:
    return LedgerRow(epoch, stream, 1, None, 0, 0, 0, 0, (), 0, lost_at_crash=None)


def _read(path: Path) -> _Record | None:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        record = msgspec.json.decode(raw, type=_Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(
            "epoch cannot be read, and guessing it could use a message's id twice", where=path, found=str(error),
            fix='write {"epoch": N, "streams": [], "ended": []} into it, N above every epoch seen from this device',
        ) from None  # fmt: skip
    if not 0 <= record.epoch < _MAX_EPOCH:
        raise StateError("epoch out of range", where=path, expected=f"0 to {_MAX_EPOCH}", found=str(record.epoch))
    return record


def _write(path: Path, record: _Record) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(msgspec.json.encode(record))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
