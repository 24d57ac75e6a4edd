"""Tables of tracks, zones, wires, events, steady states and the gate: what is read, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vedette.config import PipelineConfig, parse_config
from vedette.contract.errors import ConfigError
from vedette.flow.motion import MotionOptions
from vedette.follow.events import SceneOptions
from vedette.follow.steady import SteadyOptions
from vedette.follow.track import TrackOptions
from vedette.follow.zones import WireOptions, ZoneOptions

PATH = Path("v.toml")
DOOR = '[pipeline.door]\nmodel = "m"\nsource = "clip.mp4"\n'
YARD = "[pipeline.door.zones.yard]\npolygon = [[0.0, 0.5], [1, 0.5], [0.5, 1.0]]\n"


def door(text: str) -> PipelineConfig:
    return parse_config((DOOR + text).encode(), PATH).pipelines["door"]


def test_everything_said_is_read() -> None:
    config = door(
        YARD
        + """
[pipeline.door.track]
low_score = 0.3
min_hits = 4
[pipeline.door.zones.porch]
polygon = [[0.0, 0.0], [0.1, 0.0], [0.1, 0.1]]
point = "centre"
labels = ["dog"]
[pipeline.door.wires.gate]
line = [[0.2, 0.6], [0.8, 0.6]]
rightward = "down"
leftward = "up"
[pipeline.door.events]
min_duration_s = 2
report = ["zone_left"]
[pipeline.door.motion]
ignore = [[[0, 0], [0.5, 0], [0.5, 0.5]]]
[pipeline.door.steady]
enter = 2
of = 4
"""
    )
    assert config.track == config.follows == TrackOptions(low_score=0.3, min_hits=4)
    assert config.zones == {
        "yard": ZoneOptions(polygon=((0.0, 0.5), (1.0, 0.5), (0.5, 1.0))),
        "porch": ZoneOptions(polygon=((0.0, 0.0), (0.1, 0.0), (0.1, 0.1)), point="centre", labels=("dog",)),
    }
    assert config.wires == {"gate": WireOptions(line=((0.2, 0.6), (0.8, 0.6)), rightward="down", leftward="up")}
    assert config.events == SceneOptions(min_duration_s=2.0, report=("zone_left",))
    assert config.motion == MotionOptions(ignore=(((0.0, 0.0), (0.5, 0.0), (0.5, 0.5)),))
    assert config.steady == SteadyOptions(enter=2, of=4)


WIRE = "[pipeline.door.wires.gate]\nline = [[0, 0], [1, 1]]\n"


@pytest.mark.parametrize("table", ["[pipeline.door.track]\n", YARD, WIRE, "[pipeline.door.events]\n"])
def test_any_of_the_four_tables_turns_tracking_on(table: str) -> None:
    assert door(table).follows == TrackOptions()


def test_without_a_table_nothing_is_followed() -> None:
    config = door("")
    assert (config.follows, config.motion, config.steady, config.events) == (None, None, None, None)
    assert (config.zones, config.wires) == ({}, {})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[pipeline.door.zones.yard]\npolygon = [[0, 0], [1, 1]]\n",
         "v.toml:5: pipeline.door.zones.yard.polygon: bad value: expected at least 3 corners, found 2"),
        (YARD + "[pipeline.door.zones.b]\npolygon = [[0, 0], [1, 1], [1, 0], [0, 1]]\n",
         "v.toml:7: pipeline.door.zones.b.polygon: bad value: expected edges that do not cross or touch, found those from "
         "corners 1 and 3 doing so"),
        (YARD + "[pipeline.door.zones.b]\npolygon = [[0, 0], [1, 1.5], [1, 0]]\n",
         "v.toml:7: pipeline.door.zones.b.polygon.1.1: bad value: expected number <= 1.0, found 1.5"),
        (YARD + "[pipeline.door.zones.b]\npolygn = []\n",
         "v.toml:7: pipeline.door.zones.b.polygn: unknown key: expected one of polygon, point, labels; did you mean "
         "'polygon'?"),
        ("[pipeline.door.zones.yard]\n", "v.toml:4: pipeline.door.zones.yard: missing key: expected polygon = ..."),
        ("[pipeline.door.zones.'a b']\npolygon = [[0, 0], [1, 1], [1, 0]]\n",
         "v.toml:1: pipeline.door.zones: bad value: expected names of 1 to 64 letters, digits, - and _, found 'a b'"),
        ("[pipeline.door.zones]\nyard = 3\n", "v.toml:5: pipeline.door.zones.yard: bad value: expected table, found 3"),
        ("[pipeline.door.wires.gate]\nline = [[0, 0], [0, 1], [1, 1]]\n",
         "v.toml:5: pipeline.door.wires.gate.line: bad value: expected list of length 2, found a list"),
        ("[pipeline.door.wires.gate]\nline = [[0, 0], [0, 0]]\n",
         "v.toml:5: pipeline.door.wires.gate.line: bad value: expected two ends at least 0.001 apart, found "
         "(0.0, 0.0) and (0.0, 0.0)"),
        ("[pipeline.door.wires.gate]\nline = [[0, 0], [0, 1]]\npoint = 'top'\n",
         "v.toml:6: pipeline.door.wires.gate.point: bad value: expected one of 'bottom', 'centre', found 'top'"),
        ("[pipeline.door.wires.gate]\nline = [[0, 0], [0, 1]]\nleftward = 'a b'\n",
         "v.toml:6: pipeline.door.wires.gate.leftward: bad value: expected 1 to 64 letters, digits, - and _, found 'a b'"),
        ("[pipeline.door.motion]\nignore = [[[0, 0], [1, 1]]]\n",
         "v.toml:5: pipeline.door.motion.ignore: bad value: expected at least 3 corners, found 2"),
        ("[pipeline.door.events]\nreport = ['track_began', 'left']\n",
         "v.toml:5: pipeline.door.events.report.1: bad value: expected one of 'track_began', 'track_ended', "
         "'wire_crossed', 'zone_entered', 'zone_left', found 'left'"),
        ("[pipeline.door.steady]\noff_score = 0.9\n",
         "v.toml:5: pipeline.door.steady.off_score: bad value: expected at most on_score = 0.6, found 0.9"),
        ("[pipeline.door.snapshots]\nmax_files = 9\n",
         "v.toml:4: pipeline.door.snapshots.folder: bad value: expected one, or mqtt = true, for a picture must "
         "go somewhere"),
        ("[pipeline.door.snapshots]\nfolder = '~/seen'\n",
         "v.toml:5: pipeline.door.snapshots.folder: bad value: expected the whole path, for ~ is a shell's word, found "
         "'~/seen'"),
        ("[pipeline.door.track]\nkeep_s = 0\n",
         "v.toml:5: pipeline.door.track.keep_s: bad value: expected number > 0.0, found 0"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        door(text)
    assert str(caught.value) == line
