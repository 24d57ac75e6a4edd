"""A really running agent follows people through zones and over a wire, and says so over MQTT."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from real import BUNDLE, CLIP, Agent, BrokerAddress, Message, Subscriber, write_pictures

from vedette.demo.broker import LOOPBACK, loopback_broker
from vedette.mqtt.schemas import schemas

pytestmark = pytest.mark.broker

CONFIG = f"""
device = "eye"
state_dir = "STATE"
[mqtt]
host = "{LOOPBACK}"
port = PORT
protocol = "3.1.1"
[pipeline.square]
model = "{BUNDLE}"
labels = ["person"]
[pipeline.square.source]
url = "{CLIP}"
pace = "native"
[pipeline.square.zones.left]
polygon = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]
[pipeline.square.zones.right]
polygon = [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]]
[pipeline.square.wires.middle]
line = [[0.5, 1.0], [0.5, 0.0]]
rightward = "east"
leftward = "west"
[pipeline.square.events]
debounce_s = 0.0
"""


class Walk:
    """What the agent said of the clip, from its start to its end."""

    def __init__(self, port: int, folder: Path) -> None:
        path = folder / "eye.toml"
        path.write_text(CONFIG.replace("STATE", str(folder / "state")).replace("PORT", str(port)))
        with Subscriber(port) as subscriber, Agent(path) as agent:
            self.exit_code = agent.wait(120)
            subscriber.wait("/status", lambda status: status["state"] == "stopped")
            self.log = agent.text()
            self.events = [m.json for m in subscriber.messages("square/events")]
            self.states = subscriber.messages("square/state")
            self.objects = [o for m in subscriber.messages("square/detections") for o in m.json["objects"]]
            self.moments = {m.json["mono_us"] for m in subscriber.messages("square/detections")}
            with Subscriber(port) as late:
                self.retained: Message = late.wait("square/state")

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] in kinds]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    if not BUNDLE.is_file():
        pytest.skip("the shipped detector is absent: what an agent says of people stays untested")
    with loopback_broker(os.environ.get("VEDETTE_TEST_BROKER", "auto")) as (_, port):
        yield Walk(port, tmp_path_factory.mktemp("walk"))


def test_it_ends_well(walk: Walk) -> None:
    assert walk.exit_code == 0 and "Traceback" not in walk.log, walk.log


def test_people_are_followed(walk: Walk) -> None:
    began, ended = walk.of("track_began"), walk.of("track_ended")
    assert len(began) >= 5
    assert {e["track"] for e in began} == {e["track"] for e in ended}
    assert {e["label"] for e in walk.events} == {"person"}
    followed = Counter(o["track"] for o in walk.objects if "track" in o)
    assert {e["track"] for e in began} <= set(followed)
    assert max(followed.values()) > 20, "one person in so many pictures is one track"


def test_what_is_entered_is_left_and_the_middle_is_crossed_where_zones_meet(walk: Walk) -> None:
    visits: set[tuple[int, str]] = set()
    for event in walk.of("zone_entered", "zone_left"):
        visit = (event["track"], event["zone"])
        if event["kind"] == "zone_entered":
            assert visit not in visits
            visits.add(visit)
        else:
            visits.remove(visit)
            assert event["dwell_s"] >= 0
    assert visits == set()
    assert {e["zone"] for e in walk.of("zone_entered")} == {"left", "right"}
    assert {e["direction"] for e in walk.of("wire_crossed")} <= {"east", "west"}


def test_events_meet_the_schema_and_are_of_a_picture(walk: Walk) -> None:
    validator = jsonschema.Draft202012Validator(schemas()["events.json"])
    for event in walk.events:
        validator.validate(event)
    assert [e["seq"] for e in walk.events] == list(range(1, len(walk.events) + 1))
    at_the_end = [e for e in walk.events if e["mono_us"] not in walk.moments]
    assert {e["kind"] for e in at_the_end} <= {"zone_left", "track_ended", "wire_crossed"}, "what was open, closed"


def test_the_state_counts_and_is_retained(walk: Walk) -> None:
    validator = jsonschema.Draft202012Validator(schemas()["state.json"])
    told = [m.json for m in walk.states]
    for state in told:
        validator.validate(state)
    assert max(state["counts"]["person"] for state in told if state["counts"]) >= 3
    assert len(told) < len(walk.moments), "only when it changes"
    assert walk.retained.retain and walk.retained.json["counts"] == {"person": 0}
    assert walk.retained.json["zones"] == {"left": {"person": 0}, "right": {"person": 0}}


def test_a_still_scene_is_hardly_looked_at(broker: BrokerAddress, tmp_path: Path) -> None:
    if not BUNDLE.is_file():
        pytest.skip("the shipped detector is absent: the gate in a running agent stays untested")
    write_pictures(tmp_path / "pictures", count=1, size=(240, 320))
    path = tmp_path / "gate.toml"
    path.write_text(
        f'device = "gate"\nstate_dir = "{tmp_path / "state"}"\n[mqtt]\nhost = "{LOOPBACK}"\nport = {broker.port}\n'
        f'protocol = "3.1.1"\n[intervals]\nstats_s = 0.5\n[pipeline.door]\nmodel = "{BUNDLE}"\n'
        f'[pipeline.door.source]\nurl = "{tmp_path / "pictures"}"\nfps = 50.0\nloop = true\n'
        "[pipeline.door.motion]\nhold_s = 0.5\nmax_skip_s = 60.0\n"
    )
    with Subscriber(broker.port) as subscriber, Agent(path) as agent:
        subscriber.wait("/stats", lambda stats: stats["dropped"].get("no_motion", 0) > 50)
        before = len(subscriber.messages("door/detections"))
        seen = subscriber.messages("/stats")[-1].json["dropped"]["no_motion"]
        subscriber.wait("/stats", lambda stats: stats["dropped"].get("no_motion", 0) > seen + 50)
        assert len(subscriber.messages("door/detections")) == before
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
