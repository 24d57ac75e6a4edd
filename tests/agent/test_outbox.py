"""One suite over every outbox, and a state machine that compares it with lists."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vedette import clock
from vedette.delivery import ENTRY_OVERHEAD, Dropped, Durable, Entry, Key, LedgerRow, Outbox, Stream, WhenFull
from vedette.outbox import Bounds, DiskOutbox, MemoryOutbox
from vedette.outbox.account import MAX_RANGES
from vedette.outbox.store import Store

DOOR = Stream("door", "detections")
GATE = Stream("gate", "detections")
EPOCH = 7
HUGE = 10**9

Factory = Callable[..., Outbox]

DURABLE = ["memory", "spill", "always"]


def open_one(
    durable: Durable,
    folder: Path,
    *,
    epoch: int = EPOCH,
    max_messages: int = 100,
    max_bytes: int = HUGE,
    max_age_s: float = 0.0,
    when_full: WhenFull = "drop_oldest",
    lost: tuple[LedgerRow, ...] = (),
) -> Outbox:
    """An outbox joins the suite here."""
    if durable == "memory":
        return MemoryOutbox(
            epoch, max_messages=max_messages, max_bytes=max_bytes, max_age_s=max_age_s, when_full=when_full, lost=lost
        )
    bounds = Bounds(max_messages, max_bytes, max_age_s, when_full)
    return DiskOutbox(
        folder, Store(folder), epoch, bounds, durable=durable, max_memory_bytes=HUGE, lost=lost, on_alert=pytest.fail
    )


@pytest.fixture(params=DURABLE, name="make")
def fixture_make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Factory]:
    made: list[Outbox] = []

    def make(**options: Any) -> Outbox:
        made.append(open_one(request.param, tmp_path, **options))
        return made[-1]

    yield make
    for outbox in made:
        outbox.end()


def put(outbox: Outbox, count: int = 1, stream: Stream = DOOR, body: bytes = b"{}") -> list[Key | None]:
    return [outbox.append(stream, number, "synced", body) for number in range(count)]


def seqs(entries: object) -> list[int]:
    return [entry.key.seq for entry in entries]  # type: ignore[attr-defined]


def row(outbox: Outbox, stream: Stream = DOOR) -> LedgerRow:
    """The stream's row; every row is checked to balance on the way."""
    rows = {r.stream: r for r in outbox.ledger() if r.epoch == EPOCH}
    assert all(r.balances for r in rows.values())
    return rows[stream]


def test_a_seq_counts_from_one_for_each_stream_and_leaves_no_gap(make: Factory) -> None:
    outbox = make()
    assert put(outbox, 3) == [Key(EPOCH, DOOR, n) for n in (1, 2, 3)]
    assert put(outbox, 2, GATE) == [Key(EPOCH, GATE, n) for n in (1, 2)]
    assert put(outbox, 1) == [Key(EPOCH, DOOR, 4)]


def test_an_entry_keeps_what_it_was_given(make: Factory) -> None:
    outbox = make()
    outbox.append(DOOR, 123, "unsynced", b'{"a":1}')
    [entry] = outbox.batch(10, 0)
    assert entry == Entry(Key(EPOCH, DOOR, 1), 123, clock.boot_id(), "unsynced", b'{"a":1}')


def test_a_batch_is_oldest_first_across_streams_and_at_most_its_limit(make: Factory) -> None:
    outbox = make()
    put(outbox, 2)
    put(outbox, 1, GATE)
    put(outbox, 2)
    keys = [entry.key for entry in [*outbox.batch(2, 0), *outbox.batch(2, 0), *outbox.batch(2, 0)]]
    assert keys == [Key(EPOCH, s, n) for s, n in ((DOOR, 1), (DOOR, 2), (GATE, 1), (DOOR, 3), (DOOR, 4))]
    assert outbox.batch(10, 0) == []


def test_a_batch_waits_for_the_first_entry(make: Factory) -> None:
    outbox = make()
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.extend(seqs(outbox.batch(5, 30))))
    waiter.start()
    put(outbox, 1)
    waiter.join(20)
    assert not waiter.is_alive() and got == [1]


def test_a_listener_hears_of_what_was_kept(make: Factory) -> None:
    outbox = make(max_messages=1, when_full="drop_newest")
    heard: list[int] = []
    outbox.on_append(lambda: heard.append(outbox.depth().messages))
    put(outbox, 2)
    assert heard == [1]  # of the one that was kept, after it was


