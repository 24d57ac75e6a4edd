"""Who runs when: shares by weight, order within a pipeline, bounds on what runs at once, and what a fault does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real import DEADLINE_S, wait_for

from vedette import clock
from vedette.contract.errors import EngineFaultError, FaultError
from vedette.contract.types import Tensor, TensorSpec
from vedette.engine.base import EngineDescription
from vedette.flow.lane import Lane, Seat, Turns, slots


class Work:
    """An engine whose inferences take as long as they are told to."""

    description = EngineDescription("work 1", "none", 1, "builtin")
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def allocate(self) -> tuple[list[Tensor], list[Tensor]]:
        return [], []

    def invoke(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, deadline_s: float | None = None) -> None:
        """Never called: the tests' runs do the work."""

    def close(self) -> None:
        """Nothing to give back."""


def spin(seconds: float) -> None:
    """Work, not sleep: what the lane accounts for is time in the engine."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@contextmanager
def lanes(*interpreters: int, slots: int = 64) -> Iterator[list[Lane]]:
    """A lane for each number of interpreters; all share ``slots``."""
    turns = Turns(slots)
    made = [Lane(f"m{n}", [Work() for _ in range(count)], turns) for n, count in enumerate(interpreters)]
    for lane in made:
        lane.start()
    try:
        yield made
    finally:
        for lane in made:
            lane.stop()


class Busy:
    """A pipeline that always has another inference waiting until it has had enough, or all have been told to stop."""

    def __init__(self, seat: Seat, seconds: float, stop: threading.Event, *, depth: int = 2) -> None:
        self.seat = seat
        self._seconds = seconds
        self._stop = stop
        self.depth = depth

    def begin(self) -> None:
        for _ in range(self.depth):
            self._next()

    def _next(self) -> None:
        self.seat.submit(
            lambda engine: spin(self._seconds), lambda fault: None if self._stop.is_set() else self._next()
        )


def shares(busy: Sequence[Busy], stop: threading.Event, inferences: int) -> list[float]:
    """The engine time each had, as a share of all, once together they did so many inferences."""
    for each in busy:
        each.begin()
    wait_for("the inferences", lambda: sum(b.seat.inferences for b in busy) >= inferences)
    engine_s = [b.seat.engine_s for b in busy]
    stop.set()
    return [s / sum(engine_s) for s in engine_s]


def test_equal_weights_get_equal_engine_time_whatever_an_inference_takes() -> None:
    stop = threading.Event()
    with lanes(1) as [lane]:
        found = shares([Busy(lane.seat(str(n)), s, stop) for n, s in enumerate((0.001, 0.002, 0.004))], stop, 300)
    assert found == pytest.approx([1 / 3] * 3, abs=0.05)


def test_twice_the_weight_is_twice_the_engine_time() -> None:
    stop = threading.Event()
    with lanes(1) as [lane]:
        found = shares([Busy(lane.seat(str(w), w), 0.001, stop) for w in (1.0, 2.0, 4.0)], stop, 400)
    assert found == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=0.05)


def test_a_pipeline_runs_as_many_abreast_as_its_seat_says_and_gets_no_more_than_its_share() -> None:
    stop, lock = threading.Event(), threading.Lock()
    running, most = Counter[str](), Counter[str]()

    class Counted(Busy):
        def _next(self) -> None:
            self.seat.submit(self._run, lambda fault: None if self._stop.is_set() else self._next())

        def _run(self, engine: object) -> None:
            name = self.seat.name
            with lock:
                running[name] += 1
                most[name] = max(most[name], running[name])
            time.sleep(0.002)  # the cores are not what is shared here
            with lock:
                running[name] -= 1

    with lanes(3, slots=3) as [lane]:
        wide, narrow = lane.seat("wide", abreast=2), lane.seat("narrow")
        assert lane.demand == 3
        found = shares([Counted(wide, 0.002, stop, depth=4), Counted(narrow, 0.002, stop, depth=4)], stop, 300)
    assert most == {"wide": 2, "narrow": 1}
    assert found == pytest.approx([2 / 3, 1 / 3], abs=0.1)
    stop = threading.Event()
    with lanes(2, slots=2) as [lane]:
        wide, narrow = lane.seat("wide", abreast=2), lane.seat("narrow")
        found = shares([Counted(wide, 0.002, stop, depth=4), Counted(narrow, 0.002, stop, depth=4)], stop, 300)
    assert found == pytest.approx([1 / 2, 1 / 2], abs=0.1), "two want three places, and weigh the same"


def test_weights_hold_across_models_that_share_a_core() -> None:
    stop = threading.Event()
    with lanes(1, 1, slots=1) as [one, other]:
        busy = [Busy(one.seat("a", 3.0), 0.001, stop), Busy(other.seat("b", 1.0), 0.002, stop)]
        found = shares(busy, stop, 300)
    assert found == pytest.approx([0.75, 0.25], abs=0.06)


def test_a_pipeline_that_was_idle_saves_up_nothing() -> None:
    stop = threading.Event()
    with lanes(1) as [lane]:
        early = Busy(lane.seat("early"), 0.001, stop)
        early.begin()
        wait_for("a head start", lambda: early.seat.inferences >= 100)
        late = Busy(lane.seat("late"), 0.001, stop)
        before_s = early.seat.engine_s
        late.begin()
        wait_for("the late one", lambda: late.seat.inferences >= 100)
        had_s, late_s = early.seat.engine_s - before_s, late.seat.engine_s
        stop.set()
    # engine time, for a busy machine may stretch any single inference
    assert 0.6 < had_s / late_s < 1.6, "it was not shut out until the late one had caught up"


@settings(max_examples=20, deadline=None)
@given(
    interpreters=st.integers(1, 3),
    limit=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
)
def test_every_pipeline_keeps_its_order_and_no_more_run_than_may(
    interpreters: int, limit: int, lengths: list[int]
) -> None:
    running: list[int] = []
    most = 0
    lock = threading.Lock()
    done: dict[int, list[int]] = {n: [] for n in range(len(lengths))}

    def run(pipeline: int) -> None:
        nonlocal most
        with lock:
            assert pipeline not in running, "a pipeline has one inference under way at most"
            running.append(pipeline)
            most = max(most, len(running))
        spin(0.0002)
        with lock:
            running.remove(pipeline)

    with lanes(interpreters, slots=limit) as [lane]:
        seats = [lane.seat(str(n)) for n in range(len(lengths))]
        for n, length in enumerate(lengths):
            for k in range(length):
                seats[n].submit(lambda engine, n=n: run(n), lambda fault, n=n, k=k: done[n].append(k))  # type: ignore[misc]
        wait_for("all of it", lambda: [len(d) for d in done.values()] == lengths)
    assert all(ks == sorted(ks) for ks in done.values())
    assert most <= min(interpreters, limit)


def told(seat: Seat, run: Callable[[], None]) -> FaultError | None:
    """What ``done`` is told."""
    faults: list[FaultError | None] = []
    seat.submit(lambda engine: run(), faults.append)
    wait_for("done", lambda: faults)
    return faults[0]


def test_a_fault_is_told_to_its_pipeline_and_the_lane_goes_on() -> None:
    fault = EngineFaultError("invoke failed", found="rubbish")

    def fail() -> None:
        raise fault

    def bug() -> None:
        raise ZeroDivisionError("a bug")

    with lanes(1) as [lane]:
        seat, other = lane.seat("a"), lane.seat("b")
        assert told(seat, fail) is fault
        found = told(seat, bug)
        assert found is not None and "ZeroDivisionError" in found.line()
        assert told(other, lambda: None) is None
        assert told(seat, lambda: None) is None


def test_a_hung_engine_makes_no_turns_and_an_idle_one_does() -> None:
    go_on = threading.Event()
    with lanes(2) as [lane]:
        first = lane.turned_ns
        wait_for("idle turns", lambda: lane.turned_ns > first)
        entered = threading.Event()

        def hang() -> None:
            entered.set()
            assert go_on.wait(DEADLINE_S)

        faults: list[FaultError | None] = []
        lane.seat("a").submit(lambda engine: hang(), faults.append)
        assert entered.wait(DEADLINE_S)
        begun = clock.now_ns()
        # the other interpreter's turns do not hide it
        wait_for("more than two idle turns", lambda: clock.now_ns() - begun > 1_200_000_000)
        assert lane.turned_ns < begun
        go_on.set()
        wait_for("done", lambda: faults)


def test_stopping_hands_back_what_waits() -> None:
    go_on = threading.Event()
    entered = threading.Event()
    faults: list[FaultError | None] = []
    with lanes(1) as [lane]:
        seat = lane.seat("a")

        def hang() -> None:
            entered.set()
            assert go_on.wait(DEADLINE_S)

        seat.submit(lambda engine: hang(), faults.append)
        assert entered.wait(DEADLINE_S)
        seat.submit(lambda engine: None, faults.append)
        lane.stop(0.01)
        go_on.set()
        wait_for("both", lambda: len(faults) == 2)
        seat.submit(lambda engine: None, faults.append)
    assert faults[0] is None
    assert all(fault is not None and "stopped" in fault.line() for fault in faults[1:])
    assert len(faults) == 3


def test_how_many_run_at_once() -> None:
    assert [slots(1, 4), slots(2, 4), slots(3, 4), slots(8, 4)] == [4, 2, 1, 1]
    assert slots(1) >= 1


def test_a_weight_must_be_one() -> None:
    with lanes(1) as [lane], pytest.raises(ValueError, match="weight"):
        lane.seat("a", 0.0)


class Named(Work):
    """An engine that says when it was let go."""

    def __init__(self, name: str, closed: list[str]) -> None:
        self.name = name
        self._closed = closed

    def close(self) -> None:
        self._closed.append(self.name)


def test_an_interpreter_comes_and_goes_while_work_goes_on() -> None:
    closed: list[str] = []
    lane = Lane("m", [Named("first", closed)], Turns(64))
    lane.start()
    stop = threading.Event()
    busy = [Busy(lane.seat(str(n)), 0.001, stop) for n in range(2)]
    for each in busy:
        each.begin()

    def at_work() -> set[str]:
        """Who does the next twenty inferences."""
        seen: set[str] = set()
        done: list[FaultError | None] = []
        for n in range(20):
            busy[n % 2].seat.submit(lambda engine: seen.add(engine.name), done.append)  # type: ignore[attr-defined]
        wait_for("twenty inferences", lambda: len(done) == 20)
        assert done == [None] * 20
        return seen

    for _ in range(3):
        lane.add(Named("second", closed))
        wait_for("both at work", lambda: at_work() == {"first", "second"})
        lane.trim(1)
        assert at_work() == {"first"}
        assert len(lane.engines) == 1
    assert closed == ["second"] * 3
    lane.trim(0)
    assert at_work() == {"first"}, "one stays"
    stop.set()
    lane.stop()
    lane.close()
    assert closed == ["second"] * 3 + ["first"]


def test_a_pipeline_that_left_has_no_place() -> None:
    with lanes(1) as [lane]:
        one, other = lane.seat("one"), lane.seat("other")
        assert lane.seats == 2
        lane.leave(one)
        assert lane.seats == 1
        done: list[FaultError | None] = []
        other.submit(lambda engine: None, done.append)
        wait_for("the other's inference", lambda: done == [None])


# the first interpreter, borrowed


def test_an_idle_lane_lends_its_interpreter_and_takes_no_work_meanwhile() -> None:
    with lanes(1) as [lane]:
        one, other = lane.seat("one"), lane.seat("other")
        ran_on: list[threading.Thread] = []
        faults: list[FaultError | None] = []

        def run(engine: object) -> None:
            assert engine is lane.engines[0]
            ran_on.append(threading.current_thread())
            other.submit(lambda engine: ran_on.append(threading.current_thread()), faults.append)
            assert not other.run_now(lambda engine: pytest.fail("two at one interpreter")), "it is lent"
            time.sleep(0.05)
            assert len(ran_on) == 1, "the lane's own thread waits until the interpreter is back"

        assert one.run_now(run)
        wait_for("the other's inference", lambda: faults == [None])
        assert ran_on[0] is threading.current_thread() and ran_on[1] is not ran_on[0]
        assert (one.inferences, other.inferences) == (1, 1) and one.engine_s >= 0.05


def test_a_lane_that_somebody_wants_lends_nothing() -> None:
    go_on, entered = threading.Event(), threading.Event()
    with lanes(2, slots=1) as [lane]:
        one, other = lane.seat("one"), lane.seat("other")

        def hang(engine: object) -> None:
            entered.set()
            assert go_on.wait(DEADLINE_S)

        faults: list[FaultError | None] = []
        one.submit(hang, faults.append)
        assert entered.wait(DEADLINE_S)
        assert not other.run_now(lambda engine: pytest.fail("somebody is at work"))
        go_on.set()
        wait_for("done", lambda: faults)
        assert other.run_now(lambda engine: None)
        lane.stop()
        assert not other.run_now(lambda engine: pytest.fail("it has been stopped"))


def test_where_all_cores_are_taken_nothing_is_lent() -> None:
    go_on, entered = threading.Event(), threading.Event()
    with lanes(1, 1, slots=1) as [lane, another]:
        seat = lane.seat("a")

        def hang(engine: object) -> None:
            entered.set()
            assert go_on.wait(DEADLINE_S)

        faults: list[FaultError | None] = []
        another.seat("b").submit(hang, faults.append)
        assert entered.wait(DEADLINE_S)
        assert not seat.run_now(lambda engine: pytest.fail("no core is free"))
        go_on.set()
        wait_for("done", lambda: faults)
        wait_for("a free core", lambda: seat.run_now(lambda engine: None))


def test_a_borrowers_fault_is_raised_and_the_interpreter_comes_back() -> None:
    fault = EngineFaultError("invoke failed", found="rubbish")

    def fail(engine: object) -> None:
        raise fault

    def bug(engine: object) -> None:
        raise ZeroDivisionError("a bug")

    with lanes(1) as [lane]:
        seat = lane.seat("a")
        with pytest.raises(EngineFaultError) as raised:
            seat.run_now(fail)
        assert raised.value is fault
        with pytest.raises(FaultError, match="a fault of ours"):
            seat.run_now(bug)
        assert seat.run_now(lambda engine: None) and told(seat, lambda: None) is None


def test_an_interpreter_that_is_lent_is_not_let_go() -> None:
    closed: list[str] = []
    lane = Lane("m", [Named("first", closed)], Turns(1))
    lane.start()
    go_on, entered = threading.Event(), threading.Event()

    def hang(engine: object) -> None:
        entered.set()
        assert go_on.wait(DEADLINE_S)

    borrower = threading.Thread(target=lane.seat("a").run_now, args=(hang,))
    borrower.start()
    assert entered.wait(DEADLINE_S)
    lane.stop()
    lane.close()
    assert closed == []
    go_on.set()
    borrower.join(DEADLINE_S)
