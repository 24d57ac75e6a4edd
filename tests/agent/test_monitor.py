"""What watch and top are made of: account of numbers, addresses, filters, bars, the fleet and its screen."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from vedette.contract.errors import ConfigError
from vedette.flow.stats import STAGES, Buckets, Histogram, Latency, merge_all
from vedette.monitor import screen
from vedette.monitor.address import parse_url
from vedette.monitor.bars import ASCII, BLOCKS, bars
from vedette.monitor.fleet import Fleet
from vedette.monitor.lines import line
from vedette.monitor.place import TOPICS, Place, filters, place_of
from vedette.monitor.sequence import Sequences, Span, StreamKey
from vedette.mqtt.inbox import Incoming
from vedette.mqtt.payloads import (
    HealthMessage,
    LoadInfo,
    OutboxInfo,
    SettingsMessage,
    SourceInfo,
    StatsMessage,
    StatusMessage,
    encode,
)
from vedette.service.health import throttled_words

STREAM = StreamKey("eye", "door", "detections")


# numbers


@given(st.permutations(range(1, 30)), st.sets(st.integers(1, 29)))
def test_what_is_missing_is_what_has_not_come(order: list[int], lost: set[int]) -> None:
    sequences = Sequences()
    sequences.note(STREAM, 1, 0)
    came: set[int] = set()
    for seq in order:
        if seq in lost:
            continue
        arrival = sequences.note(STREAM, 1, seq)
        highest = max(came, default=0)
        assert arrival.late == (seq < highest)
        assert arrival.missing == (Span(highest + 1, seq - 1) if seq > highest + 1 else None)
        assert not arrival.again
        came.add(seq)
    missing = {number for span in sequences.missing(STREAM) for number in range(span.first, span.last + 1)}
    assert missing == {number for number in range(1, max(came, default=0)) if number not in came}
    for seq in came:
        assert sequences.note(STREAM, 1, seq).again


def test_what_came_before_one_looked_is_not_missing() -> None:
    sequences = Sequences()
    assert sequences.note(STREAM, 1, 812) == sequences.note(STREAM, 1, 813)
    assert not sequences.note(STREAM, 1, 500).again
    assert list(sequences.missing(STREAM)) == []


def test_a_new_epoch_begins_with_1_and_an_old_one_is_left_alone() -> None:
    sequences = Sequences()
    sequences.note(STREAM, 4, 7)
    arrival = sequences.note(STREAM, 5, 3)
    assert (arrival.new_epoch, arrival.missing) == (True, Span(1, 2))
    late = sequences.note(STREAM, 4, 9)
    assert (late.missing, late.again, late.late) == (None, False, False)


def test_the_account_is_bounded() -> None:
    sequences = Sequences()
    for number in range(10_000):
        sequences.note(StreamKey("eye", f"p{number}", "events"), 1, 1)
    for seq in range(0, 2000, 2):
        sequences.note(STREAM, 1, seq)
    assert len(sequences._accounts) <= 4096
    assert len(list(sequences.missing(STREAM))) == 256


def test_what_was_dropped_is_no_longer_waited_for() -> None:
    sequences = Sequences()
    for seq in (1, 5, 9):
        sequences.note(STREAM, 1, seq)
    assert sequences.dropped(STREAM, 2, 1, 9) is None
    assert sequences.dropped(STREAM, 1, 3, 7) == Span(3, 7)
    assert list(sequences.missing(STREAM)) == [Span(2, 2), Span(8, 8)]
    assert sequences.dropped(STREAM, 1, 3, 7) is None


# addresses and topics


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "user", "password", "root"),
    [
        ("mqtt://a", "a", 1883, False, "", "", "vedette"),
        ("a.b:1", "a.b", 1, False, "", "", "vedette"),
        ("mqtts://u:p%40ss@[::1]/plant-7/v/", "::1", 8883, True, "u", "p@ss", "plant-7/v"),
        ("mqtt://u@h:18/x", "h", 18, False, "u", "", "x"),
    ],
)
def test_urls(url: str, host: str, port: int, tls: bool, user: str, password: str, root: str) -> None:
    broker = parse_url(url)
    options = broker.options
    assert (options.host, options.port, options.tls) == (host, port, tls)
    assert (options.username, options.password, broker.root) == (user, password, root)
    assert "@" not in str(broker)


@pytest.mark.parametrize(
    "url",
    ["", "mqtt://", "http://a", "mqtt://a:b", "mqtt://a:0", "mqtt://a:70000", "mqtt://:secret@a", "mqtt://[::1", "a b",
     "mqtt://a/x/#", "mqtt://a/+", "mqtt://a/$SYS", "mqtt://a?x=1", "mqtt://a\n", "mqtt://a/x%0a", "mqtt://a/%c2%85",
     "mqtt://a/%ef%bf%bf", "x" * 5000, "mqtt://a..b", "mqtt://" + "a" * 64, "mqtt://u%0a:secret@a", "mqtt://u%00@a",
     "mqtt://u%ff:secret@a", "mqtt://u:secret%ff@a", "mqtt://a/%ff"],
)  # fmt: skip
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_url(url)
    assert "secret" not in refused.value.line() and len(refused.value.line()) < 300


def test_what_does_not_belong_into_a_url_is_shown_with_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"found '#' in it; .* --topic; in a user name, password or root write %23"):
        parse_url("mqtt://localhost/a#")


@given(st.sampled_from(["", "eye"]), st.sampled_from(["", "door"]), st.sets(st.sampled_from(TOPICS)).map(sorted))
def test_no_topic_matches_two_filters(device: str, pipeline: str, topics: list[str]) -> None:
    found = filters("v", device=device, pipeline=pipeline, topics=topics)
    names = ["eye/status", "ear/health", "eye/cmd/ping", "eye/reply/1", "eye/door/events", "eye/gate/stats", "a/b/c/d"]
    for name in names:
        assert sum(topic_matches_sub(f, f"v/{name}") for f in found) <= 1
        place = place_of(f"v/{name}", "v")
        asked = place is not None and (
            device in ("", place.device) and pipeline in ("", place.pipeline) and (not topics or place.name in topics)
        )
        if asked:
            assert any(topic_matches_sub(f, f"v/{name}") for f in found), (name, found)


def test_places() -> None:
    assert place_of("a/b/eye/door/events", "a/b") == Place("eye", "door", "events")
    assert place_of("a/eye/cmd/ping", "a") == Place("eye", "", "cmd", "ping")
    for topic in ("b/eye/status", "a", "a/", "a/eye", "a//status", "a/eye/door/events/x", f"a/{'x' * 65}/status"):
        assert place_of(topic, "a") is None


# bars


@given(st.lists(st.integers(0, 1000), max_size=300), st.integers(1, 40))
def test_bars_fit_and_hide_nothing(counts: list[int], columns: int) -> None:
    drawn = bars(Buckets(4, 0, 0, counts), columns)
    assert len(drawn) <= columns
    assert set(drawn) <= set(BLOCKS + " ")
    assert bool(drawn.strip()) == any(counts)
    if any(counts):
        assert BLOCKS[-1] in drawn


def test_bars_of_a_terminal_without_blocks() -> None:
    assert bars(Buckets(4, 0, 0, [1, 8, 0, 3]), 9, ASCII) == ".@ -"


def test_the_firmwares_bits_in_words() -> None:
    assert throttled_words(0) == []
    assert throttled_words(0x50005) == ["under-voltage now", "throttled now"]
    assert throttled_words(0x50000) == ["under-voltage since boot", "throttled since boot"]


# the fleet


def latency(*values: float) -> Latency:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram.take()


def stats(dropped: dict[str, int] | None = None, share: float | None = 1.0, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "v": 1, "device": "eye", "pipeline": "door", "epoch": 1, "ts": "2026-11-22T15:04:05.000000Z", "interval_s": 10.0,
        "fps_in": 10.0, "fps_out": 9.0, "frames": 100, "inferred": 90,
        "latency_ms": dict.fromkeys(STAGES, latency(1.0, 2.0, 40.0)), "dropped": dropped or {},
        "load": LoadInfo(1.0, share), "sensor": None, "source": SourceInfo("rtsp://camera", None, "", 0),
        "outbox": OutboxInfo(0, 0),
    }  # fmt: skip
    return encode(StatsMessage(**{**fields, **changes}))


def status(state: Any = "ready", why: str | None = None, degraded: list[str] | None = None) -> bytes:
    return encode(StatusMessage(1, state, 1, "2026-11-22T15:04:05.000000Z", why, "0.1.0", ["door"], degraded or []))


def health(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "v": 1, "device": "eye", "epoch": 1, "ts": "2026-11-22T15:04:05.000000Z", "clock": "synced", "uptime_s": 1.0,
        "temperature_c": 61.25, "throttled": 0, "load_1m": 0.5, "memory_available_bytes": 512_000_000,
        "agent_pss_bytes": 88_000_000, "disk_free_bytes": 12_000_000_000, "threads": 9, "open_files": 30,
        "certificate_days_left": None,
    }  # fmt: skip
    return encode(HealthMessage(**{**fields, **changes}))


def fleet_of(*messages: tuple[str, bytes]) -> Fleet:
    fleet = Fleet("vedette")
    fleet.changed(None)
    for topic, payload in messages:
        fleet.heard(Incoming(f"vedette/{topic}", payload))
    return fleet


def shown(fleet: Fleet, width: int = 80, height: int | None = 24) -> list[str]:
    return [line.plain for line in screen.lines(fleet, "a:1883/vedette", width=width, height=height)]


def test_a_device_and_its_pipelines_are_shown() -> None:
    fleet = fleet_of(
        ("eye/status", status()), ("eye/health", health()), ("eye/door/stats", stats({"stale": 10})),
        ("eye/door/stats", stats({"stale": 12, "rate_cap": 3})),
    )  # fmt: skip
    text = "\n".join(shown(fleet))
    assert "eye  ready  outbox 0  61.2°C  power ok  synced  mem 88M free 512M" in text
    assert "door  in 10.0/s  out 9.0/s  share 100%  dropped stale 12 (+2), rate_cap 3 (+3)" in text
    assert text.count("1.96/40.0") == len(screen.SHOWN)  # a bucket's middle, and the exact largest
    assert "no problems" in text


def test_what_a_device_cannot_say_is_shown_so_and_no_problem() -> None:
    unsaid = dict.fromkeys(
        ("temperature_c", "throttled", "load_1m", "memory_available_bytes", "disk_free_bytes", "threads", "open_files")
    )
    text = "\n".join(shown(fleet_of(("eye/status", status()), ("eye/health", health(**unsaid)))))
    assert "synced  mem 88M free ?" in text and "no problems" in text
    said = line(Place("eye", "", "health"), health(**unsaid), retained=False).plain
    assert said.endswith("clock synced, memory ? free, agent 88 MB, disk ? free, load ?")


def test_stages_are_the_merged_histograms_of_the_last_minute() -> None:
    parts = [latency(1.0, 2.0), latency(8.0), latency(3.0, 3.0, 3.0)]
    fleet = fleet_of(*(("eye/door/stats", stats(latency_ms={"infer": part})) for part in parts))
    seen = fleet.devices["eye"].pipelines["door"]
    now = time.monotonic()
    assert seen.stages(now) == {"infer": merge_all(parts)}
    assert seen.stages(now)["infer"].count == 6
    assert seen.stages(now + 61) == {}


def test_problems_stand_at_the_bottom() -> None:
    fleet = fleet_of(
        ("a/status", status("alert", "door: source stalled: no frame for 5 s", ["door"])),
        ("a/health", health(throttled=0x50001, temperature_c=84.0, clock="unsynced", memory_available_bytes=10_000_000)),
        ("a/door/stats", stats({}, 0.4)), ("a/door/stats", stats({"outbox_full": 7, "rejected": 2}, 0.4)),
        ("b/status", status("lost", "connection lost")), ("b/door/stats", stats()),
        ("c/status", b'{"v":2}'),
    )  # fmt: skip
    text = "\n".join(shown(fleet, 100, None))
    for words in (
        "a: door: source stalled", "a: degraded: door", "a: under-voltage now, throttled since boot", "a: hot: 84.0 °C",
        "a: its clock is not synchronised", "a: memory is scarce: 10 MB free",
        "a: door: 7 messages lost in the last interval: outbox_full",
        "a: door: 2 messages lost in the last interval: rejected",
        "b: lost since 2026-11-22T15:04:05.000000Z: connection lost", "c status: not as this version knows it",
        "power 0x50001",
    ):  # fmt: skip
        assert words in text
    fleet.changed("Connection refused")
    assert "not connected: Connection refused; trying again" in "\n".join(shown(fleet))


def test_silence_is_a_problem_after_three_intervals() -> None:
    fleet = fleet_of(("eye/status", status()), ("eye/door/stats", stats()))
    now = time.monotonic()
    assert fleet.problems(now + 29) == []
    assert fleet.problems(now + 31) == ["eye: door: no statistics for 31 s"]
    fleet.heard(Incoming("vedette/eye/status", status("stopped")))
    assert [problem for problem in fleet.problems(now + 31) if "statistics" in problem] == []


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 5), (100, 40), (200, 60), (80, None)])
def test_it_fits_its_window(width: int, height: int | None) -> None:
    messages = []
    for number in range(30):
        device = f"raspberrypi-{number:06x}"
        messages += [(f"{device}/status", status("alert", "x" * 300)), (f"{device}/health", health(throttled=5))]
        messages += [(f"{device}/{name}/stats", stats({"stale": 10**9}, 0.1)) for name in ("door", "a" * 64)]
        off = SettingsMessage(1, device, "door", 1, False, 0.5, {})
        messages.append((f"{device}/door/settings", encode(off)))
    lines = shown(fleet_of(*messages), width, height)
    assert max(map(len, lines)) <= width
    assert height is None or len(lines) <= height
    assert "30 devices, 60 pipelines" in lines[0]


def test_many_pipelines_have_a_row_each() -> None:
    messages = [(f"eye/p{n}/stats", stats({"stale": 5})) for n in range(10)]
    lines = shown(fleet_of(("eye/status", status()), *messages))
    assert len([line for line in lines if line.startswith("eye/p") and "1.96/40.0" in line]) == 10


def test_strangers_cannot_make_it_large_or_fail() -> None:
    fleet = Fleet("vedette")
    for number in range(1000):
        fleet.heard(Incoming(f"vedette/d{number}/status", status()))
        fleet.heard(Incoming(f"vedette/d0/p{number}/stats", stats()))
        fleet.heard(Incoming(f"vedette/x{number}/status", b"["))
    assert len(fleet.devices) == 256
    assert len(fleet.devices["d0"].pipelines) == 64
    assert len(fleet.problems(time.monotonic())) <= 256
    far = json.loads(stats())
    for histogram in ({"scale": 4, "zero_count": 0, "offset": 10**9, "counts": [1]}, {"scale": 4, "zero_count": 0,
                      "offset": 0, "counts": [1] * 5000}, {"scale": -10**6, "zero_count": 0, "offset": 0, "counts": [1]},
                      {"scale": 4, "zero_count": 0, "offset": 0, "counts": [-1]}):  # fmt: skip
        far["latency_ms"]["infer"]["histogram"] = histogram
        fleet.heard(Incoming("vedette/d1/door/stats", json.dumps(far).encode()))
    assert "door" not in fleet.devices["d1"].pipelines
    fleet.heard(Incoming("vedette/d1/\x1b[2J/stats", stats()))
    assert not any("\x1b" in line for line in shown(fleet, 80, None))