def test_drop_oldest_makes_room_and_names_the_range(make: Factory) -> None:
    outbox = make(max_messages=3)
    assert [key and key.seq for key in put(outbox, 5)] == [1, 2, 3, 4, 5]
    assert outbox.depth().messages == 3
    assert row(outbox).dropped_ranges == (Dropped(1, 2, "outbox_full"),)
    assert seqs(outbox.batch(9, 0)) == [3, 4, 5]


def test_drop_newest_keeps_what_it_has_and_uses_the_seq_up(make: Factory) -> None:
    outbox = make(max_messages=3, when_full="drop_newest")
    assert [key and key.seq for key in put(outbox, 5)] == [1, 2, 3, None, None]
    first = outbox.batch(1, 0)
    outbox.accept(entry.key for entry in first)
    assert [key and key.seq for key in put(outbox, 1)] == [6]
    assert row(outbox).dropped_ranges == (Dropped(4, 5, "outbox_full"),)
    assert seqs(outbox.batch(9, 0)) == [2, 3, 6]


def test_dropping_takes_the_oldest_whichever_stream_it_is_of(make: Factory) -> None:
    outbox = make(max_messages=2)
    put(outbox, 1, GATE)
    put(outbox, 2, DOOR)
    assert row(outbox, GATE).dropped_ranges == (Dropped(1, 1, "outbox_full"),)
    assert row(outbox, DOOR).dropped == 0


def test_bytes_bound_it_too(make: Factory) -> None:
    body = b"{" + b" " * 98 + b"}"
    outbox = make(max_bytes=3 * (100 + ENTRY_OVERHEAD) + 50)
    put(outbox, 4, body=body)
    assert outbox.depth().messages == 3
    assert outbox.depth().bytes == 3 * (100 + ENTRY_OVERHEAD)
    outbox.append(DOOR, 0, "synced", b"{" + b" " * 500 + b"}")
    assert seqs(outbox.batch(9, 0)) == [4, 5]
    assert row(outbox).dropped == 3


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest"])
def test_a_message_that_can_never_fit_drops_nobody_else(make: Factory, when_full: WhenFull) -> None:
    outbox = make(max_bytes=5000, when_full=when_full)
    put(outbox, 3)
    assert outbox.append(DOOR, 0, "synced", b" " * 6000) is None
    assert row(outbox).dropped_ranges == (Dropped(4, 4, "outbox_full"),)
    assert seqs(outbox.batch(9, 0)) == [1, 2, 3]


def test_what_is_in_flight_is_never_dropped(make: Factory) -> None:
    outbox = make(max_messages=2)
    put(outbox, 2)
    assert seqs(outbox.batch(2, 0)) == [1, 2]
    assert put(outbox, 1) == [None]
    outbox.accept([Key(EPOCH, DOOR, 1), Key(EPOCH, DOOR, 2)])
    assert row(outbox).acknowledged == 2
    assert row(outbox).dropped == 1


def test_in_memory_what_is_too_old_is_given_up_in_turns_and_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vedette.outbox.core.TURN", 20)
    outbox = MemoryOutbox(EPOCH, max_messages=HUGE, max_bytes=HUGE, max_age_s=3600)
    now = clock.now_ns()
    for _ in range(95):
        outbox.append(DOOR, now, "synced", b"{}")
    later = now + 2 * 3600 * 10**9
    monkeypatch.setattr("vedette.outbox.memory.now_ns", lambda: later)
    outbox.append(DOOR, later, "synced", b"{}")
    assert (row(outbox).dropped, row(outbox).waiting) == (20, 76)
    assert seqs(outbox.batch(9, 0)) == [96]
    assert row(outbox).dropped_ranges == (Dropped(1, 95, "too_old"),)


def test_accept_forgets_and_counts(make: Factory) -> None:
    outbox = make()
    put(outbox, 3)
    entries = outbox.batch(2, 0)
    outbox.accept([entries[1].key])
    assert row(outbox).acknowledged == 1
    assert row(outbox).waiting == 2
    assert outbox.depth().messages == 2
    outbox.accept(entry.key for entry in entries)
    assert row(outbox).acknowledged == 2


