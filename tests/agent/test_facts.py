"""What Home Assistant is told follows from the configuration and the models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from real import BUNDLE, TINY

from vedette.config import Config, PipelineConfig, parse_config
from vedette.contract.manifest import AnomalyOutput, Channel, RegressOutput
from vedette.messages.facts import MAX_COUNTED, device_facts, pipeline_facts
from vedette.mqtt.discovery import PipelineFacts, discovery
from vedette.mqtt.topics import Topics
from vedette.service.compose import Prepared, prepare

pytestmark = pytest.mark.skipif(not BUNDLE.is_file(), reason="the shipped detector is absent")


def prepared(tmp_path: Path, pipeline: str, *, model: Path = BUNDLE, top: str = "") -> tuple[Config, list[Prepared]]:
    clip = tmp_path / "clip.mp4"
    clip.touch()
    text = f'state_dir = "{tmp_path}"\n{top}\n[pipeline.door]\nmodel = "{model}"\nsource = "{clip}"\n{pipeline}\n'
    config = parse_config(text.encode(), tmp_path / "vedette.toml")
    return config, prepare(config, tmp_path / "vedette.toml")


def test_a_camera_that_follows_nothing_has_no_state(tmp_path: Path) -> None:
    _, [door] = prepared(tmp_path, "")
    assert pipeline_facts(door) == PipelineFacts("door")


def test_a_camera_that_follows_has_counts_zones_and_thresholds(tmp_path: Path) -> None:
    _, [door] = prepared(
        tmp_path,
        'labels = ["person", "traffic light"]\nthresholds = { person = 0.6 }\n'
        "[pipeline.door.zones.porch]\npolygon = [[0, 0], [1, 0], [1, 1]]\n[pipeline.door.snapshots]\nmqtt = true\n",
    )
    assert pipeline_facts(door) == PipelineFacts(
        "door", "counts", ("person", "traffic light"), ("porch",), thresholds=("person",), snapshots=True
    )


def test_with_many_labels_their_total_is_enough(tmp_path: Path) -> None:
    _, [door] = prepared(tmp_path, "[pipeline.door.track]\n")
    assert pipeline_facts(door).labels == ()
    labels = [label for label in door.spec.labels if label != "???"][: MAX_COUNTED + 1]
    _, [door] = prepared(tmp_path, f"labels = {labels}\n[pipeline.door.track]\n")
    assert pipeline_facts(door).labels == ()
    assert pipeline_facts(door).shows == "counts"


def test_a_classifier_made_steady_has_a_class(tmp_path: Path, labels_file: Path) -> None:
    plain = f'[pipeline.door.plain]\nlabels_file = "{labels_file}"\noutput = {{ decoder = "classify" }}\n'
    _, [door] = prepared(tmp_path, plain, model=TINY)
    assert pipeline_facts(door).shows is None
    _, [door] = prepared(tmp_path, f"[pipeline.door.steady]\n{plain}", model=TINY)
    assert pipeline_facts(door) == PipelineFacts("door", "class", ("ash", "birch", "cedar", "elm"))


def test_sensors_have_an_anomaly_or_values(tmp_path: Path) -> None:
    _, [door] = prepared(tmp_path, "")
    series = replace(door, config=_steady(tmp_path))
    anomaly = replace(series, spec=replace(door.spec, output=AnomalyOutput(threshold=0.25)))
    assert pipeline_facts(anomaly) == PipelineFacts("door", "anomaly", max_threshold=1e6)
    quantities = (Channel(name="level", unit="cm"), Channel(name="flow"))
    values = replace(series, spec=replace(door.spec, output=RegressOutput(quantities=quantities)))
    assert pipeline_facts(values) == PipelineFacts(
        "door", "values", values=(("level", "cm"), ("flow", quantities[1].unit)), max_threshold=0.0
    )


def _steady(tmp_path: Path) -> PipelineConfig:
    text = b'[pipeline.door]\nmodel = "m"\nsource = "s"\n[pipeline.door.steady]\n'
    return parse_config(text, tmp_path / "x.toml").pipelines["door"]


def test_intervals_and_expiry_are_the_configurations(tmp_path: Path) -> None:
    config, doors = prepared(
        tmp_path, "", top="[intervals]\nstats_s = 5.0\nhealth_s = 60.0\n[home_assistant]\nenabled = true\n"
    )
    components = discovery(device_facts(config, doors), Topics("v", "eye"))["components"]
    assert (components["door_fps"]["expire_after"], components["temperature"]["expire_after"]) == (15, 180)
    assert "door_count" in components, "for Home Assistant, a detector's objects are followed and counted"
