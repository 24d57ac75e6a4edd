"""The sensor's demo: what is drawn, where events are put, and the whole of it through a real broker."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from real import ROOT, run_cli
from rich.console import Console

from vedette.contract.manifest import Channel, RegressOutput, SeriesInput
from vedette.demo.chart import BLANK, Axis, axis_of, cells, dots, envelope, steps
from vedette.demo.performance import START_S
from vedette.demo.plot import WIDTH, plot
from vedette.demo.recording import Recording, read_whole
from vedette.demo.seen import SeenWindows
from vedette.demo.sensor import SensorShow
from vedette.demo.sensor_view import Moment, live, plain_line
from vedette.models.model import ModelSpec, read_model
from vedette.mqtt.events import EVENT_MESSAGES, StateMessage
from vedette.mqtt.results import RESULT_MESSAGES
from vedette.sources import SensorOptions, make_sensor_source

ACTIVITY = ROOT / "models" / "watch-activity.tflite"
ANOMALY = ROOT / "models" / "shuttle-anomaly.tflite"
EXERCISES = ROOT / "examples" / "media" / "shoulder-exercises.csv"

needs_bundles = pytest.mark.skipif(
    not (ACTIVITY.is_file() and ANOMALY.is_file() and EXERCISES.is_file()),
    reason="the shipped sensor networks or their recording are absent: the sensor's demo stays untested",
)

HEAD: dict[str, Any] = {
    "v": 1, "id": "x", "epoch": 1, "ts": "2026-01-01T00:00:00.000000Z", "boot": "b", "clock": "synced", "replay": False,
    "device": "demo", "pipeline": "sensor",
}  # fmt: skip
MODEL = {"name": "m", "version": "1.0.0", "sha256": "0"}
LATENCY = dict.fromkeys(("capture", "queue", "preprocess", "infer", "decode", "total"), 0.5)


class Wire:
    """Gives a `SeenWindows` the messages that a broker would, in the agent's order."""

    def __init__(self, heard: SeenWindows) -> None:
        self.heard = heard
        self._seq = 0

    def window(self, at_s: float, found: dict[str, Any], *, span_s: float = 1.0) -> None:
        """One that ends ``at_s`` seconds into the recording; it is captured at 1,000 s and a tenth of that."""
        kind = {"classify": "classes", "anomaly": "anomaly", "regress": "values"}[self.heard.task]
        self._seq += 1
        at_us = round(at_s * 1e6)
        body = {
            **HEAD, "seq": self._seq, "mono_us": self.captured_us(at_s), "model": MODEL, "latency_ms": LATENCY,
            "engine": {"runtime": "r", "delegate": "d"}, **found,
            "window": {"seq": self._seq, "samples": 8, "first_us": at_us - round(span_s * 1e6), "last_us": at_us},
        }  # fmt: skip
        self.heard.note("detections", msgspec.convert(body, RESULT_MESSAGES[kind]))

    def event(self, certain_s: float, happened_s: float, **told: Any) -> None:
        """One that the window at ``certain_s`` made certain; the agent says it before that window's own message."""
        captured = self.captured_us(certain_s)
        ago_s = round((captured - self.captured_us(happened_s)) / 1e6, 3)
        body = {**HEAD, "seq": self._seq + 1, "mono_us": captured, "ago_s": ago_s, "model": MODEL, **told}
        self.heard.note("events", msgspec.convert(body, EVENT_MESSAGES["events"]))

    def state(self, **told: Any) -> None:
        """What holds."""
        body = {key: HEAD[key] for key in ("v", "device", "pipeline", "epoch", "ts")}
        self.heard.note("state", msgspec.convert({**body, **told}, StateMessage))

    @staticmethod
    def captured_us(at_s: float) -> int:
        return 1_000_000_000 + round(at_s * 1e5)


def classes(label: str, score: float) -> dict[str, Any]:
    return {"classes": [{"label": label, "class_id": 1, "score": score}]}


