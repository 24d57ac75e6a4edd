"""The camera's demo: which frame its picture shows, and what it says of a camera that gives none."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from looking import Terminal
from real import BUNDLE, ROOT, run_cli, write_pictures

from vedette.demo.broker import LOOPBACK, free_port
from vedette.demo.camera import SeenFrames
from vedette.demo.performance import temporary_picture
from vedette.mqtt.results import DetectionsMessage

needs_bundle = pytest.mark.skipif(
    not BUNDLE.is_file(), reason="the shipped networks are absent: the camera's demo stays untested"
)
LATENCY = dict.fromkeys(("capture", "queue", "preprocess", "infer", "decode", "total"), 0.5)


def detections(seq: int, *scores: float) -> DetectionsMessage:
    body = {
        "v": 1, "id": "x", "epoch": 1, "seq": seq, "ts": "2026-01-01T00:00:00.000000Z", "mono_us": seq, "boot": "b",
        "clock": "synced", "replay": False, "device": "demo", "pipeline": "clip", "latency_ms": LATENCY,
        "model": {"name": "m", "version": "1.0.0", "sha256": "0"}, "engine": {"runtime": "r", "delegate": "d"},
        "frame": {"seq": seq, "width": 64, "height": 48},
        "objects": [{"label": "person", "class_id": 0, "score": score, "box": (0, 0, 1, 1)} for score in scores],
    }  # fmt: skip
    return msgspec.convert(body, DetectionsMessage)


def picked(*frames: tuple[float, ...]) -> int | None:
    """The number of the frame that the picture would show, from 1."""
    heard = SeenFrames()
    for seq, scores in enumerate(frames, start=1):
        heard.note("detections", detections(seq, *scores))
    return heard.picked.frame.seq if heard.picked else None


def test_a_false_box_more_does_not_make_a_frame_the_picture() -> None:
    usual, surer, false = (0.8, 0.8, 0.7), (0.8, 0.8, 0.75), (0.9, 0.9, 0.9, 0.65)
    assert picked(usual, false, surer, usual) == 3
    assert picked(false, surer, usual, usual) == 2


def test_a_frame_with_little_in_it_is_not_the_picture() -> None:
    assert picked((0.99,), (0.7, 0.6), (0.8, 0.6, 0.6), (0.7, 0.55)) == 2
    assert picked((), (), (), (0.6,), (0.9,), ()) == 5, "frames without anything count for nothing"
    assert picked((), ()) is None


def test_the_picture_of_another_user_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = temporary_picture("vedette-demo", ".jpg")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert temporary_picture("vedette-demo", ".jpg") != mine
    assert mine.suffix == ".jpg"


@needs_bundle
def test_a_terminal_that_cannot_go_back_has_a_line_now_and_then(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "pictures")
    with Terminal("demo", "--seconds", 2, "--source", source, "--picture", tmp_path / "a.jpg", term="dumb") as terminal:
        terminal.shows(" fps ", "published")


@needs_bundle
def test_a_name_may_have_any_character(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "caf\u00e9 \U0001f600")
    model = shutil.copy(BUNDLE, tmp_path / "\U0001f600.tflite")
    done = run_cli("demo", "--seconds", "2", "--source", source, "--model", model, "--json", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done
    assert json.loads(done.stdout.splitlines()[-1])["received"] > 0


@needs_bundle
def test_a_camera_that_cannot_be_reached_is_said_at_once_with_the_agents_reason() -> None:
    url = f"rtsp://{LOOPBACK}:{free_port()}/stream"
    done = run_cli("demo", "--seconds", "600", "--source", url)
    assert done.returncode == 2, done
    [line] = done.stderr.splitlines()
    assert f"the source gives nothing: {url}: cannot be reached: found Connection refused" in line
    assert done.stdout.splitlines()[0] == "waiting for the first message"


@needs_bundle
def test_a_sensor_that_is_silent_is_said_and_waited_for() -> None:
    model = ROOT / "models/watch-activity.tflite"
    done = run_cli(
        "demo", "--sensor", "--seconds", "9", "--model", model, "--source", f"udp://{LOOPBACK}:{free_port()}"
    )
    assert done.returncode == 2, done
    [line] = done.stderr.splitlines()
    assert "the source gives nothing: no reading for " in line
    assert "waiting for the first message: source stalled: no reading for " in done.stdout
