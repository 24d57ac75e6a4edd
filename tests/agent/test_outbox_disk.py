"""The outbox on disk: what a kill, a power cut, a full or broken disk leave of it, and what the ledger says then."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from disks import Mount, fill, needs_root
from powercut import needs_strace, traced
from real import wait_for

from vedette import clock
from vedette.contract.errors import StateError
from vedette.delivery import ENTRY_OVERHEAD, Durable, Key, LedgerRow, Outbox, Stream
from vedette.mqtt import Topics
from vedette.mqtt.envelope import render
from vedette.outbox import Bounds, Epoch, MemoryOutbox, open_outbox
from vedette.outbox.core import Place
from vedette.outbox.epoch import UNCOUNTED_FROM

DOOR = Stream("door", "detections")
GATE = Stream("gate", "detections")
BOUNDS = Bounds(1_000_000, 1 << 30)

Opener = Callable[..., tuple[Epoch, Outbox]]


@pytest.fixture(name="opened")
def fixture_opened() -> Iterator[Opener]:
    """`open_outbox` with everything at hand, ended at the end."""
    made: list[Outbox] = []

    def opened(folder: Path, durable: Durable = "spill", **options: Any) -> tuple[Epoch, Outbox]:
        options = {"bounds": BOUNDS, "max_memory_bytes": 1 << 30, "on_alert": pytest.fail, **options}
        epoch, outbox = open_outbox(folder, [DOOR, GATE], options.pop("bounds"), durable=durable, **options)
        made.append(outbox)
        return epoch, outbox

    yield opened
    for outbox in made:
        outbox.end()


def body(number: int, size: int = 100) -> bytes:
    return b'{"n":%d,"x":"%s"}' % (number, b"y" * size)


def put(outbox: Outbox, count: int, stream: Stream = DOOR, size: int = 100) -> list[Key]:
    keys = [outbox.append(stream, clock.now_ns(), "synced", body(number, size)) for number in range(count)]
    assert all(keys)
    return [key for key in keys if key is not None]


def rows(outbox: Outbox) -> dict[tuple[int, Stream], LedgerRow]:
    found = {(row.epoch, row.stream): row for row in outbox.ledger()}
    assert all(row.balances for row in found.values())
    return found


def drain(outbox: Outbox) -> list[tuple[Key, bytes]]:
    """Everything that waits, delivered."""
    got = []
    while entries := outbox.batch(100, 0):
        got += [(entry.key, entry.body) for entry in entries]
        outbox.accept([entry.key for entry in entries])
    return got


def as_left(outbox: Outbox, folder: Path, copy: Path) -> Path:
    """The folder as a kill would leave it at this moment."""
    with outbox._writing, outbox._changed:  # type: ignore[attr-defined]
        return Path(shutil.copytree(folder, copy))


# a clean end


@pytest.mark.parametrize("durable", ["spill", "always"])
def test_what_waits_at_the_end_waits_after_the_start_with_its_old_ids(
    tmp_path: Path, opened: Opener, durable: Durable
) -> None:
    first, outbox = opened(tmp_path, durable)
    keys = [*put(outbox, 3), *put(outbox, 2, GATE)]
    outbox.accept([outbox.batch(1, 0)[0].key])
    outbox.end()
    second, outbox = opened(tmp_path, durable)
    assert (first.number, second.number) == (1, 2)
    new = put(outbox, 1)
    outbox.mark_replay()
    account = rows(outbox)
    assert account[1, DOOR] == LedgerRow(1, DOOR, 1, 3, 1, 2, 0, 0, (), 0, lost_at_crash=0)
    assert account[1, GATE] == LedgerRow(1, GATE, 1, 2, 0, 2, 0, 0, (), 0, lost_at_crash=0)
    assert [key for key, _ in drain(outbox)] == [*keys[1:], *new]
    assert rows(outbox)[1, DOOR].acknowledged == 3
    outbox.end()
    third, outbox = opened(tmp_path, durable)
    assert third.number == 3
    assert outbox.ledger() == [], "what is settled and told is forgotten"


def test_what_is_lost_is_told_until_somebody_may_have_heard_it(tmp_path: Path, opened: Opener) -> None:
    """An agent that is killed before its first ledger is out has told nobody."""
    epoch, outbox = opened(tmp_path, "spill")
    put(outbox, 3)
    copy = tmp_path / "killed"
    with outbox._writing, outbox._changed:  # type: ignore[attr-defined]
        shutil.copytree(tmp_path, copy)
    outbox.end()
    for _ in range(3):
        _, outbox = opened(copy, "spill")
        row = rows(outbox)[epoch.number, DOOR]
        assert (row.last, row.waiting, row.lost_at_crash) == (3, 0, 3) and row.balances
        outbox.end()


def test_what_is_acknowledged_after_the_close_does_not_come_back(tmp_path: Path, opened: Opener) -> None:
    _, outbox = opened(tmp_path)
    keys = put(outbox, 3)
    outbox.close()
    outbox.accept([entry.key for entry in outbox.batch(2, 0)])
    outbox.end()
    _, outbox = opened(tmp_path)
    assert [key for key, _ in drain(outbox)] == keys[2:]


def test_dropped_ranges_survive(tmp_path: Path, opened: Opener) -> None:
    _, outbox = opened(tmp_path, bounds=Bounds(3, 1 << 20))
    for _ in range(5):
        outbox.append(DOOR, 0, "synced", b"{}")
    row = rows(outbox)[1, DOOR]
    outbox.end()
    _, outbox = opened(tmp_path, bounds=Bounds(3, 1 << 20))
    assert rows(outbox)[1, DOOR] == row


def test_memory_delivers_what_a_file_still_has_and_writes_nothing_more(tmp_path: Path, opened: Opener) -> None:
    _, outbox = opened(tmp_path)
    keys = put(outbox, 3)
    outbox.end()
    _, outbox = opened(tmp_path, "memory")
    new = put(outbox, 2)
    draft, later = outbox._draft, clock.now_ns() + 10**11  # type: ignore[attr-defined]
    assert not draft.due(later), "the card is spared"
    assert [entry.key for entry in outbox.batch(2, 0)] == keys[:2]
    outbox.accept(keys[:2])
    assert draft.due(later)
    outbox.end()
    _, outbox = opened(tmp_path, "memory")
    assert [key for key, _ in drain(outbox)] == keys[2:]
    assert new


def test_without_a_file_memory_is_memory(tmp_path: Path, opened: Opener) -> None:
    _, outbox = opened(tmp_path, "memory")
    assert isinstance(outbox, MemoryOutbox)
    assert {file.name for file in tmp_path.iterdir()} == {"epoch.json", "outbox.lock"}


@pytest.mark.parametrize("second", ["memory", "spill"])
@pytest.mark.parametrize("first", ["memory", "spill"])
def test_two_agents_cannot_have_one_folder(tmp_path: Path, opened: Opener, first: Durable, second: Durable) -> None:
    epoch, outbox = opened(tmp_path, first)
    with pytest.raises(StateError, match=r"in use.*another one has it"):
        opened(tmp_path, second)
    outbox.end()
    after, _ = opened(tmp_path, second)
    assert (epoch.number, after.number) == (1, 2), "who is refused counts no epoch"


@pytest.mark.parametrize("durable", ["memory", "spill"])
def test_of_agents_that_start_at_the_same_moment_one_has_the_folder(
    tmp_path: Path, opened: Opener, durable: Durable
) -> None:
    together = threading.Barrier(4)

    def start(folder: Path) -> int | str:
        together.wait()
        try:
            return opened(folder, durable)[0].number
        except StateError as error:
            return error.found or ""

    with ThreadPoolExecutor(together.parties) as pool:
        for turn in range(20):
            came = list(pool.map(start, [tmp_path / str(turn)] * together.parties))
            assert sorted(map(str, came)) == ["1", *["another one has it"] * 3]


def test_the_files_are_the_owners_alone(tmp_path: Path, opened: Opener) -> None:
    before = os.umask(0)
    try:
        _, outbox = opened(tmp_path, "always")
        put(outbox, 1)
        assert {
            file.name: file.stat().st_mode & 0o77 for file in tmp_path.iterdir() if file.stat().st_mode & 0o77
        } == {}
    finally:
        os.umask(before)


# the order and the bounds of a long backlog


def test_a_long_backlog_is_mostly_on_disk_and_comes_out_in_order(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vedette.outbox.paged.RESIDENT_BYTES", 20_000)
    monkeypatch.setattr("vedette.outbox.paged.PAGE", 7)
    _, outbox = opened(tmp_path)
    keys = put(outbox, 500)
    backlog = outbox._backlog  # type: ignore[attr-defined]
    wait_for("most of it to be on disk alone", lambda: backlog.outside > 400)
    assert sum(1 for _ in backlog.in_memory()) < 50
    entries = outbox.batch(20, 0)
    outbox.release()
    assert [entry.key for entry in entries] == keys[:20]
    keys += put(outbox, 100)
    assert outbox.is_replay(keys[0]) and not outbox.is_replay(keys[300])
    outbox.mark_replay()
    assert outbox.is_replay(keys[300])
    got = drain(outbox)
    assert [key for key, _ in got] == keys
    assert [text for _, text in got[:500]] == [body(number) for number in range(500)]
    assert outbox.depth().messages == outbox.depth().bytes == 0


def test_a_message_that_is_too_old_is_given_up_and_named(tmp_path: Path, opened: Opener) -> None:
    bounds = Bounds(100, 1 << 20, max_age_s=3600)
    _, outbox = opened(tmp_path, bounds=bounds)
    hour = 3600 * 10**9
    for age_ns in (2 * hour, 2 * hour, 0):
        outbox.append(DOOR, clock.now_ns() - age_ns, "synced", b"{}")
    wait_for("the old ones to be given up", lambda: outbox.depth().messages == 1)
    [dropped] = rows(outbox)[1, DOOR].dropped_ranges
    assert (dropped.first, dropped.last, dropped.reason) == (1, 2, "too_old")


def test_many_that_are_too_old_are_given_up_in_turns_and_others_get_in_between(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vedette.outbox.core.TURN", 20)
    _, outbox = opened(tmp_path)
    for _ in range(1000):
        outbox.append(DOOR, 0, "synced", b"{}")
    outbox.end()
    _, outbox = opened(tmp_path, bounds=Bounds(10_000, 1 << 30, max_age_s=1))
    generation = outbox._store.state.generation  # type: ignore[attr-defined]
    seen = set()
    while waiting := outbox.depth().messages:
        seen.add(waiting)
    assert len(seen) > 10, "who asked meanwhile had an answer meanwhile"
    assert all(waiting % 20 == 0 for waiting in seen)
    assert outbox._store.state.generation > generation + 40, "and the file forgets them meanwhile"  # type: ignore[attr-defined]
    [span] = rows(outbox)[1, DOOR].dropped_ranges
    assert (span.first, span.last, span.reason) == (1, 1000, "too_old")


# a process that is killed

CHILD = """
import sys
from pathlib import Path
from vedette import clock
from vedette.delivery import Stream
from vedette.outbox import Bounds, open_outbox

