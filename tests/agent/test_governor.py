"""Less often while it is too hot or too late, by the stated rule, and back: the rule, the board, the cameras, an agent."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real import BrokerAddress, Subscriber, agent_config, no_descriptors, wait_for, write_pictures
from test_monitor import stats

from vedette import clock
from vedette.contract.types import Frame
from vedette.flow.feed import FrameFeed
from vedette.flow.governor import (
    Governor,
    GovernorOptions,
    Heat,
    Pressure,
    Share,
    Want,
    divide,
    least_share,
)
from vedette.flow.stats import PipelineStats
from vedette.monitor import screen
from vedette.monitor.fleet import Fleet
from vedette.monitor.lines import line
from vedette.monitor.place import Place
from vedette.mqtt.inbox import Incoming
from vedette.mqtt.payloads import LoadInfo
from vedette.service.heat import MARGIN, PI_CELSIUS, Thermometer
from vedette.sources import Outcome, Slot, SourceStatus

OPTIONS = GovernorOptions()
WELL, HOT = Heat(60.0, 80.0), Heat(84.0, 80.0)

options = st.builds(
    GovernorOptions,
    decrease=st.floats(0.1, 0.95), increase=st.floats(0.01, 1.0), step_s=st.floats(0.5, 60.0),
)  # fmt: skip
pressures = st.lists(st.tuples(st.sampled_from(["low", "steady", "high"]), st.integers(1, 40)), max_size=12)
leasts = st.floats(0.01, 1.0)


def walk(options: GovernorOptions, course: Sequence[tuple[Any, int]], least: float) -> Iterator[tuple[float, float]]:
    """Time and share, each second."""
    share, now = Share(options, 0.0), 0.0
    for pressure, seconds in course:
        for _ in range(seconds):
            now += 1.0
            share.turn(now, pressure, least)
            yield now, share.value


@given(options, pressures, leasts)
def test_the_share_stays_between_its_floor_and_all(
    options: GovernorOptions, course: list[tuple[Pressure, int]], least: float
) -> None:
    assert all(least <= value <= 1.0 for _, value in walk(options, course, least))


@given(options, pressures, leasts)
def test_no_two_changes_are_closer_than_a_step(
    options: GovernorOptions, course: list[tuple[Pressure, int]], least: float
) -> None:
    before, changes = 1.0, [0.0]
    for now, value in walk(options, course, least):
        if value != before:
            changes.append(now)
        before = value
    assert all(later - earlier >= options.step_s for earlier, later in pairwise(changes))


@given(options, leasts)
def test_lasting_heat_lowers_it_to_the_floor_and_never_raises_it(options: GovernorOptions, least: float) -> None:
    steps = int(np.log(least) / np.log(options.decrease)) + 2
    values = [value for _, value in walk(options, [("high", int((steps + 1) * (options.step_s + 1)))], least)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == least


@given(options, pressures, leasts)
def test_it_comes_back_fully_within_a_bounded_time(
    options: GovernorOptions, course: list[tuple[Pressure, int]], least: float
) -> None:
    seconds = int((1 / options.increase + 2) * (options.step_s + 1)) + 1
    *_, (_, value) = walk(options, [*course, ("low", seconds)], least)
    assert value == 1.0


@given(options, pressures, leasts)
def test_it_rises_only_after_a_step_of_low_pressure_and_falls_only_under_high(
    options: GovernorOptions, course: list[tuple[Pressure, int]], least: float
) -> None:
    felt = [pressure for pressure, seconds in course for _ in range(seconds)]
    before = 1.0
    for now, value in walk(options, course, least):
        lately = felt[max(0, int(np.floor(now - options.step_s))) : int(now)]
        assert value <= before or set(lately) == {"low"}
        assert value >= before or lately[-1] == "high"
        before = value


def test_between_hot_and_cool_nothing_changes() -> None:
    *_, (_, low) = walk(OPTIONS, [("high", 25)], 0.1)
    *_, (_, held) = walk(OPTIONS, [("high", 25), ("steady", 500)], 0.1)
    assert held == low == pytest.approx(OPTIONS.decrease**2)


wants = st.dictionaries(
    st.sampled_from("abcde"),
    st.builds(Want, fps=st.floats(0.1, 100.0), cost_s=st.floats(0.001, 1.0), weight=st.floats(0.01, 100.0)),
    min_size=1,
)
shares = st.floats(0.01, 1.0)
floors = st.floats(0.01, 20.0)


def seconds(rates: dict[str, float], wants: dict[str, Want]) -> float:
    return sum(rate * wants[name].cost_s for name, rate in rates.items())


@given(shares, wants, floors)
def test_nobody_falls_below_the_floor_or_gets_more_than_wanted(
    share: float, wants: dict[str, Want], floor: float
) -> None:
    for name, rate in divide(share, wants, floor).items():
        assert rate <= wants[name].fps
        assert rate >= min(floor, wants[name].fps) * (1 - 1e-9) > 0.0


@given(shares, wants, floors)
def test_the_share_is_used_up_and_no_more(share: float, wants: dict[str, Want], floor: float) -> None:
    full = {name: want.fps for name, want in wants.items()}
    meant = max(share, least_share(wants, floor)) * seconds(full, wants)
    assert seconds(divide(share, wants, floor), wants) == pytest.approx(meant)


@given(shares, shares, wants, floors)
def test_a_smaller_share_gives_nobody_more(a: float, b: float, wants: dict[str, Want], floor: float) -> None:
    less, more = divide(min(a, b), wants, floor), divide(max(a, b), wants, floor)
    assert all(less[name] <= more[name] * (1 + 1e-9) for name in wants)


@given(shares, wants)
def test_who_is_held_back_gets_time_by_weight_and_who_wants_less_gets_it(share: float, wants: dict[str, Want]) -> None:
    floor = 1e-9
    rates = divide(share, wants, floor)
    by_weight = {name: rate * wants[name].cost_s / wants[name].weight for name, rate in rates.items()}
    held = [by_weight[name] for name, rate in rates.items() if rate < wants[name].fps * (1 - 1e-6)]
    # what each has before the rest is divided
    floors = max(floor * want.cost_s / want.weight for want in wants.values())
    assert not held or max(held) - min(held) <= max(held) * 1e-4 + floors
    assert not held or all(level <= max(held) * (1 + 1e-4) + floors for level in by_weight.values())


def test_two_cameras_of_weight_2_and_1() -> None:
    wants = {"gate": Want(10.0, 0.02, 2.0), "yard": Want(10.0, 0.02, 1.0)}
    rates = divide(0.5, wants, 1.0)
    # 1 each, and of the 8 that are left two thirds and one third
    assert rates == pytest.approx({"gate": 1 + 16 / 3, "yard": 1 + 8 / 3})


@dataclass
class Grabbed:
    """What a `FrameFeed` asks of its grabber."""

    live: bool = True
    slot: Slot = field(default_factory=Slot)
    frames: int = 0
    outcome: Outcome | None = None

    def status(self) -> SourceStatus:
        return SourceStatus(self.frames, self.slot.stale, 0, self.outcome, "")

    def not_before(self, reason: str, at_ns: int) -> None:
        """Every frame is made a picture here."""

    def passed(self, reason: str) -> int:
        return 0


PIXELS = np.zeros((2, 2, 3), np.uint8)


class Camera:
    """A pipeline as the governor sees it, on simulated time: what its feed gives is inferred at once."""

    def __init__(
        self, name: str = "door", fps: float = 10.0, *, weight: float = 1.0, deadline_ms: float = 0.0, live: bool = True
    ) -> None:
        self.name = name
        self.fps = fps
        self.grabbed = Grabbed(live)
        self.feed: Any = FrameFeed(self.grabbed)  # type: ignore[arg-type]
        self.seat = SimpleNamespace(weight=weight, engine_s=0.0, inferences=0)
        self.stats = PipelineStats(0, deadline_ms)
        self.enabled = threading.Event()
        self.enabled.set()
        self.latency_ms: Callable[[], float] = lambda: 20.0
        self._due = 0.0

    def count_passed(self) -> None:
        """Nothing is let go here."""

    def second(self, begun_ns: int, set_clock: Callable[[int], None]) -> int:
        """A second's frames. How many were inferred."""
        before = self.seat.inferences
        for number in range(int(self.fps)):
            now = begun_ns + int(number * 1e9 / self.fps)
            set_clock(now)
            self.grabbed.frames += 1
            self.grabbed.slot.put(Frame(self.grabbed.frames, now, 0, PIXELS), wait=False)
            if self.feed.take(0.0) is not None:
                self.seat.inferences += 1
                self.seat.engine_s += 0.02
                self.stats.inferred({"total": self.latency_ms()})
        return int(self.seat.inferences - before)


