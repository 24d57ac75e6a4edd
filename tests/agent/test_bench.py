"""What the benchmarks rest on: clips at another pace, the detector as MediaPipe takes it, the verdict on what got worse."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as paho
import pytest
from ai_edge_litert.interpreter import Interpreter
from paho.mqtt.enums import CallbackAPIVersion
from real import BrokerAddress, wait_for

from vedette import clock
from vedette.contract.types import UInt8Array
from vedette.demo.broker import LOOPBACK
from vedette.models.model import read_model, share_folder

BENCH = Path(__file__).parents[2] / "bench"
CLIP = share_folder("media") / "people-walking.mp4"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of bench/ by its name."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def frames(path: Path, count: int) -> tuple[float, list[UInt8Array]]:
    """What a clip says of its pace, and its first pictures."""
    capture = cv2.VideoCapture(str(path))
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    pictures = [np.asarray(capture.read()[1], np.uint8) for _ in range(count)]
    capture.release()
    return fps, pictures


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_clip_at_another_pace_has_the_same_pictures(bench: Any, tmp_path: Path, suffix: str) -> None:
    clip = CLIP
    if suffix == ".avi":
        clip = tmp_path / "clip.avi"
        writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
        for grey in range(0, 200, 20):
            writer.write(np.full((48, 64, 3), grey, np.uint8))
        writer.release()
    was, pictures = frames(clip, 8)
    fps, copies = frames(bench("_paced").paced(clip, 240.0, tmp_path), 8)
    assert was == pytest.approx(10, rel=0.01)
    assert fps == pytest.approx(240, rel=0.05)
    assert all(np.array_equal(a, b) for a, b in zip(pictures, copies, strict=True))


@pytest.mark.broker
def test_the_subscriber_hears_all_of_every_size_in_its_order(bench: Any, broker: BrokerAddress) -> None:
    sizes = [0, 1, 100, 113, 114, 16_000, 5] * 5
    if broker.name == "mosquitto":  # iotcore takes no more than 20 kB
        sizes += [70_000, 2_200_000, 5]  # lengths of three and four bytes; more than one read
    said = [(f"vedette/bench/p/{n}", bytes([n]) * size) for n, size in enumerate(sizes)]
    ear = bench("_ear").Ear(broker.port)
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect(LOOPBACK, broker.port)
    client.loop_start()
    try:
        client.publish("elsewhere", b"not for it", qos=1)
        for topic, payload in said:
            client.publish(topic, payload, qos=1)
        heard: list[tuple[int, str, bytes]] = []

        def everything() -> bool:
            heard.extend(ear.take())
            return len(heard) >= len(said)

        wait_for("all of it", everything, 60)
        assert [(topic, payload) for _, topic, payload in heard] == said
        times = [at_ns for at_ns, _, _ in heard]
        assert times == sorted(times) and times[-1] <= clock.now_ns()
    finally:
        client.disconnect()
        client.loop_stop()
        ear.close()


def test_what_mediapipe_takes_is_the_same_network(bench: Any, tmp_path: Path) -> None:
    bundle = read_model("coco-ssdlite-mobilenet-v2").bundle
    assert bundle is not None
    path = tmp_path / "adapted.tflite"
    path.write_bytes(bench("_mediapipe")._for_mediapipe(bundle.flatbuffer()))
    pixels = np.random.default_rng(1).integers(0, 256, (1, 300, 300, 3), np.uint8)
    shipped, adapted = Interpreter(str(bundle.path)), Interpreter(str(path))
    for interpreter, given in ((shipped, (pixels.astype(np.int16) - 128).astype(np.int8)), (adapted, pixels)):
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given)
        interpreter.invoke()
    for raw, real in zip(shipped.get_output_details(), adapted.get_output_details(), strict=True):
        scale, zero_point = raw["quantization"]
        expected = (shipped.get_tensor(raw["index"]).astype(np.float32) - zero_point) * scale
        np.testing.assert_allclose(adapted.get_tensor(real["index"]), expected, atol=1e-4)


def row(value: Any, *, target: str | None = None, holds: bool | None = None, **more: Any) -> dict[str, Any]:
    """A row of a results file."""
    return {"what": "x", "value": value, "unit": "ratio", "target": target, "holds": holds, "spread": None, **more}


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (row(1.0), row(1.01), "same"),
        (row(1.0), row(1.1), "moved"),
        (row(5.0, unit="million"), row(5.2, unit="million"), "worse"),
        (row(5.0, unit="million"), row(4.8, unit="million"), "better"),
        (row(0.98, target=">= 0.97", holds=True), row(0.99, target=">= 0.97", holds=True), "same"),
        (row(1.2, target=">= 0.97", holds=True), row(1.0, target=">= 0.97", holds=True), "fell"),
        (row(1.2, target=">= 0.97", holds=True, spread=[1.0, 1.3]), row(1.0, target=">= 0.97", holds=True), "same"),
        (row(0.98, target=">= 0.97", holds=True, spread=0.1), row(0.96, target=">= 0.97", holds=False), "fell"),
        (
            row(90.0, target="<= 100", holds=True, unit="MB"),
            row(80.0, target="<= 100", holds=True, unit="MB"),
            "better",
        ),
        (row(0, target="== 0", holds=True), row(1, target="== 0", holds=False), "fell"),
        (row(0.9, target=">= 0.97", holds=False), row("not measured", target=">= 0.97", holds=False), "moved"),
    ],
)
def test_the_verdict_on_a_figure(bench: Any, old: dict[str, Any], new: dict[str, Any], verdict: str) -> None:
    [line] = bench("compare").compare_rows("pipeline", [old], [new])
    assert line.verdict == verdict


def test_a_promise_that_has_vanished_fell(bench: Any) -> None:
    compare_rows = bench("compare").compare_rows
    [line] = compare_rows("pipeline", [row(1.0, target=">= 0.97", holds=True)], [])
    assert line.verdict == "fell"
    assert compare_rows("pipeline", [], [row(1.0, target=">= 0.97", holds=True)])[0].verdict == "new"


def test_on_another_machine_only_ratios_are_compared(bench: Any) -> None:
    old, new = row(90.0, target="<= 100", holds=True, unit="MB"), row(120.0, target="<= 100", holds=False, unit="MB")
    assert bench("compare").compare_rows("pipeline", [old], [new], ratios_only=True) == []