def test_a_key_that_is_not_in_flight_is_passed_over(make: Factory) -> None:
    outbox = make()
    put(outbox, 2)
    [first] = outbox.batch(1, 0)
    strangers = [Key(EPOCH, DOOR, 2), Key(EPOCH, DOOR, 99), Key(EPOCH, GATE, 1), Key(EPOCH - 1, DOOR, 1)]
    outbox.accept(strangers)
    outbox.reject(strangers, "no")
    assert row(outbox).waiting == 2
    outbox.accept([first.key, first.key])
    outbox.reject([first.key], "too late")
    assert (row(outbox).acknowledged, row(outbox).rejected) == (1, 0)


def test_reject_gets_out_of_the_way(make: Factory) -> None:
    outbox = make(max_messages=2)
    put(outbox, 2)
    [first] = outbox.batch(1, 0)
    outbox.reject([first.key], "broker: reason 0x87")
    assert row(outbox).rejected == 1
    assert seqs(outbox.batch(9, 0)) == [2]
    outbox.release()
    assert seqs(outbox.batch(9, 0)) == [2], "a rejected message does not come back"


def test_release_brings_everything_back_in_its_old_order(make: Factory) -> None:
    outbox = make()
    put(outbox, 5)
    outbox.batch(2, 0)
    entries = outbox.batch(2, 0)
    outbox.accept([entries[0].key])
    outbox.release()
    assert seqs(outbox.batch(9, 0)) == [1, 2, 4, 5]


def test_what_was_in_flight_when_the_connection_broke_is_replayed(make: Factory) -> None:
    outbox = make()
    put(outbox, 2)
    outbox.batch(1, 0)
    outbox.release()
    put(outbox, 1)
    entries = outbox.batch(9, 0)
    assert [outbox.is_replay(entry.key) for entry in entries] == [True, False, False]


def test_what_waits_as_the_connection_comes_up_is_replayed_and_the_rest_is_live(make: Factory) -> None:
    outbox = make()
    put(outbox, 2)
    outbox.mark_replay()
    put(outbox, 1)
    entries = outbox.batch(9, 0)
    assert [outbox.is_replay(entry.key) for entry in entries] == [True, True, False]
    outbox.accept(entry.key for entry in entries)
    assert not any(outbox.is_replay(entry.key) for entry in entries)


def test_the_rows_of_a_lost_epoch_are_shown(make: Factory) -> None:
    lost = LedgerRow(6, DOOR, 1, None, 0, 0, 0, 0, (), 0, lost_at_crash=None)
    outbox = make(lost=(lost,))
    put(outbox, 1)
    assert [r.epoch for r in outbox.ledger()] == [6, 7]
    assert outbox.ledger()[0] == lost


def test_only_so_many_dropped_ranges_are_named_but_all_are_counted(make: Factory) -> None:
    outbox = make(max_messages=1, when_full="drop_newest")
    for _ in range(MAX_RANGES + 5):
        put(outbox, 2)  # the first is kept, the second dropped: a range of its own
        outbox.accept(entry.key for entry in outbox.batch(1, 0))
    account = row(outbox)
    assert len(account.dropped_ranges) == MAX_RANGES
    assert account.ranges_cut == 5
    assert account.dropped == MAX_RANGES + 5
    assert account.dropped_ranges[-1].last == account.last


def test_nothing_is_appended_after_close_and_the_rest_can_still_be_delivered(make: Factory) -> None:
    outbox = make()
    put(outbox, 2)
    outbox.close()
    with pytest.raises(RuntimeError, match="close"):
        put(outbox, 1)
    outbox.accept(entry.key for entry in outbox.batch(9, 0))
    assert row(outbox).acknowledged == 2


def test_many_threads_lose_nothing(make: Factory) -> None:
    outbox = make(max_messages=HUGE)
    count = 500
    streams = [Stream(f"p{n}", "detections") for n in range(3)]
    writers = [threading.Thread(target=put, args=(outbox, count, stream)) for stream in streams]
    delivered: dict[Stream, list[int]] = defaultdict(list)
    done = threading.Event()

    def deliver() -> None:
        turns = itertools.count()
        while not (done.is_set() and outbox.depth().messages == 0):
            entries = outbox.batch(16, 0.01)
            if next(turns) % 7 == 3:
                outbox.release()
                continue
            for entry in entries:
                delivered[entry.key.stream].append(entry.key.seq)
            outbox.accept(entry.key for entry in entries)

    reader = threading.Thread(target=deliver)
    for thread in [reader, *writers]:
        thread.start()
    for thread in writers:
        thread.join(60)
    done.set()
    reader.join(60)
    assert not reader.is_alive()
    assert {stream: list(range(1, count + 1)) for stream in streams} == dict(delivered)
    assert all(row(outbox, stream).acknowledged == count for stream in streams)


