"""The agent on arm64: what pip installs there, and whether it finds there what it finds here.

The processor is emulated, so nothing is said about speed. A figure that a real board could falsify is the board's to say.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as paho
import pytest
from machine import wait_until
from paho.mqtt.enums import CallbackAPIVersion
from userland import PROJECT, WITHIN, Userland, constraints, requirements, resolved, why_not

from vedette.contract.boxes import iou
from vedette.contract.image import ImagePreprocessor
from vedette.demo.broker import LOOPBACK, loopback_broker
from vedette.models.model import load_model, read_model

CLIP = PROJECT / "examples" / "media" / "people-walking.mp4"
PYTHON = f"{WITHIN}/bin/python3"
DETECTOR = "coco-ssdlite-mobilenet-v2"
SMALL = ("cifar10-resnet8", "shuttle-anomaly", "watch-activity")
FRAMES = 5
EVERY = 24  # frames of the clip between two of these
THRESHOLD = 0.4
# OpenCV's resizing rounds a fifth of the values to the next grey there, and int8 makes steps of that
NEAR = 0.1  # of a score; 0.08 was seen, two steps
OVERLAP = 0.8  # IoU of two boxes of one object; 0.87 was seen
WHEEL = re.compile(r"-(?:none-any|(?:cp\d+|py\d)-(?:cp\d+|abi3|none)-[\w.]*manylinux[\w.]*_aarch64[\w.]*)\.whl$")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_package_of_the_agent_has_a_wheel_for_arm64(python: str) -> None:
    wanted = requirements("demo", "serial")
    try:
        files = resolved(python, wanted, "--constraint", str(constraints(python)))
    except OSError as error:
        pytest.skip(str(error))
    assert len(files) >= len(wanted)
    assert [file for file in files if not WHEEL.search(file)] == []
    minor = python.replace(".", "")
    for_another = [f for f in files if (tag := re.search(r"-cp(\d+)-cp\d+-", f)) and tag[1] != minor]
    assert for_another == [], f"not for Python {python}"


@pytest.mark.parametrize("python", ["3.11"])
def test_the_older_runtime_has_wheels_too(python: str) -> None:
    try:
        files = resolved(python, ["--requirement", str(PROJECT / "constraints" / "py311-tflite-runtime.txt")])
    except OSError as error:
        pytest.skip(str(error))
    assert any(file.startswith("tflite_runtime-2.14.0-cp311-cp311-manylinux") for file in files)
    assert [file for file in files if not WHEEL.search(file)] == []


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Userland]:
    """With a short clip and a picture of it in its folder."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("arm64")
    _shorten(CLIP, folder / "clip.mp4", folder / "picture.png")
    with Userland(folder) as userland:
        yield userland


def _shorten(clip: Path, to: Path, picture: Path) -> None:
    """A few frames of the shipped clip, far apart; the first as a picture, too."""
    capture = cv2.VideoCapture(str(clip))
    writer = None
    for number in range(FRAMES * EVERY):
        ok, pixels = capture.read()
        assert ok, f"the clip has no frame {number}"
        if number % EVERY == 0:
            if writer is None:
                height, width = pixels.shape[:2]
                writer = cv2.VideoWriter(str(to), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (width, height))
                cv2.imwrite(str(picture), pixels)
            writer.write(pixels)
    capture.release()
    assert writer is not None
    writer.release()


