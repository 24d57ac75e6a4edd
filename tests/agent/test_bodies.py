"""What becomes of each kind of result on its way into a message: names, rounding, and what a full message leaves out."""

from __future__ import annotations

from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.contract.types import Anomaly, Classes, Detections, Float32Array, Poses, Result, Segments, Values
from vedette.messages.bodies import Body, BodyWriter
from vedette.mqtt.envelope import MAX_BODY, Envelope
from vedette.mqtt.results import MAX_OBJECTS, RESULT_MESSAGES, EngineRef, FrameInfo, ModelRef, WindowInfo
from vedette.mqtt.schemas import schemas

FRAME = FrameInfo(7, 640, 480)
WINDOW = WindowInfo(3, 128, 1_000_000, 2_270_000)
LATENCY = dict.fromkeys(("capture", "queue", "preprocess", "infer", "decode", "total"), 1.23456)
REFS = (ModelRef("net", "1", "0" * 64), EngineRef("litert 2.3.0", "xnnpack"))
LABELS = ("cat", "???", "bird")
ENVELOPE = Envelope(1, "id", 1, 1, "", 0, "boot", "synced", False, "device", "pipeline")


def floats(*values: Any) -> Float32Array:
    return np.asarray(values, np.float32)


def written(result: Result, origin: FrameInfo | WindowInfo = FRAME, labels: tuple[str, ...] = LABELS) -> Any:
    body = BodyWriter(labels, *REFS)(result, origin, LATENCY)
    return msgspec.json.decode(body.json)


DETECTIONS = Detections(floats([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]), floats(0.91, 0.5), np.array([2, 0], np.int32))
CLASSES = Classes(floats(0.75, 0.25), np.array([2, 0], np.int32))
POSES = Poses(
    floats(0.875), floats([[0.5, 0.25, 0.9], [0, 0, 0], [-0.01, 1.02, 0.1]]), floats([0.1, 0.2, 0.3, 0.4])
)  # fmt: skip
SEGMENTS = Segments(np.array([0, 2], np.int32), floats(0.5, 0.125), floats([0, 0, 1, 1], [0, 0, 0.5, 0.25]),
                    floats([0.5, 0.5], [0.25, 0.125]))  # fmt: skip
ANOMALY = Anomaly(0.123456789, 0.1, floats(0.5, 9, 1.25e-9))
VALUES = Values(floats(21.3125, 9, -1e20))
EVERY = {
    "detections": DETECTIONS, "classes": CLASSES, "poses": POSES, "segments": SEGMENTS, "anomaly": ANOMALY,
    "values": VALUES,
}  # fmt: skip


def test_objects_of_a_detector() -> None:
    assert written(DETECTIONS)["objects"] == [
        {"label": "bird", "class_id": 2, "score": 0.91, "box": [0.1, 0.2, 0.3, 0.4]},
        {"label": "cat", "class_id": 0, "score": 0.5, "box": [0, 0, 1, 1]},
    ]


def test_objects_and_poses_have_the_tracks_they_are_given() -> None:
    write = BodyWriter(LABELS, *REFS)
    objects = msgspec.json.decode(write(DETECTIONS, FRAME, LATENCY, [7, None]).json)["objects"]
    assert [item.get("track") for item in objects] == [7, None]
    assert msgspec.json.decode(write(POSES, FRAME, LATENCY, [9]).json)["poses"][0]["track"] == 9
    with pytest.raises(ValueError, match="zip"):
        write(DETECTIONS, FRAME, LATENCY, [7])


def test_key_points_by_name_without_those_that_have_none() -> None:
    assert written(POSES)["poses"] == [
        {
            "score": 0.875,
            "keypoints": {"cat": [0.5, 0.25, 0.9], "bird": [-0.01, 1.02, 0.1]},
            "box": [0.1, 0.2, 0.3, 0.4],
        }
    ]


def test_a_pose_without_a_box() -> None:
    assert "box" not in written(Poses(POSES.scores, POSES.keypoints))["poses"][0]


def test_segments() -> None:
    assert written(SEGMENTS)["segments"] == [
        {"label": "cat", "class_id": 0, "share": 0.5, "box": [0, 0, 1, 1], "centroid": [0.5, 0.5]},
        {"label": "bird", "class_id": 2, "share": 0.125, "box": [0, 0, 0.5, 0.25], "centroid": [0.25, 0.125]},
    ]