class Site:
    """Cameras under a governor, second by second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *pipelines: Any, options: GovernorOptions = OPTIONS) -> None:
        self.now_ns = 0
        monkeypatch.setattr(clock, "now_ns", lambda: self.now_ns)
        self.heat = WELL
        self.pipelines = list(pipelines)
        self.governor = Governor(options, lambda: self.heat, {}, 0)
        self.inferred: list[int] = []
        """By the first camera, in each second."""

    def run(self, seconds: int, heat: Heat | Callable[[], Heat] | None = None) -> list[int]:
        """What the first camera inferred in each of them."""
        for _ in range(seconds):
            begun = self.now_ns
            counts = [p.second(begun, self._set) for p in self.pipelines if isinstance(p, Camera)]
            self.now_ns = begun + 1_000_000_000
            if heat is not None:
                self.heat = heat if isinstance(heat, Heat) else heat()
            self.governor.turn(self.now_ns, self.pipelines)
            self.inferred.append(counts[0])
        return self.inferred[-seconds:]

    def _set(self, now_ns: int) -> None:
        self.now_ns = now_ns

    @property
    def said(self) -> list[str]:
        return list(self.governor.problems().values())


def test_a_board_that_is_well_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Camera())
    assert set(site.run(120)) == {10}
    assert site.said == []
    assert site.pipelines[0].feed.cap_fps is None
    assert site.pipelines[0].feed.slowed == 0


def test_heat_lowers_the_rate_says_so_and_it_comes_back_by_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    door = Camera()
    site = Site(monkeypatch, door)
    site.run(30)
    site.run(1, HOT)
    assert site.said == ["door: 7.0 of 10.0 frames/s, for the board is at 84.0 °C, limit 80 °C"]
    assert sum(site.run(10)) in (70, 71)
    rates = site.run(100)
    assert sum(rates[-10:]) == 10, "the floor, and never zero"
    assert site.said == ["door: 1.0 of 10.0 frames/s, for the board is at 84.0 °C, limit 80 °C"]
    back = site.run(250, WELL)
    assert set(back[-10:]) == {10}
    assert site.said == []
    frames = door.grabbed.frames
    assert frames == door.seat.inferences + door.feed.slowed, "nothing dropped uncounted"
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(",")[0] for line in lines] == [
        "door: 7.0 of 10.0 frames/s", "door: 4.9 of 10.0 frames/s", "door: 2.4 of 10.0 frames/s",
        "door: 1.2 of 10.0 frames/s", "cameras are looked at as often as before",
    ]  # fmt: skip


def test_the_key_changes_when_a_rate_has_halved_and_not_on_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Camera())
    site.run(30)
    keys: list[str] = []
    for heat in (HOT, WELL):
        for _ in range(250):
            site.run(1, heat)
            found = list(site.governor.problems())
            keys += [key for key in found if not keys or key != keys[-1]]
    assert keys == ["slowed door 0", "slowed door 1", "slowed door 2", "slowed door 3"]
    assert site.said == []


def test_within_the_hysteresis_the_rate_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Camera())
    site.run(30)
    site.run(11, HOT)
    cap = site.pipelines[0].feed.cap_fps
    site.run(300, Heat(75.5, 80.0))
    assert site.pipelines[0].feed.cap_fps == cap
    site.run(300, Heat(74.5, 80.0))
    assert site.pipelines[0].feed.cap_fps is None


def test_a_board_that_is_getting_cooler_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Camera())
    site.run(30)
    celsius = iter(np.arange(90.0, 80.0, -0.1))
    site.run(95, lambda: Heat(float(next(celsius)), 80.0))
    assert site.pipelines[0].feed.cap_fps == pytest.approx(7.0)


def test_a_closed_loop_settles_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board as a resistance and a capacity: 40 °C around it, 60 more at full load, in two minutes most of it."""
    site = Site(monkeypatch, Camera(fps=30.0))
    celsius = 40.0
    around = 40.0

    def warmed() -> Heat:
        nonlocal celsius
        load = site.inferred[-1] / 30.0 if site.inferred else 0.0
        celsius += (around + 60.0 * load - celsius) / 120.0
        return Heat(celsius, 80.0)

    hottest = 0.0
    for _ in range(900):
        site.run(1, warmed)
        hottest = max(hottest, celsius)
    assert hottest < 82.0
    course = []
    for _ in range(1800):
        site.run(1, warmed)
        course.append(celsius)
    assert min(course) > 72.0
    assert max(course) < 81.0
    assert min(site.inferred[-1800:]) > 5, "far from the floor: 20 of 30 frames are what the board bears"
    around = 10.0
    site.run(600, warmed)
    assert set(site.inferred[-60:]) == {30}