folder, durable, count, accept, sync = sys.argv[1:]
epoch, outbox = open_outbox(
    Path(folder), [Stream("door", "detections")], Bounds(10**6, 1 << 30), durable=durable, max_memory_bytes=1 << 30
)
if sync == "off":
    outbox._store._writer.execute("PRAGMA synchronous = OFF")
for number in range(int(count)):
    key = outbox.append(Stream("door", "detections"), clock.now_ns(), "synced", b'{"n":%d}' % number)
    sys.stdout.write(f"{key.epoch} {key.seq}\\n")
    sys.stdout.flush()
    if number % 10 == 9:
        keys = [entry.key for entry in outbox.batch(int(accept), 0)]
        outbox.accept(keys)
"""


@pytest.mark.parametrize(("durable", "accept"), [("always", 0), ("always", 7), ("spill", 0), ("spill", 7)])
def test_a_kill_takes_nothing_with_always_and_is_told_to_the_number_with_spill(
    tmp_path: Path, opened: Opener, durable: Durable, accept: int
) -> None:
    folder = tmp_path / "state"
    for turn in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, folder, durable, "1000000", str(accept), "on"], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            witnessed = [child.stdout.readline() for _ in range(60 + 40 * turn)]
            child.send_signal(signal.SIGKILL)
            child.wait()
            witnessed += child.stdout.read().splitlines(keepends=True)
        number, last = map(int, [line for line in witnessed if line.endswith(b"\n")][-1].split())
        epoch, outbox = opened(folder, durable)
        assert epoch.number == number + 1
        row = rows(outbox)[number, DOOR]
        assert row.last is not None
        there = {key.seq for key, _ in drain(outbox) if key.epoch == number}
        # one more message may have been kept whose line nobody got to read
        assert last <= row.last <= last + 1
        settled = row.acknowledged
        if durable == "always":
            assert row.lost_at_crash == 0
            # whatever was acknowledged may come again, and the rest has to
            assert set(range(settled + 1, last + 1)) <= there
        else:
            assert row.lost_at_crash == row.last - settled - len(there)
        outbox.end()


def test_what_is_acknowledged_while_it_is_written_is_not_lost_by_a_kill(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vedette.outbox.draft.SPILL_S", 60.0)
    _, outbox = opened(tmp_path)
    [key] = put(outbox, 1)  # its account is written, and it is not
    store = outbox._store  # type: ignore[attr-defined]
    write = store.write

    def acknowledged(change: object) -> None:
        assert [entry.key for entry in outbox.batch(1, 0)] == [key]
        outbox.accept([key])
        write(change)

    monkeypatch.setattr(store, "write", acknowledged)
    with outbox._writing:  # type: ignore[attr-defined]
        outbox._flush(everything=True)  # type: ignore[attr-defined]
    monkeypatch.undo()
    _, outbox = opened(as_left(outbox, tmp_path, tmp_path / "killed"))
    row = rows(outbox)[1, DOOR]
    assert (row.last, row.waiting, row.lost_at_crash) == (1, 1, 0), "it is sent once more"


def test_a_kill_on_a_disk_that_takes_nothing_is_told_of_streams_that_the_file_has_not_heard_of(
    tmp_path: Path, opened: Opener
) -> None:
    _, outbox = opened(tmp_path)
    only = outbox._store._writer.execute  # type: ignore[attr-defined]
    only("PRAGMA query_only = 1")
    put(outbox, 50)
    outbox.accept([entry.key for entry in outbox.batch(30, 0)])
    assert outbox.problems()
    copy = as_left(outbox, tmp_path, tmp_path / "killed")
    only("PRAGMA query_only = 0")
    _, outbox = opened(copy)
    row = LedgerRow(1, DOOR, 1, 50, 30, 0, 0, 0, (), 0, lost_at_crash=20)
    assert outbox.ledger() == [row], "and nothing of the other, which gave none"


def test_a_kill_before_the_first_message_loses_nothing_and_says_nothing(tmp_path: Path, opened: Opener) -> None:
    _, outbox = opened(tmp_path / "state")
    copy = as_left(outbox, tmp_path / "state", tmp_path / "copy")
    epoch, outbox = opened(copy)
    assert epoch.number == 2
    assert outbox.ledger() == []


def test_with_spill_another_boot_knows_a_bound(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    _, outbox = opened(tmp_path / "state")
    put(outbox, 100)
    outbox.accept([entry.key for entry in outbox.batch(90, 0)])
    copy = as_left(outbox, tmp_path / "state", tmp_path / "copy")
    outbox.end()
    monkeypatch.setattr(clock, "boot_id", lambda: "another-boot")
    _, outbox = opened(copy)
    row = rows(outbox)[1, DOOR]
    assert row.last is not None and row.lost_at_crash is not None
    assert row.last >= 100 and row.lost_at_crash >= 10
    assert row.last <= 250, "one and a half times what was given since the last transaction, at most"


# a power cut


def power_cuts(tmp_path: Path, durable: Durable, sync: str, count: int) -> Iterator[tuple[Path, int, int]]:
    """Folders as power cuts leave them, with the epoch and seq of the last message that had been accepted."""
    folder, log = tmp_path / "state", tmp_path / "trace"
    folder.mkdir()
    luck = random.Random(7)
    for number, (disk, said) in enumerate(traced(CHILD, durable, count, 4, sync, folder=folder, log=log)):
        epoch, seq = map(int, said.split())
        left = tmp_path / f"left-{number}"
        disk.leave(left, luck if number % 3 == 2 else None)
        yield left, epoch, seq
        shutil.rmtree(left)


@needs_strace
def test_a_power_cut_takes_nothing_that_append_has_returned(tmp_path: Path, opened: Opener) -> None:
    cuts = 0
    for left, number, seq in power_cuts(tmp_path, "always", "on", 40):
        epoch, outbox = opened(left, "always")
        assert epoch.number == number + 1
        row = rows(outbox)[number, DOOR]
        assert row.lost_at_crash == 0 and row.last is not None and row.last >= seq
        there = {key.seq for key, _ in drain(outbox)}
        assert set(range(row.acknowledged + 1, seq + 1)) <= there
        outbox.end()
        cuts += 1
    assert cuts == 40


@needs_strace
def test_without_the_sync_a_power_cut_would_take_some(tmp_path: Path, opened: Opener) -> None:
    """The test above can fail."""
    missing = 0
    for left, number, seq in power_cuts(tmp_path, "always", "off", 10):
        _, outbox = opened(left, "always", on_alert=str)
        there = {key.seq for key, _ in drain(outbox) if key.epoch == number}
        missing += seq not in there
        outbox.end()
    assert missing > 5


@needs_strace
def test_with_spill_a_power_cut_never_gives_an_id_twice_and_the_ledger_covers_what_was_given(
    tmp_path: Path, opened: Opener
) -> None:
    for left, number, seq in power_cuts(tmp_path, "spill", "on", 40):
        epoch, outbox = opened(left)
        assert epoch.number == number + 1
        row = rows(outbox)[number, DOOR]
        assert row.last is not None and row.last >= seq
        outbox.end()


# a disk that takes nothing


@needs_root
@pytest.mark.parametrize("durable", ["spill", "always"])
def test_on_a_full_disk_it_goes_on_in_memory_says_so_and_comes_back_by_itself(
    mount: Mount, opened: Opener, monkeypatch: pytest.MonkeyPatch, durable: Durable
) -> None:
    monkeypatch.setattr("vedette.outbox.disk.RETRY_S", 0.1)
    folder = mount("size=3m")
    _, outbox = opened(folder, durable)
    keys = put(outbox, 20)
    filler = fill(folder)
    keys += put(outbox, 300, size=3000)
    wait_for("the problem to show", outbox.problems)
    assert "full" in outbox.problems()["disk"]
    keys += put(outbox, 50)
    assert [entry.key for entry in outbox.batch(10, 0)] == keys[:10]
    outbox.accept(keys[:10])
    assert rows(outbox)[1, DOOR].waiting == 360
    filler.unlink()
    wait_for("the disk to be used again", lambda: not outbox.problems())
    outbox.end()
    _, outbox = opened(folder, durable)
    assert [key for key, _ in drain(outbox)] == keys[10:]


@needs_root
def test_on_a_full_disk_memory_is_bounded(mount: Mount, opened: Opener) -> None:
    folder = mount("size=1m")
    _, outbox = opened(folder, "always", max_memory_bytes=100_000)
    stored = put(outbox, 10)
    fill(folder)
    keys = put(outbox, 300, size=1000)
    waiting = [key for key, _ in drain(outbox)]
    assert waiting[:10] == stored, "what is on disk is not dropped for memory's sake"
    left = waiting[10:]
    assert left == keys[-len(left) :] and 50 < len(left) < 80
    row = rows(outbox)[1, DOOR]
    assert row.dropped == 300 - len(left)
    assert (row.dropped_ranges[0].first, row.dropped_ranges[-1].last) == (11, left[0].seq - 1)


def test_what_is_written_after_a_transaction_that_failed_can_be_read_after_the_start(
    tmp_path: Path, opened: Opener
) -> None:
    """The first transaction of a boot says how its messages are dated; where it failed, the next one has to."""
    _, outbox = opened(tmp_path, "always")
    limit = outbox._store._writer.execute  # type: ignore[attr-defined]
    limit("PRAGMA max_page_count = 1")  # of as many pages as there are
    keys = put(outbox, 1, size=60_000)
    assert "full" in outbox.problems()["disk"]
    limit("PRAGMA max_page_count = 1000000")
    outbox.end()
    assert not outbox.problems()
    _, outbox = opened(tmp_path, "always")
    assert [key for key, _ in drain(outbox)] == keys


@contextmanager
def slow(outbox: Outbox, folder: Path) -> Iterator[None]:
    """All so far is written; from now on a transaction takes as long as this: somebody else is writing into the file."""
    with outbox._writing:  # type: ignore[attr-defined]
        outbox._flush(everything=True)  # type: ignore[attr-defined]
        outbox._store._writer.execute("PRAGMA busy_timeout = 60000")  # type: ignore[attr-defined]
    with closing(sqlite3.connect(folder / "outbox.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.parametrize(("room", "more"), [(10, 2), (20, 12)])
def test_on_a_slow_disk_what_is_being_written_makes_no_room(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch, room: int, more: int
) -> None:
    """To drop it would free nothing before it is on the medium, and nothing would have been lost by then."""
    monkeypatch.setattr("vedette.outbox.draft.MIN_LEASE", 1000)  # as after a burst: `append` waits for no transaction
    _, outbox = opened(tmp_path, max_memory_bytes=room * (len(body(0)) + ENTRY_OVERHEAD))
    put(outbox, 1)
    with slow(outbox, tmp_path):
        with outbox._writing:  # type: ignore[attr-defined]
            put(outbox, 10)
        under_way = outbox._draft._unstored.values()  # type: ignore[attr-defined]
        wait_for("a transaction to be under way", lambda: all(item.place is Place.WRITING for item in under_way))
        for _ in range(more):
            outbox.append(DOOR, clock.now_ns(), "synced", body(0))
        [span] = rows(outbox)[1, DOOR].dropped_ranges
        assert (span.first, span.last, span.reason) == (12, 13, "outbox_full")
    assert [key.seq for key, _ in drain(outbox)] == [*range(1, 12), *range(14, 12 + more)]


@needs_root
def test_on_a_read_only_disk_it_starts_in_memory_and_takes_the_file_over_once_it_can(
    mount: Mount, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vedette.outbox.disk.RETRY_S", 0.1)
    folder = mount("size=4m")
    _, outbox = opened(folder)
    old = put(outbox, 5)
    outbox.end()
    mount.again("remount,ro")
    said: list[str] = []
    epoch, outbox = opened(folder, on_alert=said.append)
    assert epoch.number >= UNCOUNTED_FROM
    assert "Read-only" in outbox.problems()["disk"]
    new = put(outbox, 5)
    assert [entry.key for entry in outbox.batch(2, 0)] == new[:2]
    mount.again("remount,rw")
    wait_for("the file to be taken over", lambda: not outbox.problems())
    assert rows(outbox)[1, DOOR].waiting == 5
    outbox.release()
    assert sorted(key for key, _ in drain(outbox)) == sorted([*old, *new])
    outbox.end()
    after, _ = opened(folder)
    assert after.number == epoch.number + 1


@contextmanager
def kept_away(folder: Path) -> Iterator[None]:
    """The outbox's file cannot be opened."""
    file, elsewhere = folder / "outbox.sqlite", folder / "elsewhere"
    file.rename(elsewhere)
    file.mkdir()
    yield
    file.rmdir()
    elsewhere.rename(file)


