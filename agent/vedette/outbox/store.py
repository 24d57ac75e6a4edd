"""The outbox's file: SQLite, one transaction for everything that changes together.

``STATE_DIR/outbox.sqlite`` (and ``-wal``, ``-shm`` beside it while the agent runs), application id "vdob", version 1::

    state      the epoch that was begun last; the epoch whose accounts stand in the file; how many transactions it has seen
    boots      id, the kernel's boot id, and by how much the wall clock was ahead of CLOCK_BOOTTIME in it; whether the
               wall clock was synchronised then
    accounts   one stream in one epoch: the ledger's numbers, and the lease (see `vedette.outbox.disk`)
    messages   number (the order of all), account, seq, boot, capture, clock, body

What holds of it, and what the rest relies upon:

- **A transaction is a snapshot.** Messages that come, messages that go and the accounts' numbers of one moment are
  written in one transaction, so that in the file, at each moment,
  last = acknowledged + rejected + dropped + lost + its messages + those that were in memory alone at that moment.
- **A transaction that has returned is on the medium.** Write-ahead log with ``synchronous=FULL``: SQLite calls fsync on
  the log before COMMIT returns (sqlite.org/pragma.html#pragma_synchronous), and a transaction that a power cut tore is
  not there at all, for each frame of the log has a checksum that covers those before it (sqlite.org/fileformat2.html,
  section 4). A medium that lies about fsync is beyond anybody's reach.
- **Every row has a checksum** (CRC-32 of its values), for SQLite's pages have none. A message whose checksum is wrong
  is lost and counted as such; an account's or the state's makes the file a broken one.
- **One owner.** As long as the file is open, its folder is locked: see `vedette.outbox.lock`.
- Messages are written at the end and leave at the front, several in one transaction. Pages that become free are used
  again; the file shrinks when it is opened, not while the agent runs. The log is kept at its size, about 4 MiB, and
  overwritten: no file grows in the normal run, which spares the file system its own journal.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from vedette.clock import ClockState
from vedette.contract.errors import one_line
from vedette.delivery import Dropped, Stream

from .lock import FolderLock

FILE: Final = "outbox.sqlite"
LOG_SUFFIXES: Final = ("-wal", "-shm")  # of the files beside it
APPLICATION_ID: Final = int.from_bytes(b"vdob", "big")
VERSION: Final = 1
LOG_BYTES: Final = 4 << 20
MAX_BODY_BYTES: Final = 1 << 20  # of a message that is read; the wire's bound is far below
SHRINK_FROM_PAGES: Final = 1024  # free ones, when the file is opened

# what stands in a message's column ``synced``
_CLOCKS: Final[tuple[ClockState, ...]] = ("unsynced", "synced", "stepped")

_SCHEMA: Final = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE state (id INTEGER PRIMARY KEY, epoch INTEGER, kept INTEGER, generation INTEGER, seal INTEGER) STRICT;
CREATE TABLE boots (id INTEGER PRIMARY KEY, boot TEXT UNIQUE, ahead_ns INTEGER, synced INTEGER) STRICT;
CREATE TABLE accounts (
  id INTEGER PRIMARY KEY, epoch INTEGER, pipeline TEXT, topic TEXT, last INTEGER, lease INTEGER, acknowledged INTEGER,
  rejected INTEGER, dropped INTEGER, lost INTEGER, ranges TEXT, ranges_cut INTEGER, seal INTEGER) STRICT;
CREATE TABLE messages (
  number INTEGER PRIMARY KEY, account INTEGER, seq INTEGER, boot INTEGER, captured_ns INTEGER, synced INTEGER,
  body BLOB, seal INTEGER) STRICT;
"""
# by name: what a broken schema says of them must not decide how many there are
_ACCOUNT: Final = "id, epoch, pipeline, topic, last, lease, acknowledged, rejected, dropped, lost, ranges, ranges_cut"
_MESSAGE: Final = "number, account, seq, boot, captured_ns, synced, body, seal"


class BrokenFileError(Exception):
    """What is in the file cannot be: it is put aside."""


class DiskError(Exception):
    """The file cannot be used just now: the disk is full, read-only, failing, or somebody else's."""


class Boot(NamedTuple):
    """``ahead_ns``: the wall clock, in nanoseconds since 1970, less CLOCK_BOOTTIME, in this boot."""

    boot: str
    ahead_ns: int
    synced: bool


class AccountRow(NamedTuple):
    """See `vedette.outbox.account.Account`."""

    id: int
    epoch: int
    stream: Stream
    last: int
    lease: int
    acknowledged: int
    rejected: int
    dropped: int
    lost: int
    ranges: tuple[Dropped, ...]
    ranges_cut: int


class MessageRow(NamedTuple):
    """``account`` and ``boot``: their ids."""

    number: int
    account: int
    seq: int
    boot: int
    captured_ns: int
    clock: ClockState
    body: bytes