def test_firmware_that_slows_the_board_down_counts_whatever_the_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Camera())
    site.run(30)
    site.run(11, Heat(62.0, 80.0, "under-voltage, throttled"))
    assert site.said == [
        "door: 4.9 of 10.0 frames/s, for the board is slowed down by its firmware (under-voltage, throttled; 62.0 °C)"
    ]
    site.run(1, Heat(62.0, 80.0))
    assert "for the board was slowed down" in site.said[0]
    site.run(30, Heat(slowed="throttled"))
    assert "for the board is slowed down by its firmware (throttled)" in site.said[0]


def test_results_that_come_too_late_lower_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    door, yard = Camera("door", deadline_ms=100.0), Camera("yard")
    site = Site(monkeypatch, door, yard)
    site.run(30)
    door.latency_ms = lambda: 150.0
    site.run(2)
    why = "of 10.0 frames/s, for 20% of the results of door are later than 100 ms"
    assert site.said == [f"door: 7.0 {why}", f"yard: 7.0 {why}"], "all cameras give way, by weight"
    door.latency_ms = lambda: 50.0
    site.run(10)
    assert door.feed.cap_fps == pytest.approx(7.5), "what came late under the other rate does not count again"
    site.run(80)
    assert site.said == []


def test_a_few_late_results_are_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Camera(deadline_ms=100.0)
    site = Site(monkeypatch, door)
    door.latency_ms = lambda: 150.0 if door.seat.inferences % 20 == 0 else 50.0
    site.run(200)
    assert site.said == []
    assert door.stats.late == 100


