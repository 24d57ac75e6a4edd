"""What stands in ``examples/`` works as it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from real import BUNDLE, CLIP, ROOT, run_cli

from vedette.config import load_config

EXAMPLES = ROOT / "examples"
CONFIG = EXAMPLES / "pump-and-door.toml"
INSTALLED = "/opt/vedette/share/vedette"
ANOMALY = ROOT / "models" / "shuttle-anomaly.tflite"

needs_bundles = pytest.mark.skipif(
    not (BUNDLE.is_file() and ANOMALY.is_file()),
    reason="the shipped detector or anomaly network is absent: the example configuration stays unchecked",
)


def in_this_checkout() -> str:
    """The example with the installed paths replaced by those of the checkout that they come from."""
    text = CONFIG.read_text()
    return text.replace(f"{INSTALLED}/media", str(EXAMPLES / "media")).replace(
        f"{INSTALLED}/sensors", str(EXAMPLES / "sensors")
    )


def test_one_agent_has_a_camera_and_a_sensor() -> None:
    config = load_config(CONFIG)
    door, pump = config.pipelines["door"], config.pipelines["pump"]
    assert not door.detections and door.motion is not None and door.zones and door.wires and door.events is not None
    assert pump.source_config.url.startswith("exec:") and pump.steady is not None


def test_every_path_is_one_that_is_installed() -> None:
    shared = re.findall(rf"{INSTALLED}/(\S+?\.\w+)", CONFIG.read_text())
    assert shared
    where = {"media": EXAMPLES / "media", "sensors": EXAMPLES / "sensors", "examples": EXAMPLES}
    for path in shared:
        folder, name = path.split("/")
        assert (where[folder] / name).is_file(), path


@needs_bundles
def test_the_configuration_passes_its_check(tmp_path: Path) -> None:
    path = tmp_path / "pump-and-door.toml"
    path.write_text(in_this_checkout())
    outcome = run_cli("check", "--offline", "-c", path, VEDETTE_MODELS=str(ROOT / "models"))
    assert outcome.returncode == 0, outcome
    assert "coco-ssdlite-mobilenet-v2" in outcome.stdout and "shuttle-anomaly" in outcome.stdout


def test_the_pumps_program_prints_every_channel_of_the_network() -> None:
    with subprocess.Popen([sys.executable, EXAMPLES / "sensors" / "pump.py"], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        first, second = (json.loads(program.stdout.readline()) for _ in range(2))
        program.terminate()
    assert list(first) == ["t", *(f"f{n}" for n in range(1, 10))]
    assert second["t"] > first["t"]


@needs_bundles
@pytest.mark.parametrize("name", ["scene.jpg", "scene.png"])
def test_the_scene_of_a_clip_is_drawn(tmp_path: Path, name: str) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / name
    capture = cv2.VideoCapture(str(CLIP))
    size = tuple(int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10, size)
    for _ in range(30):
        writer.write(capture.read()[1])
    writer.release()
    capture.release()
    done = subprocess.run(
        [sys.executable, EXAMPLES / "draw_scene.py", CONFIG, "door", clip, out],
        capture_output=True, text=True, check=False, env={**os.environ, "VEDETTE_MODELS": str(ROOT / "models")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{name}: [1-9]\d* events", done.stdout)
    assert done.stderr.startswith(f"running on {clip}: 30 frames\n") and "imwrite" not in done.stderr.lower()
    drawn = cv2.imread(str(out))
    assert drawn.shape[1] == 960 and drawn.shape[0] > 720, "the picture, and events below it"