def test_an_anomaly_of_a_window() -> None:
    body = written(ANOMALY, WINDOW)
    assert body["anomaly"] == {
        "score": 0.123457, "threshold": 0.1, "anomalous": True, "channels": {"cat": 0.5, "bird": 1.25e-9},
    }  # fmt: skip
    assert body["window"] == {"seq": 3, "samples": 128, "first_us": 1_000_000, "last_us": 2_270_000}
    assert "frame" not in body


def test_values_of_a_window() -> None:
    assert written(VALUES, WINDOW)["values"] == {"cat": 21.3125, "bird": -1e20}


def test_numbers_that_are_none_become_null_and_an_anomaly() -> None:
    anomaly = written(Anomaly(float("nan"), 0.1, floats(np.inf, 0, 1)), WINDOW)["anomaly"]
    assert anomaly == {"score": None, "threshold": 0.1, "anomalous": True, "channels": {"cat": None, "bird": 1.0}}
    assert written(Values(floats(np.nan, 0, 1)), WINDOW)["values"] == {"cat": None, "bird": 1.0}


def test_what_is_in_a_picture_is_of_a_frame() -> None:
    for result in (DETECTIONS, POSES, SEGMENTS):
        with pytest.raises(TypeError, match="not of a WindowInfo"):
            BodyWriter(LABELS, *REFS)(result, WINDOW, LATENCY)


@pytest.mark.parametrize(
    ("name", "origin"),
    [(name, FRAME) for name in EVERY] + [(name, WINDOW) for name in ("classes", "anomaly", "values")],
)
def test_a_message_keeps_its_schema_and_can_be_read_back(name: str, origin: FrameInfo | WindowInfo) -> None:
    result = EVERY[name]
    body = BodyWriter(LABELS, *REFS)(result, origin, LATENCY)
    message = msgspec.json.encode(ENVELOPE)[:-1] + b"," + body.json[1:]
    jsonschema.validate(msgspec.json.decode(message), schemas()[f"{name}.json"])
    struct = RESULT_MESSAGES[name]
    again = msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(message, type=struct)))
    assert again == msgspec.json.decode(message)
    assert again["latency_ms"]["total"] == 1.235


def many(kind: str, n: int) -> Result:
    scores = np.linspace(1, 0, n, dtype=np.float32)
    boxes = np.tile(floats([0.1234, 0.2345, 0.3456, 0.4567]), (n, 1))
    ids = np.zeros(n, np.int32)
    if kind == "detections":
        return Detections(boxes, scores, ids)
    if kind == "poses":
        return Poses(scores, np.full((n, 3, 3), 0.1234, np.float32), boxes)
    if kind == "segments":
        return Segments(ids, scores, boxes, boxes[:, :2])
    return Classes(scores, ids)


@given(
    kind=st.sampled_from(["detections", "poses", "segments", "classes"]),
    n=st.integers(0, 900),
    length=st.integers(1, 200),
    letter=st.sampled_from('aü"好'),
)
def test_the_best_that_fit_are_kept_and_the_rest_counted(kind: str, n: int, length: int, letter: str) -> None:
    labels = (letter * length, letter * length + "1", letter * length + "2")
    body = BodyWriter(labels, *REFS)(many(kind, n), FRAME, LATENCY)
    assert isinstance(body, Body) and len(body.json) <= MAX_BODY
    message = msgspec.json.decode(body.json)
    items = message["objects" if kind == "detections" else kind]
    assert len(items) + body.cut == n
    assert message.get("cut", 0) == body.cut
    key = "share" if kind == "segments" else "score"
    expected = np.linspace(1, 0, n, dtype=np.float32)[: len(items)]
    assert [item[key] for item in items] == [round(float(score), 4) for score in expected]
    if body.cut:
        # nothing is cut that had a place
        room = len(body.json) / max(1, len(items)) * (len(items) + max(2, len(items) // 20))
        assert len(items) == MAX_OBJECTS or room > MAX_BODY


def test_the_largest_anomaly_that_a_manifest_allows_fits() -> None:
    names = tuple(f"{i:03}" + "\U0001f600" * 61 for i in range(256))
    body = BodyWriter(names, *REFS)(
        Anomaly(1.23456e-30, 1.2e-30, np.full(256, -1.23456e-30, np.float32)), WINDOW, LATENCY
    )
    assert len(body.json) <= MAX_BODY
