"""One monotonic clock, and what the wall clock makes of it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette import clock, timedate
from vedette.clock import ASK_S, SLEW, STEP_NS, STEPPED_S, ClockState, ClockWatch

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
SECOND = 1_000_000_000


def unix_us(text: str) -> int:
    """Microseconds since 1970."""
    assert RFC3339.fullmatch(text), text
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def test_the_moment_itself_is_between_before_and_after() -> None:
    before = time.time_ns()
    rendered = clock.wall_time(clock.now_ns())
    after = time.time_ns()
    slack_us = 1000  # two clocks are read one after the other
    assert before // 1000 - slack_us <= unix_us(rendered) <= after // 1000 + slack_us


@pytest.mark.parametrize("age_s", [1, 60, 86400])
def test_an_older_capture_is_dated_back_by_its_age(age_s: int) -> None:
    now = clock.now_ns()
    difference = unix_us(clock.wall_time(now)) - unix_us(clock.wall_time(now - age_s * SECOND))
    assert abs(difference - age_s * 1_000_000) < 500_000


def test_it_follows_the_wall_clock_when_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = clock.now_ns()
    before = unix_us(clock.wall_time(captured))
    true_time = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: true_time() + 3600 * SECOND)
    after = unix_us(clock.wall_time(captured))
    assert abs(after - before - 3_600_000_000) < 500_000


@given(st.integers(0, 4_000_000_000 * SECOND))
def test_rfc_3339_with_microseconds_cut_not_rounded(unix_ns: int) -> None:
    text = clock.rfc3339(unix_ns)
    assert RFC3339.fullmatch(text)
    assert unix_us(text) == unix_ns // 1000
    assert datetime.fromisoformat(text).tzinfo == UTC


def test_a_known_moment() -> None:
    assert clock.rfc3339(1_795_357_445_123_456_789) == "2026-11-22T14:24:05.123456Z"
    assert clock.rfc3339(0) == "1970-01-01T00:00:00.000000Z"


def test_the_monotonic_clock_never_goes_back() -> None:
    readings = [clock.now_ns() for _ in range(1000)]
    assert readings == sorted(readings)


def test_the_clocks_state_is_known_or_unknown_and_never_an_error() -> None:
    assert clock.clock_state() in ("synced", "unsynced")


class Forbidden:
    """The C library in a sandbox."""

    @staticmethod
    def adjtimex(_: object) -> int:
        return -1


@pytest.mark.parametrize(("said", "expected"), [(True, "synced"), (False, "unsynced"), (None, "unsynced")])
def test_where_the_kernel_may_not_be_asked_timedated_is(
    monkeypatch: pytest.MonkeyPatch, said: bool | None, expected: str
) -> None:
    monkeypatch.setattr(clock.ctypes, "CDLL", lambda *_, **__: Forbidden())
    monkeypatch.setattr(timedate, "ntp_synchronized", lambda: said)
    assert clock.clock_state() == expected


@pytest.mark.parametrize(
    ("answer", "status", "max_error_us", "expected"),
    [
        (0, 0x2001, 1_500, "synced"),
        (0, 0x2001, 15_999_999, "synced"),
        (5, 0x40, 16_000_000, "unsynced"),
        (5, 0x40, 3_000, "synced"),  # chrony without rtcsync: disciplined, and keeps the kernel from the hardware clock
        (1, 0, 0, "synced"),  # a leap second is near
    ],
)
def test_the_kernels_answer_is_read_from_the_right_place(
    monkeypatch: pytest.MonkeyPatch, answer: int, status: int, max_error_us: int, expected: str
) -> None:
    class Timex(clock.ctypes.Structure):
        # the head of struct timex as <sys/timex.h> declares it
        _fields_ = (
            ("modes", clock.ctypes.c_uint),
            ("offset", clock.ctypes.c_long),
            ("freq", clock.ctypes.c_long),
            ("maxerror", clock.ctypes.c_long),
            ("esterror", clock.ctypes.c_long),
            ("status", clock.ctypes.c_int),
        )

    class Kernel:
        @staticmethod
        def adjtimex(buffer: clock.ctypes.Array[clock.ctypes.c_char]) -> int:
            timex = Timex.from_buffer(buffer)
            assert timex.modes == 0, "asks, and sets nothing"
            timex.status = status
            timex.maxerror = max_error_us
            return answer

    monkeypatch.setattr(clock.ctypes, "CDLL", lambda *_, **__: Kernel())
    assert clock.clock_state() == expected


def test_the_boot_id_is_the_kernels() -> None:
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", clock.boot_id())


class Watched:
    """A `ClockWatch` whose clocks and kernel a test moves."""

    def __init__(self, state: ClockState = "synced") -> None:
        self.state = state
        self.mono_ns = 5_000_000_000_000
        self.ahead_ns = 1_795_000_000_000_000_000
        self.watch = ClockWatch(lambda: self.state, lambda: self.mono_ns + self.ahead_ns, lambda: self.mono_ns)

    def after(self, seconds: float, *, ahead_s: float = 0.0) -> int:
        """So much later, with the wall clock moved beside that."""
        self.mono_ns += int(seconds * SECOND)
        self.ahead_ns += int(ahead_s * SECOND)
        return self.watch.refresh()


@given(st.lists(st.tuples(st.floats(0.01, 30.0), st.floats(-1.0, 1.0)), max_size=20))
def test_slewing_is_no_step(times: Sequence[tuple[float, float]]) -> None:
    watched = Watched()
    for seconds, share in times:
        assert watched.after(seconds, ahead_s=SLEW * share * seconds) == 0
        assert watched.watch() == "synced"


@given(st.floats(0.01, 5.0), st.floats(1.0, 1e8), st.booleans())
def test_a_step_is_noticed_once_and_to_its_size(seconds: float, by_s: float, back: bool) -> None:
    watched = Watched()
    watched.after(1.0)
    step_ns = watched.after(seconds, ahead_s=-by_s if back else by_s)
    assert step_ns == int((-by_s if back else by_s) * SECOND)
    assert watched.watch() == "stepped"
    assert watched.after(seconds) == 0


@pytest.mark.parametrize("part", [0.9, -0.9])
def test_the_bound_of_a_step(part: float) -> None:
    watched = Watched()
    assert watched.after(0.0, ahead_s=part * STEP_NS / SECOND) == 0
    assert watched.after(0.0, ahead_s=1.2 * part * STEP_NS / SECOND) != 0


def test_a_step_is_the_clocks_state_for_a_minute() -> None:
    watched = Watched()
    watched.after(1.0, ahead_s=-3600.0)
    assert watched.watch() == "stepped"
    watched.after(STEPPED_S / 2, ahead_s=10.0)
    watched.after(STEPPED_S - 1.0)
    assert watched.watch() == "stepped", "it was set again meanwhile"
    watched.after(2.0)
    assert watched.watch() == "synced"


def test_a_clock_that_nobody_vouches_for_stays_so_when_it_is_set() -> None:
    watched = Watched("unsynced")
    assert watched.after(1.0, ahead_s=86400.0) == 86400 * SECOND
    assert watched.watch() == "unsynced"
    watched.state = "synced"
    watched.after(1.0)
    assert watched.watch() == "stepped", "what was sent before had another clock's times"


def test_an_answer_is_believed_for_a_while_and_asked_for_anew_when_the_clock_is_set() -> None:
    watched = Watched()
    asked = 0

    def look() -> ClockState:
        nonlocal asked
        asked += 1
        return watched.state

    watched.watch = ClockWatch(look, lambda: watched.mono_ns + watched.ahead_ns, lambda: watched.mono_ns, ask_s=ASK_S)
    watched.state = "unsynced"
    watched.after(ASK_S - 1.0)
    assert (asked, watched.watch()) == (1, "synced")
    watched.after(1.0)
    assert (asked, watched.watch()) == (2, "unsynced")
    watched.state = "synced"
    watched.after(1.0, ahead_s=3600.0)
    assert (asked, watched.watch()) == (3, "stepped")


def test_a_thread_that_waits_between_two_readings_sees_no_step() -> None:
    """One reading in three is delayed by more than a step."""
    pauses = iter([0, 0, 0, *[0, 900_000_000, 0] * 50])
    mono_ns = 0

    def mono() -> int:
        return mono_ns

    def wall() -> int:
        nonlocal mono_ns
        at = mono_ns
        mono_ns += next(pauses)
        return at

    watch = ClockWatch(lambda: "synced", wall, mono)
    assert [watch.refresh() for _ in range(20)] == [0] * 20


def test_a_step_in_words() -> None:
    assert clock.step_in_words(3_600_000_000_000) == "the clock was set forward by 3600.0 s"
    assert clock.step_in_words(-1_500_000_000) == "the clock was set back by 1.5 s"