class State(NamedTuple):
    """``epoch``: the last one begun. ``kept``: the last one whose accounts are in the file. ``generation``: transactions."""

    epoch: int
    kept: int
    generation: int


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction. ``gone``: numbers of messages."""

    state: State
    boots: Sequence[Boot] = ()
    accounts: Sequence[AccountRow] = ()
    come: Sequence[MessageRow] = ()
    gone: Sequence[int] = ()
    forgotten: Sequence[int] = ()  # ids of accounts
    forgotten_boots: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Bad:
    """A message that is not as it was written. ``account``: its id, if that much can be trusted."""

    number: int
    account: int


class Store:
    """The open file. `write` belongs to one thread at a time, all that reads to one thread at a time.

    ``passed_over``: numbers of messages that are not as they were written, and counted as lost already.
    """

    def __init__(self, folder: Path) -> None:
        """Opens or makes it. Raises `BrokenFileError`, `DiskError`, or `StateError` where another agent has it."""
        self.path = folder / FILE
        with _Explained():
            self._lock = FolderLock(folder)
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self.passed_over: set[int] = set()
        self._promised: dict[str, int] = {}  # ids of boots whose rows no transaction has written yet
        try:
            with _Explained():
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                self._writer = self._connect()
                self._prepare(self._writer)
                self._reader = self._connect()
                self.state = self._read_state(self._reader)
                self.boots = self._read_boots(self._reader)
                self.accounts = self._read_accounts(self._reader)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=5.0,
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a file that has no page yet
        [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise DiskError(f"this file system has no write-ahead log for SQLite (journal mode {mode})")
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
        [tables] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if not tables and not application:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("INSERT INTO state VALUES (1, 0, 0, 0, ?)", (_seal(0, 0, 0),))
            connection.execute("COMMIT")
        elif (application, version) != (APPLICATION_ID, VERSION):
            raise BrokenFileError(
                f"no outbox of version {VERSION}, but application {application:#x}, version {version}"
            )
        [free] = connection.execute("PRAGMA freelist_count").fetchone()
        if free >= SHRINK_FROM_PAGES:
            connection.execute("PRAGMA incremental_vacuum").fetchall()

    # read when it is opened

    def _read_state(self, connection: sqlite3.Connection) -> State:
        rows = connection.execute("SELECT epoch, kept, generation, seal FROM state").fetchall()
        if len(rows) != 1 or _seal(*rows[0][:3]) != rows[0][3] or not all(0 <= n < 2**53 for n in rows[0][:3]):
            raise BrokenFileError("its state is not as it was written")
        return State(*rows[0][:3])

    def _read_boots(self, connection: sqlite3.Connection) -> dict[int, Boot]:
        rows = connection.execute("SELECT id, boot, ahead_ns, synced FROM boots")
        return {
            number: Boot(boot, ahead_ns, bool(synced))
            for number, boot, ahead_ns, synced in rows
            if isinstance(boot, str) and isinstance(ahead_ns, int)
        }

    def _read_accounts(self, connection: sqlite3.Connection) -> list[AccountRow]:
        accounts = []
        for *values, seal in connection.execute(f"SELECT {_ACCOUNT}, seal FROM accounts ORDER BY id"):
            if _seal(*values) != seal:
                raise BrokenFileError(f"account {values[0]!r} is not as it was written")
            number, epoch, pipeline, topic, last, lease, acknowledged, rejected, dropped, lost, ranges, cut = values
            try:
                named = tuple(msgspec.json.decode(ranges, type=list[Dropped]))
            except msgspec.DecodeError:
                raise BrokenFileError(f"account {number} has ranges that cannot be read") from None
            stream = Stream(pipeline, topic)
            accounts.append(
                AccountRow(number, epoch, stream, last, lease, acknowledged, rejected, dropped, lost, named, cut)
            )
        return accounts

    def messages(self) -> Iterator[MessageRow | Bad]:
        """All of them, oldest first, each looked at."""
        known = {account.id for account in self.accounts}
        with _Explained():
            yield from self._select("ORDER BY number", (), known)

    def _select(
        self, rest: str, values: tuple[int, ...], known: set[int] | None = None
    ) -> Generator[MessageRow | Bad, None, None]:
        assert self._reader is not None
        for row in self._reader.execute(f"SELECT {_MESSAGE} FROM messages {rest}", values):
            number, account, seq, boot, captured_ns, synced, body, seal = row
            good = isinstance(body, bytes) and len(body) <= MAX_BODY_BYTES and boot in self.boots
            good = good and _message_seal(*row[:7]) == seal and synced < len(_CLOCKS)
            if not good or (known is not None and account not in known):
                yield Bad(number, account)
            else:
                yield MessageRow(number, account, seq, boot, captured_ns, _CLOCKS[synced], body)

    # the run

    def read(self, after: int, before: int, limit: int) -> list[MessageRow]:
        """Messages with after < number < before, oldest first, at most so many; none where one of them is not as it was
        written, and not passed over. Raises `BrokenFileError`, `DiskError`."""
        rows: list[MessageRow] = []
        with _Explained(), closing(self._between(after, before)) as found:
            for row in found:
                if isinstance(row, MessageRow):
                    rows.append(row)
                    if len(rows) == limit:
                        break
                elif row.number not in self.passed_over:
                    return []
        return rows

    def between(self, after: int, before: int) -> Iterator[MessageRow | Bad]:
        """All messages with after < number < before, oldest first, each looked at. Raises `BrokenFileError`, `DiskError`."""
        with _Explained():
            yield from self._between(after, before)

    def _between(self, after: int, before: int) -> Generator[MessageRow | Bad, None, None]:
        return self._select("WHERE number > ? AND number < ? ORDER BY number", (after, before))

    def has(self, account: int, seq: int, after: int, before: int) -> bool:
        """Whether such a message is there: looks through all between the two numbers."""
        assert self._reader is not None
        with _Explained():
            query = "SELECT 1 FROM messages WHERE number > ? AND number < ? AND account = ? AND seq = ?"
            return self._reader.execute(query, (after, before, account, seq)).fetchone() is not None

    def boot_number(self, boot: str) -> int:
        """Its id, taken now where it is new; its row is written by a `Change` that has it."""
        for number, known in self.boots.items():
            if known.boot == boot:
                return number
        return self._promised.setdefault(boot, max((*self.boots, *self._promised.values()), default=0) + 1)

    def write(self, change: Change) -> None:
        """All of it or nothing, and on the medium when this returns. Raises `BrokenFileError`, `DiskError`."""
        assert self._writer is not None
        run = self._writer
        boots = {self.boot_number(boot.boot): boot for boot in change.boots}
        with _Explained():
            run.execute("BEGIN IMMEDIATE")
            try:
                run.executemany(
                    "INSERT OR REPLACE INTO boots VALUES (?, ?, ?, ?)",
                    [(number, *boot) for number, boot in boots.items()],
                )
                run.executemany("DELETE FROM messages WHERE number BETWEEN ? AND ?", spans(change.gone))
                run.executemany("DELETE FROM accounts WHERE id = ?", [(number,) for number in change.forgotten])
                run.executemany("DELETE FROM boots WHERE id = ?", [(number,) for number in change.forgotten_boots])
                run.executemany(
                    "INSERT OR REPLACE INTO accounts VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", map(_sealed, change.accounts)
                )
                run.executemany("INSERT INTO messages VALUES (?,?,?,?,?,?,?,?)", map(_message, change.come))
                run.execute(
                    "UPDATE state SET epoch = ?, kept = ?, generation = ?, seal = ?",
                    (*change.state, _seal(*change.state)),
                )
                run.execute("COMMIT")
            except BaseException:
                # a COMMIT that failed may have rolled back by itself
                if run.in_transaction:
                    run.execute("ROLLBACK")
                raise
        self.state = change.state
        self.boots.update(boots)
        for boot in change.boots:
            self._promised.pop(boot.boot, None)
        for number in change.forgotten_boots:
            del self.boots[number]

    def close(self) -> None:
        """Whatever state it is in."""
        for connection in (self._reader, self._writer):
            if connection is not None:
                try:
                    connection.close()  # the last one moves the log into the file
                except sqlite3.Error:
                    continue  # what is committed is in the log and stays there
        self._reader = self._writer = None
        self._lock.close()


def spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers -> first and last of each run of neighbours."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] + 1 == number:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _seal(*values: object) -> int:
    return zlib.crc32(repr(values).encode())


_HEAD: Final = struct.Struct("<QQQQqB")


def _message_seal(number: int, account: int, seq: int, boot: int, captured_ns: int, synced: int, body: bytes) -> int:
    try:
        return zlib.crc32(body, zlib.crc32(_HEAD.pack(number, account, seq, boot, captured_ns, synced)))
    except struct.error:
        return -1  # out of range: no message that was written here


def _message(row: MessageRow) -> tuple[object, ...]:
    synced = _CLOCKS.index(row.clock)
    seal = _message_seal(row.number, row.account, row.seq, row.boot, row.captured_ns, synced, row.body)
    return row.number, row.account, row.seq, row.boot, row.captured_ns, synced, row.body, seal


def _sealed(row: AccountRow) -> tuple[object, ...]:
    ranges = msgspec.json.encode(row.ranges).decode()
    values = (row.id, row.epoch, *row.stream, *row[3:9], ranges, row.ranges_cut)
    return *values, _seal(*values)


# https://www.sqlite.org/rescode.html
_BROKEN: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_CONSTRAINT}
_PASSING: Final = {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_NOLFS,
}  # fmt: skip


class _Explained:
    """SQLite's and the system's errors become `BrokenFileError` and `DiskError`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", -1) & 0xFF
            if code in _PASSING:
                raise DiskError(str(error)) from None
            # tables that are not there, text that is no UTF-8, values of a wrong type: all of it is no file of ours
            raise BrokenFileError(one_line(str(error))) from None
        if isinstance(error, UnicodeDecodeError):  # of a message that repeats a broken schema
            raise BrokenFileError(str(error)) from None
        if isinstance(error, OSError):
            raise DiskError(error.strerror or str(error)) from None
