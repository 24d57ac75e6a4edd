"""The loop that every tutorial has: read, convert, resize, invoke, decode, publish, one after another; at its fairest.

Where tutorials are careless, this is not: pixels become int8 without a detour through floats, boxes are decoded by the
agent's own vectorised decoder, and messages go out with QoS 0, which asks for no acknowledgement. OpenCV keeps its own
number of threads, as it does in tutorials. Prints one line of JSON as ``bare.py`` does, and besides: latency_ms from the
frame in memory to ``publish()``, and around_ms, the CPU of this thread a frame outside of reading and ``invoke()``.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as paho
from ai_edge_litert.interpreter import Interpreter
from paho.mqtt.enums import CallbackAPIVersion

from vedette.contract.decode import make_decoder
from vedette.contract.types import Detections, TensorSpec
from vedette.models.model import read_model

WARM = 30  # frames before it counts
TOPIC = "vedette/tutorial/clip/detections"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("threads", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("clip", help="or a camera's URL")
    parser.add_argument("port", type=int)
    parser.add_argument("--every", type=int, default=1, help="of so many frames that are read, one is looked at")
    arguments = parser.parse_args()

    interpreter = Interpreter(model_path=arguments.model, num_threads=arguments.threads)
    interpreter.allocate_tensors()
    input_details = interpreter.get_input_details()
    output_details = interpreter.get_output_details()
    _, height, width, _ = input_details[0]["shape"]
    labels, decode = _decoder(arguments.model, output_details)
    capture = cv2.VideoCapture(arguments.clip)
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", arguments.port)
    client.loop_start()

    invoke_ms: list[float] = []
    latency_ms: list[float] = []
    around_s: list[float] = []
    count = 0
    cpu = begun = 0.0
    while not begun or time.perf_counter() - begun < arguments.seconds:
        count += 1
        if count == WARM:
            invoke_ms.clear()
            latency_ms.clear()
            around_s.clear()
            cpu, begun = time.process_time(), time.perf_counter()
        for _ in range(arguments.every):
            ok, frame = capture.read()
        if not ok:
            capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            ok, frame = capture.read()
        captured, thread = time.perf_counter(), time.thread_time()

        rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        resized = cv2.resize(rgb, (width, height))
        input_data = np.expand_dims(resized, axis=0)
        if input_details[0]["dtype"] == np.int8:
            input_data = (input_data.astype(np.int16) - 128).astype(np.int8)
        interpreter.set_tensor(input_details[0]["index"], input_data)
        around = time.thread_time() - thread

        entered = time.perf_counter()
        interpreter.invoke()
        invoke_ms.append((time.perf_counter() - entered) * 1e3)

        thread = time.thread_time()
        found = decode([interpreter.get_tensor(detail["index"]) for detail in output_details])
        objects = []
        for box, score, class_id in zip(found.boxes, found.scores, found.class_ids, strict=True):
            x_min, y_min, x_max, y_max = (round(float(side), 4) for side in box)
            objects.append(
                {"label": labels[class_id], "score": round(float(score), 4), "box": [x_min, y_min, x_max, y_max]}
            )
        client.publish(TOPIC, json.dumps({"frame": count, "ts": time.time(), "objects": objects}))
        around_s.append(around + time.thread_time() - thread)
        latency_ms.append((time.perf_counter() - captured) * 1e3)
    seconds = time.perf_counter() - begun
    cpu_s = time.process_time() - cpu
    said = {"seconds": seconds, "cpu_s": cpu_s, "invoke_ms": invoke_ms, "latency_ms": latency_ms}
    print(json.dumps({**said, "around_ms": sum(around_s) / len(around_s) * 1e3}))
    client.loop_stop()


def _decoder(model: str, details: list[dict[str, Any]]) -> tuple[tuple[str, ...], Any]:
    spec = read_model(model)
    tensors = [
        TensorSpec(
            d["name"], tuple(int(n) for n in d["shape"]), np.dtype(d["dtype"]), float(d["quantization"][0]),
            int(d["quantization"][1]),
        )
        for d in details
    ]  # fmt: skip
    decoder = make_decoder(spec.output, tensors, len(spec.labels), input_spec=spec.input)

    def decode(outputs: list[Any]) -> Detections:
        found = decoder(outputs)
        assert isinstance(found, Detections)
        return found

    return spec.labels, decode


if __name__ == "__main__":
    main()