@pytest.mark.parametrize("released", [True, False])
def test_what_was_sent_before_the_file_was_taken_over_comes_once_and_keeps_nothing_back(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch, released: bool
) -> None:
    monkeypatch.setattr("vedette.outbox.disk.RETRY_S", 0.1)
    monkeypatch.setattr("vedette.outbox.paged.RESIDENT_BYTES", 20_000)
    _, outbox = opened(tmp_path)
    keys = put(outbox, 300)
    outbox.end()
    with kept_away(tmp_path):
        _, outbox = opened(tmp_path)
        keys += put(outbox, 10)
        sent = [entry.key for entry in outbox.batch(10, 0)]
        if released:
            outbox.release()
    wait_for("the file to be taken over", lambda: not outbox.problems())
    keys += put(outbox, 200)
    with outbox._writing:  # type: ignore[attr-defined]
        outbox._flush(everything=True)  # type: ignore[attr-defined]
    outbox.release()
    got = [key for key, _ in drain(outbox)]
    assert len(got) == len(set(got)) and set(got) == set(keys) and got[:10] == sent
    assert rows(outbox)[1, DOOR].acknowledged == 300
    assert outbox.depth().messages == 0


def test_what_is_taken_over_while_connected_is_a_replay(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited before; its age alone, by another boot's clock, might say otherwise."""
    monkeypatch.setattr("vedette.outbox.disk.RETRY_S", 0.1)
    _, outbox = opened(tmp_path)
    [old] = put(outbox, 1)
    outbox.end()
    with kept_away(tmp_path):
        _, outbox = opened(tmp_path)
        outbox.mark_replay()
    wait_for("the file to be taken over", lambda: not outbox.problems())
    [new] = put(outbox, 1)
    assert [entry.key for entry in outbox.batch(2, 0)] == [old, new]
    assert [outbox.is_replay(key) for key in (old, new)] == [True, False]


def test_what_an_epoch_that_the_file_never_knew_lost_is_told_at_whichever_attempt_the_disk_takes_it(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vedette.outbox.disk.RETRY_S", 0.1)
    _, outbox = opened(tmp_path)
    put(outbox, 1)
    outbox.end()
    epoch, outbox = opened(tmp_path, "memory")
    put(outbox, 3)
    epoch.end(outbox.ledger())
    outbox.end()
    (tmp_path / "outbox.tally").unlink()
    (tmp_path / "outbox.tally").mkdir()  # the file can be written, and this cannot
    _, outbox = opened(tmp_path)
    assert outbox.problems()
    (tmp_path / "outbox.tally").rmdir()
    wait_for("the disk to be used again", lambda: not outbox.problems())
    account = rows(outbox)
    assert {key: (row.waiting, row.lost_at_crash) for key, row in account.items()} == {
        (1, DOOR): (1, 0),
        (2, DOOR): (0, 3),
    }


def test_a_disk_that_cannot_be_read_is_a_problem_and_one_line_in_the_log(
    tmp_path: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    _, outbox = opened(tmp_path)
    keys = put(outbox, 3)
    outbox.end()
    _, outbox = opened(tmp_path)
    reader = outbox._store._reader  # type: ignore[attr-defined]
    reader.set_progress_handler(lambda: 1, 1)  # SQLite gives every statement up, as it does on a medium that fails
    assert [list(outbox.batch(10, 0)) for _ in range(20)] == [[]] * 20
    assert "cannot be read now" in outbox.problems()["disk reads"]
    assert len(caplog.records) == 1
    reader.set_progress_handler(None, 0)
    assert [key for key, _ in drain(outbox)] == keys
    assert not outbox.problems()


# a file that is broken


def test_a_file_that_is_no_database_is_put_aside_and_the_ledger_does_not_pretend(
    tmp_path: Path, opened: Opener
) -> None:
    for count in (3, 2):
        epoch, outbox = opened(tmp_path)
        put(outbox, count)
        outbox.end()
        epoch.end(outbox.ledger())
    (tmp_path / "outbox.sqlite").write_bytes(b"rubbish" * 1000)
    said: list[str] = []
    epoch, outbox = opened(tmp_path, on_alert=said.append)
    assert epoch.number == 3
    assert len(said) == 1 and "put aside as outbox.sqlite.broken-" in said[0]
    [kept] = tmp_path.glob("outbox.sqlite.broken-*")
    assert kept.read_bytes().startswith(b"rubbish")
    assert [(row.epoch, row.last, row.waiting, row.lost_at_crash) for row in outbox.ledger()] == [
        (1, 3, 0, 3),
        (2, 2, 0, 2),
    ]
    put(outbox, 1)


def test_both_files_broken_still_no_epoch_comes_twice(tmp_path: Path, opened: Opener) -> None:
    seen: set[int] = set()
    for _ in range(4):
        epoch, outbox = opened(tmp_path, on_alert=str)
        assert epoch.number not in seen
        seen.add(epoch.number)
        put(outbox, 2)
        outbox.end()
        (tmp_path / "outbox.sqlite").write_bytes(b"no database, no database")
        (tmp_path / "epoch.json").write_bytes(b"")
    assert len(list(tmp_path.glob("outbox.sqlite.broken-*"))) == 3


def test_a_file_that_breaks_while_it_runs_is_put_aside_and_what_is_in_memory_goes_into_another(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vedette.outbox.paged.RESIDENT_BYTES", 20_000)
    said: list[str] = []
    _, outbox = opened(tmp_path / "state", on_alert=said.append)
    keys = put(outbox, 2000)
    backlog = outbox._backlog  # type: ignore[attr-defined]
    wait_for("most of it to be on disk alone", lambda: backlog.outside > 1900)
    with outbox._writing:  # type: ignore[attr-defined]
        # the pages of messages, in the file and in the log; sizes stay, or SQLite's maps would end beyond the file
        for name, begin in (("outbox.sqlite", 4096), ("outbox.sqlite-wal", 0)):
            file = tmp_path / "state" / name
            size = file.stat().st_size
            with file.open("r+b") as target:
                target.seek(begin)
                target.write(b"\xa5" * (size - begin))
    got = [key for key, _ in drain(outbox)]
    wait_for("the file to be replaced", lambda: said and not outbox.problems())
    got += [key for key, _ in drain(outbox)]
    row = rows(outbox)[1, DOOR]
    assert got == [key for key in keys if key in set(got)]
    assert (row.acknowledged, row.waiting, row.lost_at_crash) == (len(got), 0, 2000 - len(got))
    assert keys[-1] in got
    more = put(outbox, 3)
    outbox.end()
    _, outbox = opened(tmp_path / "state")
    assert [key for key, _ in drain(outbox)] == more


Rot = Callable[[Path], None]
Long = Callable[[Rot], tuple[Outbox, list[Key], list[str]]]


def rot(statement: str) -> Rot:
    """Changes rows of the outbox's file, past its owner."""

    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "outbox.sqlite")) as connection, connection:
            assert connection.execute(f"{statement} WHERE number % 100 = 51 AND number < 300").rowcount == 3

    return change


def turn_a_bit(folder: Path) -> None:
    """One of the text of each third message, wherever it stands."""
    for name in ("outbox.sqlite", "outbox.sqlite-wal"):
        with (folder / name).open("r+b") as file:
            raw = file.read()
            for number in (51, 151, 251):
                for found in re.finditer(b'{"n":%d,"x":"y' % (number - 1), raw):
                    file.seek(found.end() - 1)
                    file.write(b"x")


@pytest.fixture(name="long")
def fixture_long(tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> Long:
    """An outbox with 500 messages of two streams, most of them in the file alone, of which three rot; the keys of the
    others; what was said."""
    monkeypatch.setattr("vedette.outbox.paged.RESIDENT_BYTES", 20_000)
    monkeypatch.setattr("vedette.outbox.paged.PAGE", 7)

    def long(rot: Rot) -> tuple[Outbox, list[Key], list[str]]:
        said: list[str] = []
        _, outbox = opened(tmp_path / "state", on_alert=said.append)
        keys = []
        for number in range(500):
            key = outbox.append((DOOR, GATE)[number % 3 == 0], clock.now_ns(), "synced", body(number))
            assert key is not None
            keys.append(key)
        backlog = outbox._backlog  # type: ignore[attr-defined]
        wait_for("most of it to be on disk alone", lambda: backlog.outside > 400)
        with outbox._writing:  # type: ignore[attr-defined]
            rot(tmp_path / "state")
        return outbox, [key for number, key in enumerate(keys, 1) if number not in (51, 151, 251)], said

    return long


ROTS = {
    "text": rot("UPDATE messages SET body = X'7b7d'"),
    "seq": rot("UPDATE messages SET seq = seq + 1"),
    "stream": rot("UPDATE messages SET account = 3 - account"),
    "no stream": rot("UPDATE messages SET account = 77"),
    "no value": rot("UPDATE messages SET seq = NULL, boot = NULL, body = NULL"),
    "gone": rot("DELETE FROM messages"),
    "bit": turn_a_bit,
}


def drained(outbox: Outbox) -> list[Key]:
    """Everything, however long the outbox takes to find it."""
    got: list[Key] = []

    def all_came() -> bool:
        got.extend(key for key, _ in drain(outbox))
        assert rows(outbox)
        return outbox.depth().messages == 0

    wait_for("all that is left to come", all_came)
    return got


@pytest.mark.parametrize("which", ROTS)
def test_messages_that_rot_while_it_runs_are_lost_alone(tmp_path: Path, opened: Opener, long: Long, which: str) -> None:
    outbox, keys, said = long(ROTS[which])
    assert drained(outbox) == keys
    assert outbox.depth().bytes == 0
    account = rows(outbox)
    for stream, lost in ((DOOR, 2), (GATE, 1)):
        settled = account[1, stream]
        assert (settled.waiting, settled.lost_at_crash) == (0, lost)
    [line] = wait_for("somebody to be told", lambda: said)
    assert "3 messages are not as they were written, and lost" in line
    more = put(outbox, 3)
    outbox.end()
    assert not list((tmp_path / "state").glob("*.broken-*"))
    _, outbox = opened(tmp_path / "state")
    assert [row.lost_at_crash for row in outbox.ledger()] == [2, 1]
    assert [key for key, _ in drain(outbox)] == more


def test_what_has_rotted_is_passed_over_until_the_file_can_forget_it_and_a_kill_changes_nothing(
    tmp_path: Path, opened: Opener, long: Long
) -> None:
    outbox, keys, said = long(ROTS["text"])
    with slow(outbox, tmp_path / "state"):
        assert drained(outbox) == keys
        with outbox._changed:  # type: ignore[attr-defined]
            copy = shutil.copytree(tmp_path / "state", tmp_path / "copy")
    wait_for("somebody to be told", lambda: said)
    _, outbox = opened(copy, on_alert=said.append)
    account = rows(outbox)
    assert [account[1, stream].lost_at_crash for stream in (DOOR, GATE)] == [2, 1]
    assert set(drained(outbox)) <= set(keys)


def mangled(content: bytes, luck: random.Random) -> bytes:
    """Cut short, or overwritten, or with bits that have turned."""
    if not content:
        return b"\0" * luck.randrange(1, 100)
    kind = luck.randrange(4)
    at = luck.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + luck.randbytes(luck.randrange(1, 5000)) + content[at + 1 :]
    changed = bytearray(content)
    for _ in range(luck.choice([1, 1, 3, 50])):
        where = luck.randrange(len(changed)) if kind == 2 else luck.randrange(min(200, len(changed)))
        changed[where] ^= 1 << luck.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_becomes_of_the_files_it_starts_and_sends_nothing_that_was_not_appended(
    tmp_path: Path, opened: Opener, seed: int
) -> None:
    luck = random.Random(seed)
    durable: Durable = luck.choice(["spill", "always"])
    _, outbox = opened(tmp_path / "first", durable)
    size = luck.choice([10, 3000])
    put(outbox, 30, size=size)
    outbox.accept([entry.key for entry in outbox.batch(10, 0)])
    outbox.release()
    if luck.random() < 0.5:
        outbox.end()
        folder = tmp_path / "first"
    else:
        if luck.random() < 0.5:
            with outbox._writing:  # type: ignore[attr-defined]
                outbox._flush(everything=True)  # type: ignore[attr-defined]
        folder = as_left(outbox, tmp_path / "first", tmp_path / "copy")
    for file in sorted(folder.iterdir()):
        if luck.random() < 0.5:
            file.write_bytes(mangled(file.read_bytes(), luck))
    epoch, outbox = opened(folder, durable, on_alert=str)
    assert epoch.number > 1
    new = put(outbox, 3)
    for key, text in drain(outbox):
        assert key in new or (key.epoch, text) == (1, body(key.seq - 1, size))
    for row in outbox.ledger():
        assert row.balances or row.last is None
    wait_for("a good end", lambda: not outbox.problems())
    outbox.end()
    again, outbox = opened(folder, durable)
    assert again.number == epoch.number + 1
    assert drain(outbox) == []


# time


def test_a_message_of_an_earlier_boot_is_dated_by_that_boots_clock(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = Topics("vedette", "dev")
    _, outbox = opened(tmp_path)
    captured = clock.now_ns() - 5 * 10**9
    outbox.append(DOOR, captured, "unsynced", b'{"a":1}')
    outbox.append(DOOR, captured, "synced", b'{"a":2}')
    then = [render(entry, topics, replay=True) for entry in outbox.batch(2, 0)]
    outbox.end()
    here = clock.boot_id()
    monkeypatch.setattr(clock, "boot_id", lambda: "another-boot")
    _, outbox = opened(tmp_path)
    entries = outbox.batch(2, 0)
    assert [entry.boot for entry in entries] == [here, here]
    assert [entry.clock for entry in entries] == ["unsynced", "synced"]
    for entry, before in zip(entries, then, strict=True):
        now = msgspec.json.decode(render(entry, topics, replay=True))
        was = msgspec.json.decode(before)
        assert now["ts"][:17] == was["ts"][:17] and abs(float(now["ts"][17:26]) - float(was["ts"][17:26])) < 0.1
        assert {**now, "ts": 0} == {**was, "ts": 0}


def test_the_age_of_a_message_of_an_earlier_boot_is_known_where_both_clocks_were_right(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "clock_state", lambda: "synced")
    _, outbox = opened(tmp_path)
    hour = 3600 * 10**9
    outbox.append(DOOR, clock.now_ns() - 2 * hour, "synced", b"{}")
    outbox.append(DOOR, clock.now_ns(), "synced", b"{}")
    outbox.end()
    monkeypatch.setattr(clock, "boot_id", lambda: "another-boot")
    _, outbox = opened(tmp_path, bounds=Bounds(100, 1 << 20, max_age_s=3600))
    wait_for("the old one to be given up", lambda: outbox.depth().messages == 1)
    assert [key.seq for key, _ in drain(outbox)] == [2]


# what it costs


def test_while_acknowledgements_flow_nothing_but_the_numbers_are_written(tmp_path: Path, opened: Opener) -> None:
    _, outbox = opened(tmp_path)
    for _ in range(200):
        put(outbox, 5)
        outbox.accept([entry.key for entry in outbox.batch(100, 0)])
    generation = outbox._store.state.generation  # type: ignore[attr-defined]
    assert generation < 30, "a lease runs out again and again, and each time it is longer"
    assert outbox._store.read(0, 1 << 40, 1) == []  # type: ignore[attr-defined]


def test_appends_of_several_threads_share_a_transaction(tmp_path: Path, opened: Opener) -> None:
    _, outbox = opened(tmp_path, "always")
    streams = [Stream(f"p{n}", "detections") for n in range(8)]
    writers = [threading.Thread(target=put, args=(outbox, 40, stream)) for stream in streams]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert outbox.depth().messages == 320
    assert outbox._store.state.generation < 300  # type: ignore[attr-defined]