def test_a_sensor_is_never_held_back_and_makes_cameras_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Camera()
    pump = Camera("pump", deadline_ms=10.0)
    pump.feed = SimpleNamespace(live=True, closed=False, status=pump.grabbed.status, take=lambda _: object())
    site = Site(monkeypatch, door, pump)
    site.run(30, HOT)
    assert [line.partition(":")[0] for line in site.said] == ["door"]
    assert "and 100% of the results of pump are later than 10 ms" in site.said[0]
    assert pump.seat.inferences == 300


def test_a_file_read_flat_out_has_neither_rate_nor_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Camera(live=False, deadline_ms=1.0)
    site = Site(monkeypatch, clip)
    site.run(100, HOT)
    assert (site.said, clip.feed.cap_fps, clip.feed.slowed, clip.seat.inferences) == ([], None, 0, 1000)


def test_a_file_read_flat_out_slows_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Camera(), Camera("clip", live=False, deadline_ms=1.0))
    site.run(100)
    assert site.said == []


def test_a_pipeline_that_is_off_has_no_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    door, yard = Camera("door"), Camera("yard")
    site = Site(monkeypatch, door, yard)
    site.run(30)
    yard.enabled.clear()
    site.run(1, HOT)
    assert site.said == ["door: 7.0 of 10.0 frames/s, for the board is at 84.0 °C, limit 80 °C"]