def anomaly(score: float | None, threshold: float = 0.1) -> dict[str, Any]:
    anomalous = score is None or score > threshold
    return {"anomaly": {"score": score, "threshold": threshold, "anomalous": anomalous, "channels": {"f1": score}}}


# charts


def test_an_envelope_misses_no_peak() -> None:
    times = np.arange(100_000, dtype=np.int64)
    values = np.zeros(100_000)
    values[77_777] = 5.0
    found = envelope(times, values, 0, 100_000, 40)
    assert np.nanmax(found) == 5.0 and np.flatnonzero(found[:, 1] == 5.0).tolist() == [77_777 * 40 // 100_000]
    assert np.nanmin(found) == 0.0 and not np.isnan(found).any()


def test_an_envelope_joins_neighbours_and_no_gap() -> None:
    times = np.array([0, 10, 20, 80, 90], np.int64)
    found = envelope(times, np.array([0.0, 10.0, 0.0, 3.0, 3.0]), 0, 100, 100)
    assert found[5].tolist() == [5.0, 5.0]  # half the way from 0 to 10
    assert np.isnan(found[21:80]).all() and np.isnan(found[91:]).all()
    assert np.isnan(envelope(times, np.zeros(5), 1000, 2000, 10)).all()


def test_steps_hold_until_the_next_one() -> None:
    found = steps(np.array([10, 20], np.int64), np.array([1.0, 2.0]), 0, 40, 4)
    assert np.isnan(found[0]).all() and found[1:, 0].tolist() == [1.0, 2.0, 2.0]
    assert np.isnan(steps(np.empty(0, np.int64), np.empty(0), 0, 40, 4)).all()


def test_dots_are_where_values_stand_and_joined() -> None:
    curve = np.array([[0.0, 0.0], [1.0, 1.0], [np.nan, np.nan], [0.5, 0.5]])
    drawn = dots(curve, Axis(0.0, 1.0), 5)
    assert np.flatnonzero(drawn[:, 0]).tolist() == [4]
    assert np.flatnonzero(drawn[:, 1]).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(drawn[:, 2]).tolist() == []
    assert np.flatnonzero(drawn[:, 3]).tolist() == [2]


def test_characters_hold_their_dots() -> None:
    # U+28B5 is dots 1, 3, 5, 6 and 8: rows 0 and 2 on the left, rows 1, 2 and 3 on the right (Unicode's names list)
    drawn = np.zeros((4, 4), np.bool_)
    drawn[[0, 2], 0] = drawn[[1, 2, 3], 1] = True
    assert cells(drawn) == ["\u28b5" + BLANK]


def test_an_axis_holds_all_values_and_one_that_is_the_same_everywhere() -> None:
    assert axis_of(np.array([1.0, np.nan, 3.0])) == Axis(1.0, 3.0)
    flat = axis_of(np.array([2.0, 2.0]))
    assert flat.low < 2.0 < flat.high
    assert axis_of(np.array([np.nan])).share(np.array([np.nan])).tolist() != [0.0]
    decades = Axis(0.01, 1.0, True)
    assert decades.share(np.array([0.0, 0.01, 0.1, 1.0, 50.0])) == pytest.approx([0, 0, 0.5, 1, 1])


# what is delivered, and where it belongs


@needs_bundles
def test_an_event_is_put_where_it_happened_by_the_recordings_clock() -> None:
    heard = SeenWindows(read_model(str(ACTIVITY)))
    wire = Wire(heard)
    for at_s in (5.0, 6.0):
        wire.window(at_s, classes("abduction", 0.9))
    wire.event(7.0, 5.0, kind="class_changed", label="abduction", previous=None, score=0.9)
    assert not heard.round.events, "its window has not come yet"
    wire.window(7.0, classes("abduction", 0.9))
    (event,) = heard.round.events
    assert (event.at_us, event.held, event.text) == (5_000_000, "abduction", "nothing -> abduction (0.90)")
    # the agent ends: what holds is over, and no window says when
    wire.event(8.0, 8.0, kind="class_changed", label=None, previous="abduction")
    stopped = {
        "v": 1,
        "state": "stopped",
        "epoch": 1,
        "since": "",
        "why": None,
        "agent": "",
        "pipelines": [],
        "degraded": [],
    }
    from vedette.mqtt.payloads import StatusMessage

    heard.note("status", msgspec.convert(stopped, StatusMessage))
    assert (heard.round.events[-1].at_us, heard.round.events[-1].held) == (None, None)
    assert heard.events == 2


@needs_bundles
def test_a_recording_that_begins_again_is_another_round() -> None:
    heard = SeenWindows(read_model(str(ANOMALY)))
    wire = Wire(heard)
    wire.window(1.0, anomaly(0.05))
    wire.window(2.0, anomaly(None))
    wire.window(1.0, anomaly(0.05))
    assert [len(heard.first.windows), len(heard.round.windows)] == [2, 1]
    assert math.isnan(heard.first.windows[1].score) and heard.first.windows[1].label == "anomaly"
    assert heard.threshold == 0.1


# what is drawn


def series(*names: str) -> SeriesInput:
    return SeriesInput(channels=tuple(Channel(name=name) for name in names), length=8, stride=4, rate_hz=10.0)


def estimator() -> ModelSpec:
    output = RegressOutput(quantities=(Channel(name="level"), Channel(name="flow")))
    return ModelSpec(Path("m.tflite"), "m", "1.0.0", "0", ("level", "flow"), series("x"), output, None)


def moment(task: str, recorded: bool) -> Moment:
    """After twelve windows in which something happens."""
    spec = {"classify": lambda: read_model(str(ACTIVITY)), "anomaly": lambda: read_model(str(ANOMALY)),
            "regress": estimator}[task]()  # fmt: skip
    assert isinstance(spec.input, SeriesInput)
    heard = SeenWindows(spec)
    wire = Wire(heard)
    for number in range(1, 13):
        found = {
            "classify": classes("abduction" if number < 8 else "pendulum", 0.5 + number / 30),
            "anomaly": anomaly(0.01 if number < 8 else 3.0),
            "regress": {"values": {"level": number / 2, "flow": None}},
        }[task]
        if number == 9 and task == "classify":
            wire.event(9.0, 8.0, kind="class_changed", label="pendulum", previous="abduction", score=0.8)
            wire.state(**{"class": {"label": "pendulum", "score": 0.8, "since": ""}})
        elif number == 9 and task == "anomaly":
            wire.event(9.0, 8.0, kind="anomaly_began", score=3.0, peak=3.0)
            wire.state(anomaly={"active": True, "score": 3.0, "threshold": 0.1, "since": ""})
        wire.window(number, found)
    count = len(spec.input.channels)
    times = np.arange(0, 15_000_000, 20_000, dtype=np.int64)
    values = np.sin(times[:, None] / 1e6 * np.arange(1, count + 1)).astype(np.float32)
    return Moment(heard, spec, spec.input, Recording(times, values) if recorded else None, 4.0)


@needs_bundles
@pytest.mark.parametrize("task", ["classify", "anomaly", "regress"])
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("size", [(80, 24), (60, 20), (200, 60)])
def test_the_view_fits_the_terminal_and_says_what_holds(task: str, recorded: bool, size: tuple[int, int]) -> None:
    console = Console(width=size[0], height=size[1], record=True, force_terminal=True, file=None, color_system=None)
    with console.capture() as shown:
        console.print(live(moment(task, recorded), "mosquitto", 3.0, size))
    lines = shown.get().splitlines()
    assert len(lines) < size[1] and max(map(len, lines)) == size[0]
    text = "\n".join(lines)
    assert "what the broker (mosquitto) delivers" in text and "infer 0.50 ms" in text
    expected = {"classify": "now: pendulum 0.80", "anomaly": "now: anomaly", "regress": "level 6, flow nan"}[task]
    assert expected in text
    happened = {"classify": "8.0 s  abduction -> pendulum (0.80)", "anomaly": "8.0 s  anomaly began, peak 3"}
    if task in happened:
        assert happened[task] in text if recorded else happened[task].split("  ")[1] in text


@needs_bundles
def test_a_label_that_is_cut_does_not_run_into_the_next_one() -> None:
    now = moment("classify", True)
    heard = SeenWindows(now.spec)
    wire = Wire(heard)
    for at_s, label in enumerate(("abduction", "upright-row", "pendulum"), start=1):
        wire.event(at_s + 1.0, float(at_s), kind="class_changed", label=label, previous=None, score=0.8)
        wire.window(at_s + 1.0, classes(label, 0.9))
    console = Console(width=60, height=24, color_system=None)
    with console.capture() as shown:
        console.print(live(dataclasses.replace(now, heard=heard), "mosquitto", 3.0, (60, 24)))
    [band] = [line for line in shown.get().splitlines() if "holds " in line]
    words = re.findall(r"[a-z-]+", band)[1:]
    expected = ("upright-row", "pendulum")
    assert all(label.startswith(word) for label, word in zip(expected, words, strict=True)), band


@needs_bundles
def test_a_line_says_the_same() -> None:
    line = plain_line(moment("anomaly", True))
    assert "12.0 s" in line and "score 3, threshold 0.1; holds: anomaly" in line


@needs_bundles
@pytest.mark.parametrize("task", ["classify", "anomaly", "regress"])
def test_the_picture_shows_what_held_where(task: str) -> None:
    now = moment(task, True)
    assert now.recording is not None
    pixels = plot(now, now.heard.first, now.recording)
    assert pixels.shape[1] == WIDTH and pixels.dtype == np.uint8
    strip = pixels[70:120]  # of the first channel

    def background(at_s: float) -> list[int]:
        x = 130 + round(at_s / 14.98 * (WIDTH - 160))
        columns = strip[:, x - 3 : x + 3].reshape(-1, 3)
        values, counts = np.unique(columns, axis=0, return_counts=True)
        return [int(v) for v in values[counts.argmax()]]

    assert background(4.0) == [255, 255, 255], "nothing held yet"
    assert background(14.0) not in ([255, 255, 255], background(10.0)), "not played: grey"
    assert (background(10.0) == [255, 255, 255]) == (task == "regress"), "what held is tinted"


@needs_bundles
def test_the_recording_is_read_as_the_agent_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t,y,x\n" + "".join(f"{n / 10},{-n},{n}\n" for n in range(30)))
    found = read_whole(SensorOptions(f"csv://{path}?speed=9", ("x", "y"), pace="max"))
    assert found is not None and found.seconds == pytest.approx(2.9)
    assert found.values[3].tolist() == [3.0, -3.0] and found.times_us[3] == 300_000
    path.write_text("1,2\n3,4\n")
    assert read_whole(SensorOptions(f"csv://{path}", ("x", "y"), pace="max")) is None, "without times"
    path.write_text("t,x,y\n5,1,2\n4,1,2\n")
    assert read_whole(SensorOptions(f"csv://{path}", ("x", "y"), pace="max")) is None, "goes back in time"


@needs_bundles
@pytest.mark.parametrize(("step_s", "speed"), [(0.01, 1), (600, 4500), (3600, 27_000), (10**6, 1e6)])
def test_a_recording_of_days_is_played_so_fast_that_all_of_it_is_shown(
    tmp_path: Path, step_s: float, speed: float
) -> None:
    path = tmp_path / "slow.csv"
    names = [f"f{n}" for n in range(1, 10)]
    path.write_text(",".join(["t", *names]) + "\n" + "".join(f"{n * step_s}" + ",1" * 9 + "\n" for n in range(151)))
    show = SensorShow(
        model=str(ANOMALY), source=str(path), pace="native", speed=None, seconds=START_S + 20, picture=None
    )
    url = tomllib.loads(show.source_table())["url"]
    assert url.endswith(f"?speed={speed:.0f}") and show.document(1.0)["speed"] == speed
    make_sensor_source(SensorOptions(url, tuple(names)))  # understands it


# from end to end


def demo(*options: object) -> str:
    outcome = run_cli("demo", "--sensor", *options)
    assert (outcome.returncode, outcome.stderr) == (0, ""), outcome
    return outcome.stdout


@needs_bundles
def test_the_sensors_demo_from_end_to_end(tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    text = demo(
        "--json", "--seconds", "5", "--speed", "20", "--model", ACTIVITY, "--source", EXERCISES, "--picture", picture
    )  # fmt: skip
    answer = json.loads(text.splitlines()[-1])
    assert answer["received"] == answer["published"] > 5 and answer["missing"] == 0
    assert answer["inferred"] == answer["latency_ms"]["infer"]["count"] > 5
    assert answer["windows"] - answer["inferred"] in (0, 1), (
        "one may be cut in the moment in which the agent is stopped"
    )
    assert answer["sensor"]["windows"] == answer["windows"] and answer["sensor"]["readings"] >= 256 + 5 * 64
    assert answer["speed"] == 20 and answer["model"] == "watch-activity"
    first = answer["events"][0]
    assert (first["kind"], first["holds"]) == ("class_changed", "abduction")
    assert 5.0 <= first["at_s"] <= 25.0, "by the recording's clock"
    assert answer["state"]["class"]["label"] is None, "at the end nothing holds any more"
    drawn = cv2.imread(answer["picture"])
    assert answer["picture"] == str(picture) and drawn is not None and drawn.shape[1] == WIDTH


@needs_bundles
def test_the_sensors_demo_for_people_without_a_terminal() -> None:
    text = demo("--seconds", "4", "--speed", "20", "--model", ACTIVITY, "--source", EXERCISES)
    assert "windows seen" in text and "0 missing" in text and "20 times as fast" in text
    assert text.count("nothing -> abduction") == 2, "as it happened, and in the summary"
    assert text.count("sent: from the frame, or a window's last reading, in memory") == 1, "what the table cannot say"


@needs_bundles
def test_a_live_sensor_is_shown_without_its_readings() -> None:
    reading = "{'t': n / 500, **dict.fromkeys(('f1 f2 f3 f4 f5 f6 f7 f8 f9').split(), n % 7)}"
    forever = f"[(print(json.dumps({reading}), flush=True), time.sleep(0.02)) for n in itertools.count()]"
    loop = f"import json, time, itertools; {forever}"
    text = demo("--seconds", "3", "--json", "--model", ANOMALY, "--source", f'exec:python3 -c "{loop}"')
    answer = json.loads(text.splitlines()[-1])
    assert answer["windows"] > 5 and answer["missing"] == 0 and answer["picture"] is None
    assert answer["source"].startswith("exec:python3") and "itertools" not in answer["source"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--speed", "2"], "--speed"),
        (["--sensor", "--model", ROOT / "models/coco-ssdlite-mobilenet-v2.tflite"], "takes pictures"),
        (["--sensor", "--model", ACTIVITY, "--source", "street.mp4"], "a sensor's URL"),
        (["--sensor", "--model", ACTIVITY, "--source", "/none.csv"], "cannot be opened"),
        (["--sensor", "--model", ACTIVITY, "--source", EXERCISES, "--speed", "0"], "--speed"),
        (["--sensor", "--model", ACTIVITY, "--source", "udp://127.0.0.1:9", "--speed", "2"], "--speed"),
        (["--sensor", "--model", ANOMALY, "--source", EXERCISES], "missing channel"),
        (["--model", ACTIVITY], "--sensor is for"),
        (["--source", os.fsdecode(b"\xff.mp4")], "--source: expected a name in UTF-8"),
        (["--sensor", "--source", os.fsdecode(b"\xff.csv")], "--source: expected a name in UTF-8"),
    ],
)
@needs_bundles
def test_a_sensors_demo_that_cannot_be(options: list[object], part: str) -> None:
    outcome = run_cli("demo", *options)
    assert outcome.returncode == 2 and part in outcome.stderr and len(outcome.stderr.splitlines()) == 1, outcome
