"""MediaPipe Tasks' ObjectDetector in live-stream mode, fed with a clip as fast as it takes it, publishing what it finds.

At most two frames are with the detector at a time, one at work and one waiting, so that it throws none away that was
decoded for it; the next is read meanwhile. Messages go out from its callback with QoS 0. Runs in MediaPipe's environment;
prints one line of JSON as ``bare.py`` does, with ``frames`` in the place of ``invoke_ms``, and latency_ms from the frame in
memory to ``publish()``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import cv2
import mediapipe as mp
import paho.mqtt.client as paho
from mediapipe.tasks.python import BaseOptions, vision
from paho.mqtt.enums import CallbackAPIVersion

WARM = 30  # results before it counts
TOPIC = "vedette/mediapipe/clip/detections"
PATIENCE_S = 2.0  # for a result, before its frame counts as thrown away


def main() -> int:
    """Arguments: MODEL CLIP PORT THRESHOLD MAX_RESULTS SECONDS."""
    model, clip, port, threshold, most, seconds = sys.argv[1:]
    capture = cv2.VideoCapture(clip)
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", int(port))
    client.loop_start()
    room = threading.Semaphore(2)
    captured: dict[int, float] = {}
    latency_ms: list[float] = []
    marks: list[tuple[float, float]] = []  # when it began to count and when it was over: time, CPU
    counted: list[int] = []
    over = threading.Event()

    def found(result: Any, image: Any, timestamp_ms: int) -> None:
        objects = [
            {
                "label": one.categories[0].category_name,
                "score": round(one.categories[0].score, 4),
                "box": [one.bounding_box.origin_x, one.bounding_box.origin_y, one.bounding_box.width,
                        one.bounding_box.height],
            }
            for one in result.detections
        ]  # fmt: skip
        client.publish(TOPIC, json.dumps({"frame": timestamp_ms, "ts": time.time(), "objects": objects}))
        now = time.perf_counter()
        latency_ms.append((now - captured.pop(timestamp_ms)) * 1e3)
        room.release()
        if len(latency_ms) == WARM:
            marks.append((now, time.process_time()))
        elif len(marks) == 1 and now - marks[0][0] >= float(seconds):
            marks.append((now, time.process_time()))
            counted.append(len(latency_ms) - WARM)
            over.set()

    options = vision.ObjectDetectorOptions(
        base_options=BaseOptions(model_asset_path=model), running_mode=vision.RunningMode.LIVE_STREAM,
        score_threshold=float(threshold), max_results=int(most), category_denylist=["background"], result_callback=found,
    )  # fmt: skip
    thrown_away = number = 0
    with vision.ObjectDetector.create_from_options(options) as detector:
        while not over.is_set():
            ok, frame = capture.read()
            if not ok:
                capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                ok, frame = capture.read()
            number += 1
            captured[number] = time.perf_counter()
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            thrown_away += not room.acquire(timeout=PATIENCE_S)
            detector.detect_async(image, number)
    client.loop_stop()
    (begun, cpu), (ended, cpu_then) = marks
    said = {"seconds": ended - begun, "cpu_s": cpu_then - cpu, "frames": counted[0], "latency_ms": latency_ms[WARM:]}
    print(json.dumps({**said, "thrown_away": thrown_away}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