def test_a_camera_that_was_away_is_held_back_from_what_it_had_before(monkeypatch: pytest.MonkeyPatch) -> None:
    door, yard = Camera("door"), Camera("yard")
    site = Site(monkeypatch, door, yard)
    site.run(30)
    yard.fps, yard.grabbed.outcome = 0.0, Outcome.LOST
    site.run(20)
    site.run(2, HOT)
    yard.fps, yard.grabbed.outcome = 10.0, None
    site.run(120)
    assert site.said == [
        f"{name}: 1.0 of 10.0 frames/s, for the board is at 84.0 °C, limit 80 °C" for name in ("door", "yard")
    ]


def test_the_time_in_which_a_camera_is_opened_is_none_of_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Camera(fps=0.0)
    site = Site(monkeypatch, door)
    site.run(7, HOT)
    door.fps = 10.0
    site.run(100)
    assert site.said == ["door: 1.0 of 10.0 frames/s, for the board is at 84.0 °C, limit 80 °C"]


def test_the_heavier_pipeline_gives_less(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Camera("gate", weight=4.0), Camera("yard", weight=1.0))
    site.run(30)
    site.run(1, HOT)
    gate, yard = (pipeline.feed.cap_fps for pipeline in site.pipelines)
    assert gate is None, "of 14 frames a second it may have all that it wants"
    assert yard == pytest.approx(4.0)


def test_a_cap_that_is_lifted_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    monkeypatch.setattr(clock, "now_ns", lambda: now[0])
    door = Camera()
    door.feed.limit(0.01)
    assert sum(door.second(number * 10**9, lambda ns: now.__setitem__(0, ns)) for number in range(99)) == 1
    door.feed.limit(0.0)
    assert door.second(99 * 10**9, lambda ns: now.__setitem__(0, ns)) == 10


def test_not_wanted_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Camera(), options=GovernorOptions(enabled=False))
    assert set(site.run(100, HOT)) == {10}


def test_a_camera_slower_than_the_floor_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, Camera(fps=2.0), options=GovernorOptions(min_fps=5.0))
    assert set(site.run(100, HOT)) == {2}
    assert site.said == []


TRIPS = {
    "trip_point_0_type": "critical", "trip_point_0_temp": "110000",
    "trip_point_1_type": "passive", "trip_point_1_temp": "85000",
    "trip_point_2_type": "passive", "trip_point_2_temp": "75000",
    "trip_point_3_type": "active", "trip_point_3_temp": "50000",
    "trip_point_4_type": "passive", "trip_point_4_temp": "0",
}  # fmt: skip
PI = {"proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0"}
ZONE = "sys/class/thermal/thermal_zone0"
PI_4_BITS = "sys/devices/platform/soc/soc:firmware/get_throttled"
PI_5_BITS = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"


