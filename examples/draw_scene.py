#!/usr/bin/env python3
"""Draws what an agent made of a clip: zones, wires, tracks and their ways, and the events up to that moment.

    python examples/draw_scene.py examples/pump-and-door.toml door examples/media/people-walking.mp4 scene.jpg

Runs one pipeline of a configuration on a video file, with a broker on loopback, and takes tracks and events from what the
broker delivers. Useful to see whether a zone is where you mean it to be.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console
from rich.progress import Progress

from vedette.demo.broker import LOOPBACK, loopback_broker
from vedette.pictures.captions import Caption, write_captions

BLUE, ORANGE, GREY, DARK = (200, 130, 30), (20, 120, 240), (120, 120, 120), (40, 30, 20)
COLORS = [(60, 60, 220), (60, 170, 60), (200, 60, 160), (180, 160, 20), (20, 150, 220), (150, 80, 60), (100, 60, 250)]
WIDTH, QUALITY = 960, 82  # pixels, and of 100 for JPEG
EVENTS = 8  # that are written below the picture
TIMEOUT_S = 120


def toml(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def run(document: dict[str, Any], pipeline: str, clip: Path) -> list[tuple[str, dict[str, Any]]]:
    """Everything that the broker delivers of the pipeline, in order: the last level of its topic, and the message."""
    heard: list[tuple[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory(prefix="draw-scene-") as folder, loopback_broker() as (broker, port):
        table = {**document["pipeline"][pipeline], "detections": True, "source": {"url": str(clip.resolve())}}
        config = {
            "device": "scene", "state_dir": f"{folder}/state", "pipeline": {pipeline: table},
            "mqtt": {"host": LOOPBACK, "port": port, "protocol": "3.1.1" if broker == "iotcore" else "5"},
        }  # fmt: skip
        path = Path(folder) / "scene.toml"
        path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in config.items()))
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.on_message = lambda *a: heard.append((a[2].topic.rpartition("/")[2], json.loads(a[2].payload)))
        client.connect(LOOPBACK, port)
        client.subscribe("vedette/scene/#", qos=1)
        client.loop_start()
        play(path, clip, heard)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not any(m.get("state") == "stopped" for _, m in heard):
            time.sleep(0.05)
        client.disconnect()
        client.loop_stop()
    return heard


def play(config: Path, clip: Path, heard: list[tuple[str, dict[str, Any]]]) -> None:
    """Runs the agent to the clip's end, and says on stderr how far it is."""
    capture = cv2.VideoCapture(str(clip))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    print(f"running on {clip}: {count} frames", file=sys.stderr)
    deadline = time.monotonic() + TIMEOUT_S
    with (
        subprocess.Popen([sys.executable, "-m", "vedette", "run", "-c", str(config)]) as agent,
        Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        bar = progress.add_task("frames", total=count)
        while agent.poll() is None and time.monotonic() < deadline:
            seen = next((message for kind, message in reversed(heard) if kind == "detections"), None)
            progress.update(bar, completed=seen["frame"]["seq"] if seen else 0)
            time.sleep(0.1)
        if agent.poll() is None:
            agent.kill()
            raise SystemExit(f"{clip}: not at its end after {TIMEOUT_S} s; cut it")
    if agent.returncode:
        raise SystemExit(agent.returncode)


def frame_of(clip: Path, number: int) -> Any:
    """A frame of the clip, counted from 1."""
    capture = cv2.VideoCapture(str(clip))
    for _ in range(number):
        ok, frame = capture.read()
        if not ok:
            raise SystemExit(f"{clip}: no frame {number}")
    capture.release()
    return frame


def draw(table: dict[str, Any], clip: Path, heard: list[tuple[str, dict[str, Any]]]) -> Any:
    """The frame with the most to see: tracks, and a wire that was crossed just before; with all that led to it."""
    seen = [message for kind, message in heard if kind == "detections"]
    events = [message for kind, message in heard if kind == "events"]
    if not any("track" in found for message in seen for found in message["objects"]):
        raise SystemExit(f"{clip}: not one track")
    crossed_us = [event["mono_us"] for event in events if event["kind"] == "wire_crossed"]

    def worth(message: dict[str, Any]) -> tuple[int, int]:
        just_crossed = any(0 <= message["mono_us"] - at_us < 1_000_000 for at_us in crossed_us)
        return sum("track" in found for found in message["objects"]) + 3 * just_crossed, message["mono_us"]

    best = max(seen, key=worth)
    frame = frame_of(clip, best["frame"]["seq"])
    height, width = frame.shape[:2]
    frame = cv2.resize(frame, (WIDTH, round(WIDTH * height / width)), interpolation=cv2.INTER_CUBIC)
    height, width = frame.shape[:2]

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x * width), round(y * height)

    captions: list[Caption] = []  # of zones and wires; those of objects come first

    def write(text: str, box: Sequence[int], color: tuple[int, int, int]) -> None:
        captions.append(Caption(text, (box[0], box[1], box[2], box[3]), color))

    tinted = frame.copy()
    for zone in table.get("zones", {}).values():
        cv2.fillPoly(tinted, [np.array([at(*corner) for corner in zone["polygon"]])], BLUE)
    frame = cv2.addWeighted(tinted, 0.25, frame, 0.75, 0)
    for name, zone in table.get("zones", {}).items():
        corners = np.array([at(*corner) for corner in zone["polygon"]])
        cv2.polylines(frame, [corners], True, BLUE, 2, cv2.LINE_AA)
        write(f"zone {name}", [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()], BLUE)
    for name, wire in table.get("wires", {}).items():
        first, second = (np.array(at(*end)) for end in wire["line"])
        cv2.line(frame, first.tolist(), second.tolist(), ORANGE, 3, cv2.LINE_AA)
        along = (second - first) / np.linalg.norm(second - first)
        right = np.array([-along[1], along[0]])  # y points down
        middle = first + (second - first) * 0.4
        for side, called in ((right, wire.get("rightward", "in")), (-right, wire.get("leftward", "out"))):
            tip = (middle + side * 46).astype(int)
            cv2.arrowedLine(frame, middle.astype(int).tolist(), tip.tolist(), ORANGE, 2, cv2.LINE_AA, tipLength=0.3)
            write(called, [*tip.tolist(), *tip.tolist()], ORANGE)
        spot = (first + (second - first) * 0.55).astype(int).tolist()
        write(f"wire {name}", [*spot, *spot], ORANGE)
    ways: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for message in seen:
        if message["mono_us"] <= best["mono_us"]:
            for found in message["objects"]:
                x_min, _, x_max, y_max = found["box"]
                ways[found.get("track", 0)].append(at((x_min + x_max) / 2, y_max))
    named: list[Caption] = []
    for found in best["objects"]:
        track = found.get("track")
        color = COLORS[track % len(COLORS)] if track else GREY
        if track:
            cv2.polylines(frame, [np.array(ways[track])], False, color, 2, cv2.LINE_AA)
        x_min, y_min, x_max, y_max = found["box"]
        cv2.rectangle(frame, at(x_min, y_min), at(x_max, y_max), color, 2, cv2.LINE_AA)
        cv2.circle(frame, at((x_min + x_max) / 2, y_max), 5, color, cv2.FILLED, cv2.LINE_AA)
        named.append(
            Caption(
                f"{found['label']} {track}" if track else found["label"], (*at(x_min, y_min), *at(x_max, y_max)), color
            )
        )
    write_captions(frame, named + captions)
    begun_us = min(message["mono_us"] for message in seen)
    told = [event for event in events if event["mono_us"] <= best["mono_us"]][-EVENTS:]
    told.sort(key=lambda event: event["mono_us"] - event.get("ago_s", 0.0) * 1e6)
    panel = np.full((24 * len(told) + 16, width, 3), 255, np.uint8)
    for row, event in enumerate(told):
        at_s = (event["mono_us"] - begun_us) / 1e6 - event.get("ago_s", 0.0)
        where = " ".join(str(event[key]) for key in ("zone", "wire", "direction") if key in event)
        if "dwell_s" in event:
            where += f", after {event['dwell_s']:.1f} s"
        color = COLORS[event["track"] % len(COLORS)]
        cv2.circle(panel, (20, 24 * row + 20), 6, color, cv2.FILLED, cv2.LINE_AA)
        columns = (f"{max(0.0, at_s):.1f} s", event["kind"], f"{event['label']} {event['track']}", where)
        for x, text in zip((40, 110, 270, 400), columns, strict=True):
            cv2.putText(panel, text, (x, 24 * row + 26), cv2.FONT_HERSHEY_SIMPLEX, 0.55, DARK, 1, cv2.LINE_AA)
    return np.concatenate([frame, panel])


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("config", type=Path)
    options.add_argument("pipeline")
    options.add_argument("clip", type=Path)
    options.add_argument("out", type=Path)
    given = options.parse_args()
    document = tomllib.loads(given.config.read_text())
    heard = run(document, given.pipeline, given.clip)
    picture = draw(document["pipeline"][given.pipeline], given.clip, heard)
    jpeg = given.out.suffix.lower() in (".jpg", ".jpeg")
    if not cv2.imwrite(str(given.out), picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if jpeg else []):
        raise SystemExit(f"{given.out}: cannot be written")
    events = sum(kind == "events" for kind, _ in heard)
    print(f"{given.out}: {events} events")


if __name__ == "__main__":
    main()