class Listener:
    """Keeps what each device says."""

    def __init__(self, port: int) -> None:
        self._lock = threading.Lock()
        self._messages: list[tuple[str, Any]] = []
        subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = self._hear
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def _hear(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        with self._lock:
            self._messages.append((message.topic, json.loads(message.payload)))

    def of(self, topic: str) -> list[Any]:
        """The messages of one topic, in order."""
        with self._lock:
            return [message for heard, message in self._messages if heard == topic]

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def _configure(folder: Path, seen_as: str, device: str, port: int) -> str:
    """An agent's configuration in ``folder``, which the agent sees as ``seen_as``; its path there."""
    (folder / f"{device}.toml").write_text(
        f'device = "{device}"\nstate_dir = "{seen_as}/{device}"\n'
        f'[mqtt]\nhost = "{LOOPBACK}"\nport = {port}\n'
        f'[pipeline.door]\nmodel = "{DETECTOR}"\nthreshold = {THRESHOLD}\npublish_empty = true\n'
        f'[pipeline.door.source]\nurl = "{seen_as}/clip.mp4"\npace = "max"\n'
    )
    return f"{seen_as}/{device}.toml"


def test_the_agent_finds_there_what_it_finds_here(arm64: Userland) -> None:
    folder = arm64.folder
    with loopback_broker() as (_, port):
        listener = Listener(port)
        here = _configure(folder, str(folder), "x86", port)
        subprocess.run([sys.executable, "-m", "vedette", "run", "-c", here], check=True, timeout=120)
        there = _configure(folder, "/work", "arm64", port)
        arm64.run(PYTHON, "-m", "vedette", "run", "-c", there, processor="cortex-a76", timeout_s=360)
        devices = ("x86", "arm64")
        for device in devices:
            wait_until(
                lambda device=device: any(s["state"] == "stopped" for s in listener.of(f"vedette/{device}/status")),
                f"the last words of {device}",
            )
        listener.stop()
    found = {device: listener.of(f"vedette/{device}/door/detections") for device in devices}
    assert [m["seq"] for m in found["arm64"]] == [m["seq"] for m in found["x86"]] == list(range(1, FRAMES + 1))
    assert sum(len(message["objects"]) for message in found["x86"]) >= 2 * FRAMES, "there are people on each picture"
    for one, other in zip(found["x86"], found["arm64"], strict=True):
        assert one["model"] == other["model"]
        assert one["engine"]["delegate"] == other["engine"]["delegate"] == "xnnpack"
        _assert_alike(one["objects"], other["objects"])
    [model, *_] = listener.of("vedette/arm64/door/model")
    assert model["self_test"] == "passed", model
    [row] = [row for row in listener.of("vedette/arm64/ledger")[-1]["streams"] if row["topic"] == "detections"]
    assert (row["last"], row["acknowledged"], row["waiting"]) == (FRAMES, FRAMES, 0)


def _assert_alike(some: list[Any], others: list[Any]) -> None:
    """Each object of one list is in the other, too; of one at the very threshold nobody can say."""
    for one, other in ((some, others), (others, some)):
        sure = [wanted for wanted in one if wanted["score"] > THRESHOLD + NEAR]
        assert [wanted for wanted in sure if not any(_same(wanted, found) for found in other)] == []


def _same(one: Any, other: Any) -> bool:
    boxes = [np.array([found["box"]], np.float32) for found in (one, other)]
    near = abs(one["score"] - other["score"]) <= NEAR and float(iou(*boxes)[0, 0]) >= OVERLAP
    return near and one["label"] == other["label"]


INFER = """
import numpy, sys
from vedette.models.model import load_model, read_model
engine = load_model(read_model(sys.argv[1])).engine
inputs, outputs = engine.allocate()
inputs[0][...] = numpy.load("/work/input.npy")
engine.invoke(inputs, outputs)
numpy.savez("/work/outputs.npz", *outputs)
"""


@pytest.mark.parametrize("processor", ["cortex-a72", "cortex-a76"])
def test_the_same_input_gives_the_very_same_outputs(arm64: Userland, processor: str) -> None:
    """With the int8 dot product XNNPACK has other kernels than without."""
    model = load_model(read_model(DETECTOR))
    inputs, here = model.engine.allocate()
    ImagePreprocessor(model.input, model.engine.inputs[0])(cv2.imread(str(arm64.folder / "picture.png")), inputs[0])
    np.save(arm64.folder / "input.npy", inputs[0])
    model.engine.invoke(inputs, here)
    arm64.run(PYTHON, "-c", INFER, DETECTOR, processor=processor)
    there = np.load(arm64.folder / "outputs.npz")
    assert len(here) == len(there) == 2
    for number, output in enumerate(here):
        np.testing.assert_array_equal(output, there[f"arr_{number}"])


SELF_TESTS = """
import json, sys
from vedette.models.model import load_model, read_model, self_test
for name in sys.argv[1:]:
    outcome = self_test(load_model(read_model(name)))
    print(json.dumps([name, outcome.passed, outcome.reason]))
"""


def test_the_small_bundles_pass_their_self_tests_on_an_older_processor(arm64: Userland) -> None:
    said = arm64.run(PYTHON, "-c", SELF_TESTS, *SMALL, processor="cortex-a72")
    outcomes = [json.loads(line) for line in said.splitlines()]
    assert [(name, passed) for name, passed, _ in outcomes] == [(name, True) for name in SMALL], outcomes