def board(folder: Path, files: dict[str, str]) -> Path:
    """A folder laid out like a device's /proc and /sys."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "max_celsius", "heat"),
    [
        ({**PI, f"{ZONE}/temp": "61250"}, 0.0, Heat(61.25, PI_CELSIUS)),
        ({f"{ZONE}/temp": "61250\n", **{f"{ZONE}/{k}": v for k, v in TRIPS.items()}}, 0.0, Heat(61.25, 75.0 - MARGIN)),
        ({f"{ZONE}/temp": "61250"}, 0.0, Heat()),
        ({f"{ZONE}/temp": "61250"}, 70.0, Heat(61.25, 70.0)),
        ({**PI, f"{ZONE}/temp": "61250", "sys/class/thermal/thermal_zone1/temp": "70500"}, 0.0, Heat(70.5, 80.0)),
        ({**PI, f"{ZONE}/temp": "no", "sys/class/thermal/thermal_zone1/temp": ""}, 0.0, Heat()),
        ({**PI, PI_4_BITS: "50005"}, 0.0, Heat(slowed="under-voltage, throttled")),
        ({**PI, PI_5_BITS: "2"}, 0.0, Heat(slowed="frequency capped")),
        ({**PI, PI_4_BITS: "80008"}, 0.0, Heat()),
        ({**PI, PI_4_BITS: "10001"}, 0.0, Heat()),
        ({**PI, PI_4_BITS: "f0000"}, 0.0, Heat()),
        ({**PI, PI_4_BITS: "?"}, 0.0, Heat()),
        ({f"{ZONE}/temp": "9" * 400, f"{ZONE}/trip_point_0_type": "passive", f"{ZONE}/trip_point_0_temp": "9" * 400,
          **PI}, 0.0, Heat()),
        ({}, 0.0, Heat()),
    ],
    ids=[
        "a Pi", "a kernel that cools passively", "nobody says", "configured", "the hottest", "zones that are off",
        "now", "a Pi 5", "the soft limit", "under-voltage alone", "since boot", "rubbish", "beyond numbers",
        "nothing",
    ],
)  # fmt: skip
def test_what_a_board_says_of_its_heat(tmp_path: Path, files: dict[str, str], max_celsius: float, heat: Heat) -> None:
    assert Thermometer(max_celsius, board(tmp_path, files)).read() == heat


def test_a_board_that_cannot_be_looked_at_says_nothing(tmp_path: Path) -> None:
    root = board(tmp_path, {**PI, f"{ZONE}/temp": "61250", f"{ZONE}/trip_point_0_type": "passive", PI_4_BITS: "2"})
    with no_descriptors():
        assert Thermometer(root=root).read() == Heat()
    assert Thermometer(root=root).read() == Heat(61.25, PI_CELSIUS, "frequency capped")


def test_each_zone_is_beside_its_own_limit(tmp_path: Path) -> None:
    files = {
        f"{ZONE}/temp": "70000", f"{ZONE}/trip_point_0_type": "passive", f"{ZONE}/trip_point_0_temp": "95000",
        "sys/class/thermal/thermal_zone1/temp": "58000",
        "sys/class/thermal/thermal_zone1/trip_point_0_type": "passive",
        "sys/class/thermal/thermal_zone1/trip_point_0_temp": "60000",
    }  # fmt: skip
    assert Thermometer(root=board(tmp_path, files)).read() == Heat(58.0, 57.0)


def test_top_and_watch_show_the_rate() -> None:
    said = stats({"slowed": 9}, load=LoadInfo(1.0, 0.4, cap_fps=4.9))
    assert "share 40%, slowed to 4.9/s, " in line(Place("eye", "door", "stats"), said, retained=False).plain
    fleet = Fleet("vedette")
    fleet.heard(Incoming("vedette/eye/door/stats", said))
    shown = [row.plain for row in screen.lines(fleet, "", width=120, height=None)]
    assert any("share 40%  slowed to 4.9/s  dropped slowed 9" in row for row in shown)


AGENT = """
import logging
import sys
from pathlib import Path

from vedette.config import load_config
from vedette.monitor import screen
from vedette.monitor.fleet import Fleet
from vedette.monitor.lines import line
from vedette.monitor.place import Place
from vedette.mqtt.inbox import Incoming
from vedette.mqtt.payloads import LoadInfo
from vedette.service.heat import Thermometer
from vedette.service.service import Service

