"""A plain model of another task, through a running agent to a subscriber."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import jsonschema
from real import DATA, ROOT, Agent, Subscriber

from vedette.demo.broker import LOOPBACK, loopback_broker
from vedette.mqtt.schemas import schemas

CONFIG = f"""
device = "eye"
state_dir = "FOLDER/state"
[mqtt]
host = "{LOOPBACK}"
port = PORT
protocol = "PROTOCOL"
[pipeline.booth]
model = "{DATA / "selfie_segmentation.tflite"}"
[pipeline.booth.source]
url = "FOLDER/pictures"
fps = 20.0
loop = true
[pipeline.booth.plain]
labels_file = "FOLDER/labels.txt"
[pipeline.booth.plain.input]
height = 256
width = 256
resize = "letterbox"
std = [255.0]
[pipeline.booth.plain.output]
decoder = "segment"
"""

# pixels so large that sums of them are infinite
OVERFLOWS = f"""
[intervals]
stats_s = 0.5
[pipeline.booth]
model = "{DATA / "tiny-float32.tflite"}"
[pipeline.booth.source]
url = "FOLDER/pictures"
fps = 20.0
loop = true
[pipeline.booth.plain]
labels_file = "{DATA / "tiny-labels.txt"}"
[pipeline.booth.plain.input]
height = 16
width = 16
mean = [0.0]
std = [1e-36]
[pipeline.booth.plain.output]
decoder = "classify"
"""


def test_a_network_that_gives_no_numbers_is_an_alert_and_not_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(ROOT / "models" / "golden" / "astronaut.jpg", tmp_path / "pictures")
    config = tmp_path / "eye.toml"
    with loopback_broker(os.environ.get("VEDETTE_TEST_BROKER", "auto")) as (name, port):
        text = (
            (CONFIG.partition("[pipeline")[0] + OVERFLOWS).replace("FOLDER", str(tmp_path)).replace("PORT", str(port))
        )
        config.write_text(text.replace("PROTOCOL", "5" if name == "mosquitto" else "3.1.1"))
        with Subscriber(port) as subscriber, Agent(config):
            status = subscriber.wait("/status", lambda status: status["state"] == "alert").json
            stats = subscriber.wait("/booth/stats", lambda stats: stats["dropped"].get("no_number", 0) > 3).json
            assert subscriber.messages("/booth/detections") == []
    assert "booth: the network gives no finite numbers" in status["why"]
    assert stats["inferred"] == 0


def test_what_covers_the_picture_reaches_a_subscriber(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(ROOT / "models" / "golden" / "astronaut.jpg", tmp_path / "pictures")
    (tmp_path / "labels.txt").write_text("person\n")
    config = tmp_path / "eye.toml"
    with loopback_broker(os.environ.get("VEDETTE_TEST_BROKER", "auto")) as (name, port):
        text = CONFIG.replace("FOLDER", str(tmp_path)).replace("PORT", str(port))
        config.write_text(text.replace("PROTOCOL", "5" if name == "mosquitto" else "3.1.1"))
        with Subscriber(port) as subscriber, Agent(config):
            message = subscriber.wait("/booth/detections").json
    jsonschema.Draft202012Validator(schemas()["segments.json"]).validate(message)
    [segment] = message["segments"]
    assert segment["label"] == "person" and 0.4 < segment["share"] < 0.65
    assert message["frame"] == {"seq": message["frame"]["seq"], "width": 512, "height": 512}
