"""The camera's demo: which frame its picture shows, and what it says of a camera that gives none."""

from __future__ import annotations

import msgspec

from vedette.demo.camera import SeenFrames
from vedette.mqtt.results import DetectionsMessage

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