logging.basicConfig(level=logging.INFO)
path, root = map(Path, sys.argv[1:])
config = load_config(path)
thermometer = Thermometer(config.governor.max_celsius, root)
raise SystemExit(Service(config, path, thermometer.read).run())
"""
GOVERNOR = "[governor]\nstep_s = 1.0\ndecrease = 0.5\nincrease = 0.5\nmin_fps = 2.0\n"


def write(file: Path, text: str) -> None:
    """In one piece, for it may be read at any time."""
    new = file.with_name("new")
    new.write_text(text)
    new.replace(file)


@pytest.fixture
def hot_agent(tmp_path: Path, broker: BrokerAddress) -> Iterator[Callable[[str], tuple[Path, Path, Subscriber]]]:
    """Starts an agent with a camera of 20 frames a second on a folder laid out like a Raspberry Pi's /proc and /sys. The
    pipeline's options -> the file of its temperature, its log, a subscriber."""
    with ExitStack() as stack:

        def start(pipeline: str) -> tuple[Path, Path, Subscriber]:
            root = board(tmp_path / "board", {**PI, f"{ZONE}/temp": "60000", PI_4_BITS: "0"})
            source = f'url = "{write_pictures(tmp_path / "pictures")}"\nfps = 20.0\nloop = true'
            protocol = f'protocol = "{broker.protocols[0]}"'
            config = agent_config(tmp_path, broker.port, source, top=GOVERNOR, mqtt=protocol, pipeline=pipeline)
            subscriber = stack.enter_context(Subscriber(broker.port, "vedette/dev-1/#"))
            log = stack.enter_context(config.with_suffix(".log").open("wb"))
            agent = subprocess.Popen([sys.executable, "-c", AGENT, config, root], stdout=log, stderr=log)
            stack.callback(agent.wait, 10)
            stack.callback(agent.kill)
            return root / ZONE / "temp", config.with_suffix(".log"), subscriber

        yield start


def test_an_agent_on_a_board_that_gets_hot_and_cools_down(
    hot_agent: Callable[[str], tuple[Path, Path, Subscriber]],
) -> None:
    celsius, log, subscriber = hot_agent("deadline_ms = 3600000")
    free = subscriber.wait("door/stats", lambda stats: stats["inferred"] > 0).json
    assert free["load"]["cap_fps"] is None
    assert free["load"]["late"] == 0
    assert "slowed" not in free["dropped"]

    write(celsius, "84000")
    hot = subscriber.wait("/status", lambda status: status["state"] == "alert").json
    assert re.fullmatch(r"door: [\d.]+ of [\d.]+ frames/s, for the board is at 84\.0 °C, limit 80 °C", hot["why"])
    least = subscriber.wait("door/stats", lambda stats: stats["load"]["cap_fps"] == 2.0).json
    assert least["dropped"]["slowed"] > 0
    settled = len(subscriber.messages("door/stats")) + 1
    wait_for("more statistics", lambda: len(subscriber.messages("door/stats")) > settled + 5)
    lately = [message.json for message in subscriber.messages("door/stats")[settled:]]
    looks = sum(stats["inferred"] for stats in lately)
    assert looks <= 2.0 * sum(stats["interval_s"] for stats in lately) + 1
    wait_for("a look, for it is never zero", lambda: subscriber.messages("door/stats")[-1].json["inferred"] > 0)

    write(celsius, "60000")
    wait_for("the agent to be well", lambda: subscriber.messages("/status")[-1].json["state"] == "ready")
    subscriber.wait("door/stats", lambda stats: stats["load"]["cap_fps"] is None and "slowed" in stats["dropped"])
    # one state may be said twice: of a pipeline that was degraded for a moment, too
    states = [state for state, _ in groupby(m.json["state"] for m in subscriber.messages("/status"))]
    assert states.count("ready") == 2, "as it began, and once when the rate is back"
    assert log.read_text().count("cameras are looked at as often as before") == 1


def test_an_agent_whose_results_are_late(hot_agent: Callable[[str], tuple[Path, Path, Subscriber]]) -> None:
    _, _, subscriber = hot_agent("deadline_ms = 0.001")
    late = subscriber.wait("/status", lambda status: status["state"] == "alert").json
    assert late["why"].endswith("frames/s, for 100% of the results of door are later than 0.001 ms")
    stats = subscriber.wait("door/stats", lambda stats: stats["load"]["cap_fps"] == 2.0).json
    assert stats["load"]["late"] > 0