MAX_MESSAGES = 6
MAX_BYTES = 8 * ENTRY_OVERHEAD
QUICK = (
    "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
)  # a sync costs nothing there; power cuts are tried elsewhere
FATES = ("acknowledged", "rejected", "dropped")


class OutboxMachine(RuleBasedStateMachine):
    """Two plain lists say what the outbox should hold; agents end and are killed on the way, where there is a disk."""

    durable: Durable
    when_full: WhenFull

    def __init__(self) -> None:
        super().__init__()
        self.temporary = TemporaryDirectory(dir=QUICK)
        self.folder = Path(self.temporary.name)
        self.epoch = EPOCH
        self.outbox = self.opened()
        self.waiting: list[tuple[Key, int]] = []
        self.in_flight: list[tuple[Key, int]] = []
        self.replay: set[Key] = set()
        self.last: dict[tuple[int, Stream], int] = {}
        self.gone: dict[str, dict[tuple[int, Stream], list[int]]] = {fate: defaultdict(list) for fate in FATES}
        self.given: set[Key] = set()
        self.base: dict[tuple[int, Stream], LedgerRow] = {}  # accounts as a crash has left them

    def opened(self) -> Outbox:
        return open_one(
            self.durable,
            self.folder,
            epoch=self.epoch,
            max_messages=MAX_MESSAGES,
            max_bytes=MAX_BYTES,
            when_full=self.when_full,
        )

    def teardown(self) -> None:
        self.outbox.end()
        self.temporary.cleanup()

    def _fits(self, size: int, kept: list[tuple[Key, int]]) -> bool:
        return len(kept) < MAX_MESSAGES and sum(s for _, s in kept) + size <= MAX_BYTES

    def _note(self, fate: str, key: Key) -> None:
        self.gone[fate][key.epoch, key.stream].append(key.seq)
        self.replay.discard(key)

    @rule(stream=st.sampled_from([DOOR, GATE]), length=st.sampled_from([2, 2, 2, 500, 1500, 5000]))
    def append(self, stream: Stream, length: int) -> None:
        key = self.outbox.append(stream, 0, "synced", b" " * length)
        seq = self.last[self.epoch, stream] = self.last.get((self.epoch, stream), 0) + 1
        own = Key(self.epoch, stream, seq)
        size = length + ENTRY_OVERHEAD
        evicted = 0
        if self.when_full == "drop_oldest" and self._fits(size, self.in_flight):
            while not self._fits(size, self.waiting[evicted:] + self.in_flight):
                evicted += 1
        for old, _ in self.waiting[:evicted]:
            self._note("dropped", old)
        self.waiting = self.waiting[evicted:]
        if self._fits(size, self.waiting + self.in_flight):
            assert key == own
            self.waiting.append((own, size))
            self.given.add(own)
        else:
            assert key is None
            self._note("dropped", own)

    @rule(limit=st.integers(0, 4))
    def batch(self, limit: int) -> None:
        got = [entry.key for entry in self.outbox.batch(limit, 0)]
        assert got == [key for key, _ in self.waiting[:limit]]
        self.in_flight += self.waiting[:limit]
        self.waiting = self.waiting[limit:]

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), fate=st.sampled_from(["acknowledged", "rejected"]))
    def settle(self, data: st.DataObject, fate: str) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.in_flight), unique=True))
        keys = [key for key, _ in chosen]
        if fate == "acknowledged":
            self.outbox.accept(keys)
        else:
            self.outbox.reject(keys, "no")
        for key in keys:
            self._note(fate, key)
        self.in_flight = [item for item in self.in_flight if item not in chosen]

    @rule()
    def release(self) -> None:
        self.outbox.release()
        self.replay |= {key for key, _ in self.in_flight}
        self.waiting = self.in_flight + self.waiting
        self.in_flight = []

    @rule()
    def connected(self) -> None:
        self.outbox.mark_replay()
        self.replay |= {key for key, _ in self.waiting}

    @precondition(lambda self: self.durable != "memory")
    @rule()
    def written(self) -> None:
        """A while passes, and the file is as it should be by then."""
        with self.outbox._writing:  # type: ignore[attr-defined]
            self.outbox._flush(everything=True)  # type: ignore[attr-defined]

    @precondition(lambda self: self.durable != "memory")
    @rule()
    def restarted(self) -> None:
        self.outbox.end()
        self.epoch += 1
        self.outbox = self.opened()
        self.waiting = self.in_flight + self.waiting
        self.in_flight = []
        self.replay = {key for key, _ in self.waiting}
        kept = {(key.epoch, key.stream) for key, _ in self.waiting}
        kept |= {account for account, row in self.base.items() if row.lost_at_crash}  # told again: who has heard it?
        for account in [account for account in self.last if account not in kept]:
            del self.last[account]  # settled, and nothing more is said of it

    @precondition(lambda self: self.durable != "memory")
    @rule()
    def killed(self) -> None:
        """The files as they are at this moment are all that is left, but for what the kernel had not written: nothing."""
        old, left = self.outbox, self.temporary
        self.temporary = TemporaryDirectory(dir=QUICK)
        with old._writing, old._changed:  # type: ignore[attr-defined]
            shutil.copytree(self.folder, self.temporary.name, dirs_exist_ok=True)
        old.end()
        left.cleanup()
        self.folder = Path(self.temporary.name)
        unsettled = [key for key, _ in self.in_flight + self.waiting]
        lasts = dict(self.last)
        self.epoch += 1
        self.outbox = self.opened()
        entries = self.outbox.batch(1000, 0)
        self.outbox.release()
        found = [entry.key for entry in entries]
        if self.durable == "always":
            assert set(unsettled) <= set(found), "what append has returned is on the disk"
        assert len(set(found)) == len(found) and set(found) <= self.given, "and nothing else"
        rows = {(r.epoch, r.stream): r for r in self.outbox.ledger()}
        missing = [key for key in unsettled if key not in found]
        assert {(key.epoch, key.stream) for key in missing} <= set(rows), "what is lost is told"
        for account, row in rows.items():
            assert row.balances
            assert row.last == lasts[account] or (self.durable == "always" and row.last <= lasts[account])
            lost = sum((key.epoch, key.stream) == account for key in missing)
            assert row.lost_at_crash == lost + ((self.base[account].lost_at_crash or 0) if account in self.base else 0)
        # what was acknowledged and not yet deleted is back, and the accounts count from there
        self.waiting = [(entry.key, entry.size) for entry in entries]
        self.in_flight = []
        self.replay = set(found)
        self.last = {account: row.last or 0 for account, row in rows.items()}
        self.base = rows
        for fate in FATES:
            self.gone[fate].clear()

    @invariant()
    def agrees(self) -> None:
        kept = self.waiting + self.in_flight
        depth = self.outbox.depth()
        assert (depth.messages, depth.bytes) == (len(kept), sum(size for _, size in kept))
        assert depth.messages <= MAX_MESSAGES and depth.bytes <= MAX_BYTES
        assert {key for key, _ in kept if self.outbox.is_replay(key)} == self.replay
        rows = {(r.epoch, r.stream): r for r in self.outbox.ledger()}
        assert set(rows) == set(self.last)
        for account, row in rows.items():
            assert row.balances
            assert row.last == self.last[account]
            assert row.waiting == sum((key.epoch, key.stream) == account for key, _ in kept)
            base = self.base.get(account)
            for fate in FATES:
                assert getattr(row, fate) == len(self.gone[fate][account]) + (getattr(base, fate) if base else 0)
            if base is None:
                named = [n for d in row.dropped_ranges for n in range(d.first, d.last + 1)]
                assert sorted(named) == sorted(self.gone["dropped"][account])


@pytest.mark.hypothesis
@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize(
    ("durable", "paged"),
    [("memory", False), ("spill", False), ("spill", True), ("always", False), ("always", True)],
    ids=["memory", "spill", "spill-paged", "always", "always-paged"],
)
def test_it_agrees_with_two_lists_whatever_happens(
    durable: Durable, paged: bool, when_full: WhenFull, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    if paged:
        monkeypatch.setattr("vedette.outbox.paged.RESIDENT_BYTES", 0)
        monkeypatch.setattr("vedette.outbox.paged.PAGE", 2)
    machine = type("Machine", (OutboxMachine,), {"durable": durable, "when_full": when_full})
    examples = settings().max_examples * 2 // (5 if durable == "memory" else 15)
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None))
