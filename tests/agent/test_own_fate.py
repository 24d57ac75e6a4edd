"""Each pipeline has its own fate: what is final for one is an alert, and the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from accelerator import LABELS
from real import DATA, Agent, BrokerAddress, Subscriber, agent_config, run_cli, wait_for
from test_agent import endless, finite, protocol
from test_engine_selftest import golden_for

from tiny import make_manifest
from vedette.contract import golden
from vedette.contract.bundle import write_bundle
from vedette.contract.manifest import Tolerance
from vedette.demo.broker import LOOPBACK

pytestmark = pytest.mark.broker

# An agent whose runtime fails for good while it runs the network of ``gate``
FAILING = """
import sys
from vedette import engine
from vedette.cli import main
from vedette.contract.errors import EngineFaultError

invoke = engine.TfliteEngine.invoke
runs = 0

def failing(self, inputs, outputs, **options):
    global runs
    if inputs[0].dtype == "int8":
        runs += 1
        if runs > 20:
            raise EngineFaultError("invoke failed", where="tiny-int8.tflite", found="a node")
    invoke(self, inputs, outputs, **options)

engine.TfliteEngine.invoke = failing
sys.exit(main(sys.argv[1:]))
"""


def unfit_bundle(folder: Path) -> Path:
    """One that says of its golden inputs what its network does not."""
    flatbuffer = (DATA / "tiny-uint8.tflite").read_bytes()
    right = golden_for("uint8", "litert")
    wrong = replace(right, class_ids=(right.class_ids + 1) % 4)
    members = {"labels.txt": LABELS, "golden.npz": golden.encode(wrong)}
    close = Tolerance(min_agreement=0.9, max_mean_score_error=0.05)
    manifest = make_manifest(flatbuffer, members, tolerances={"xnnpack": close, "builtin": close}, precision="int8")
    path = folder / "unfit.tflite"
    write_bundle(path, flatbuffer, manifest, members)
    return path


def with_gate(config: Path, model: Path, *, plain: bool) -> Path:
    """Another pipeline, ``gate``, on the same source."""
    text = config.read_text()
    door = text[text.index("[pipeline.door]") :]
    gate = door.replace("pipeline.door", "pipeline.gate").replace(str(DATA / "tiny-uint8.tflite"), str(model))
    if not plain:
        gate = gate[: gate.index("[pipeline.gate.plain]")]
    config.write_text(text + gate)
    return config


def test_a_model_that_fails_its_self_test_is_left_out(tmp_path: Path, broker: BrokerAddress) -> None:
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker))
    with_gate(config, unfit_bundle(tmp_path), plain=False)
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        alert = subscriber.wait("/status", lambda status: status["state"] == "alert").json
        assert "gate: " in alert["why"] and "self-test failed on this machine" in alert["why"]
        assert alert["pipelines"] == ["door", "gate"]
        subscriber.wait("/door/detections", lambda message: message["seq"] > 5)
        assert subscriber.messages("/status")[-1].json["state"] == "alert", "as long as it is so"
        reply = run_cli("command", "dev-1", "enable", "gate", "off", "--broker", f"{LOOPBACK}:{broker.port}",
                        "--protocol", broker.protocols[0])  # fmt: skip
        assert reply.returncode == 2 and "gate" in reply.stdout + reply.stderr
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
        assert not subscriber.messages("/gate/detections")
    assert agent.text().count("pipeline gate is left out") == 1


def test_alone_it_ends_the_agent(tmp_path: Path, broker: BrokerAddress) -> None:
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker), top='log_level = "warning"')
    text = config.read_text().replace(str(DATA / "tiny-uint8.tflite"), str(unfit_bundle(tmp_path)))
    config.write_text(text[: text.index("[pipeline.door.plain]")])
    outcome = run_cli("run", "-c", config)
    assert outcome.returncode == 1
    assert len(outcome.stderr.splitlines()) == 1 and "self-test failed" in outcome.stderr, outcome.stderr


def test_it_is_told_when_the_others_have_come_to_their_end(tmp_path: Path, broker: BrokerAddress) -> None:
    config = agent_config(tmp_path, broker.port, finite(tmp_path), mqtt=protocol(broker))
    with_gate(config, unfit_bundle(tmp_path), plain=False)
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        assert agent.wait() == 1
        subscriber.wait("/status", lambda status: status["state"] == "stopped")
        assert len(subscriber.messages("/door/detections")) == 20


class FailingAgent(Agent):
    """See `FAILING`."""

    def __enter__(self) -> FailingAgent:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", FAILING, "run", "-c", str(self.config)],
                env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self


def test_an_engine_that_fails_ends_its_own_pipeline(tmp_path: Path, broker: BrokerAddress) -> None:
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker))
    with_gate(config, DATA / "tiny-int8.tflite", plain=True)
    with Subscriber(broker.port) as subscriber, FailingAgent(config) as agent:
        subscriber.wait("/gate/detections")
        alert = subscriber.wait("/status", lambda status: status["state"] == "alert").json
        assert "gate: " in alert["why"] and "invoke failed" in alert["why"]
        last = subscriber.messages("/door/detections")[-1].json["seq"]
        subscriber.wait("/door/detections", lambda message: message["seq"] > last + 10)

        def frames() -> int:
            return [m.json["frames"] for m in subscriber.messages("/gate/stats")][-1]

        wait_for("its source to be let go", lambda: frames() == 0)
        assert "door" not in alert["why"]
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
