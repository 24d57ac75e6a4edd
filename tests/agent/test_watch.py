"""``vedette watch`` on a real broker: lines, numbers that are missing, reconnections, and how it ends."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from certificates import issue
from looking import STATUS, Looker, Terminal, Voice, detections
from real import Agent, BrokerAddress, Mosquitto, agent_config, needs_mosquitto, run_cli, wait_for, write_pictures

from vedette.demo.broker import LOOPBACK


def url(port: int, root: str = "") -> str:
    return f"mqtt://{LOOPBACK}:{port}{root}"


@pytest.fixture
def voice(broker: BrokerAddress) -> Voice:
    return Voice(broker.port, broker.protocols[0])


def test_every_kind_of_message_of_a_running_agent_is_one_line(broker: BrokerAddress, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    config = agent_config(
        tmp_path,
        broker.port,
        f'url = "images://{pictures}"\nloop = true\nfps = 20',
        mqtt=f'protocol = "{broker.protocols[0]}"',
    )
    with Looker("watch", url(broker.port)) as watch, Agent(config) as agent:
        for name, *says in (
            ("dev-1", "status", "ready", "epoch 1", "door"), ("dev-1", "health", "memory"), ("dev-1", "ledger", "streams"),
            ("dev-1/door", "detections", "#3", "infer"), ("dev-1/door", "stats", "in 2", "share"),
            ("dev-1/door", "model", "tiny-uint8", "self-test none"), ("dev-1/door", "settings", "on, threshold"),
        ):  # fmt: skip
            watch.line(name, *says)
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
        watch.line("status", "stopped")
        assert watch.end() == 0
    assert watch.errors == []
    assert not [line for line in watch.lines if "missing" in line or "not as documented" in line or "again" in line]


def test_missing_numbers_are_noticed_when_the_next_one_comes(broker: BrokerAddress, voice: Voice) -> None:
    with voice, Looker("watch", f"{url(broker.port)}/plant-7/v") as watch:
        topic = "plant-7/v/eye/door/detections"
        voice.say("plant-7/v/eye/status", STATUS, retain=True)
        watch.line("eye", "ready")
        for seq in (811, 815):
            voice.say(topic, detections(seq))
        voice.say(topic, detections(813, replay=True))
        for seq in (815, 816):
            voice.say(topic, detections(seq))
        voice.say(topic, detections(3, epoch=2))
        voice.say("plant-7/v/eye/door/events", {**detections(40), "kind": "track_began", "label": "cat", "track": 9})
        voice.say("plant-7/v/eye/door/events", {**detections(41), "kind": "zone_left", "zone": "yard", "dwell_s": 14.2})
        watch.line("zone left", "yard, stayed 14.2 s")
        assert watch.end() == 0
    said = [line.split("  ", 1)[1].strip() for line in watch.lines if "eye/door" in line]
    found = [" ".join(line.split()) for line in said]
    assert found[:9] == [
        "eye/door detections #811 person #7 0.91 infer 4.2, total 6.5 ms",
        "eye/door detections 3 missing: 812..814",
        "eye/door detections #815 person #7 0.91 infer 4.2, total 6.5 ms",
        "eye/door detections replay was missing #813 person #7 0.91 infer 4.2, total 6.5 ms",
        "eye/door detections again #815 person #7 0.91 infer 4.2, total 6.5 ms",
        "eye/door detections #816 person #7 0.91 infer 4.2, total 6.5 ms",
        "eye/door detections 2 missing: 1..2 after its agent was started again",
        "eye/door detections #3 person #7 0.91 infer 4.2, total 6.5 ms",
        "eye/door events #40 track began cat #9",
    ]


def test_the_agents_own_account_explains_what_is_missing(broker: BrokerAddress, voice: Voice) -> None:
    row = {"epoch": 1, "pipeline": "door", "topic": "detections", "acknowledged": 2, "waiting": 0, "rejected": 0}
    ranges = [{"first": 1, "last": 3, "reason": "drop_oldest"}, {"first": 6, "last": 6, "reason": "drop_oldest"}]
    ledger = {"ts": STATUS["since"], "streams": [{**row, "dropped": 4, "lost_at_crash": 0, "dropped_ranges": ranges}]}
    with voice, Looker("watch", url(broker.port)) as watch:
        voice.say("vedette/eye/status", STATUS, retain=True)
        watch.line("ready")
        for seq in (2, 5, 7):
            voice.say("vedette/eye/door/detections", detections(seq))
        for _ in range(2):
            voice.say("vedette/eye/ledger", ledger)
        voice.say("vedette/eye/door/detections", detections(8))
        watch.line("#8")
        assert watch.end() == 0
    explained = [line for line in watch.lines if "will not come" in line]
    assert [" ".join(line[line.index("eye") :].split()) for line in explained] == [
        "eye/door detections 3 will not come: the agent dropped them (drop_oldest)",
        "eye/door detections 6 will not come: the agent dropped them (drop_oldest)",
    ]


def test_json_is_what_was_received(broker: BrokerAddress, voice: Voice) -> None:
    with voice, Looker("watch", url(broker.port), "--json") as watch:
        voice.say("vedette/eye/status", STATUS, retain=True)
        wait_for("the status", lambda: watch.lines)
        voice.say("vedette/eye/door/snapshot", b"\xff\xd8\xff\xe0")
        voice.say("vedette/eye/door/state", b'{"counts" :\r\n  {"cat": 1}}')
        voice.say("vedette/eye/door/detections", detections(1))
        voice.say("vedette/eye/door/detections", detections(4))
        wait_for("all of them", lambda: len(watch.lines) == 5)
        wait_for("what is missing", lambda: watch.errors)
        assert watch.end() == 0
    documents = [json.loads(line) for line in watch.lines]
    assert documents[0]["payload"] == STATUS and documents[0]["topic"] == "vedette/eye/status"
    assert (documents[1]["bytes"], "payload" in documents[1]) == (4, False)
    assert documents[2]["payload"] == {"counts": {"cat": 1}}
    assert [d["payload"]["seq"] for d in documents[3:]] == [1, 4]
    assert {d["retained"] for d in documents[1:]} == {False}
    assert len(watch.errors) == 1 and "2 missing: 2..3" in watch.errors[0]


def test_what_is_kept_of_a_pipeline_that_is_gone_is_told_once(broker: BrokerAddress, voice: Voice) -> None:
    with voice:
        for topic in ("door/state", "gate/state", "gate/model", "yard/state"):
            voice.say(f"vedette/eye/{topic}", {"counts": {"cat": 1}} if "state" in topic else {}, retain=True)
        voice.say("vedette/ear/gate/state", {"counts": {}}, retain=True)  # of a device that says nothing of itself
        with Looker("watch", url(broker.port)) as watch:
            for pipeline in ("door", "gate", "yard"):
                watch.line(f"eye/{pipeline}", "state", "retained")
            voice.say("vedette/eye/status", STATUS, retain=True)
            watch.line("eye/gate", "left over: its agent has no such pipeline any more")
            voice.say("vedette/eye/status", {**STATUS, "pipelines": ["door", "yard"]}, retain=True)
            voice.say("vedette/eye/hall/state", {"counts": {}})  # news of one, not kept from before
            voice.say("vedette/eye/status", STATUS, retain=True)
            watch.line("eye/hall", "state")
            assert watch.end() == 0
        for topic in ("door/state", "gate/state", "gate/model", "yard/state", "status"):
            voice.say(f"vedette/eye/{topic}", b"", retain=True)
        voice.say("vedette/ear/gate/state", b"", retain=True)
    told = [line.split()[1] for line in watch.lines if "left over" in line]
    assert told == ["eye/gate", "eye/yard"]


def test_only_what_was_asked_for(broker: BrokerAddress, voice: Voice) -> None:
    options = (
        "--device",
        "eye",
        "--pipeline",
        "door",
        "--topic",
        "events",
        "--topic",
        "detections",
        "--topic",
        "status",
    )
    with voice, Looker("watch", url(broker.port), *options) as watch:
        voice.say("vedette/eye/status", STATUS, retain=True)
        watch.line("ready")
        for topic in ("ear/door/detections", "eye/gate/detections", "eye/door/stats", "eye/door/detections"):
            voice.say(f"vedette/{topic}", detections(1))
        watch.line("eye/door", "#1")
        assert watch.end(signal.SIGTERM) == 0
    assert len(watch.lines) == 2


def test_what_strangers_say_is_shown_harmless_and_cut(broker: BrokerAddress, voice: Voice) -> None:
    with voice, Looker("watch", url(broker.port)) as watch:
        voice.say("vedette/eye/status", STATUS, retain=True)
        watch.line("ready")
        for payload in (b"\x1b[2J" * 1000, b"[" * 5000, b"[]", b'{"seq":"x"}', b'{"seq":1e999}', json.dumps(
            {**detections(1), "ts": "yesterday"}).encode()):  # fmt: skip
            voice.say("vedette/eye/door/detections", payload)
        voice.say("vedette/eye/door/detections", detections(1, label="\x1b[31m" + "x" * 10_000))
        voice.say("vedette/a/b/c/d/e", b"deeper than any agent")
        voice.say("vedette/eye/door/of-tomorrow", {"new": True})
        watch.line("of-tomorrow", '{"new": true}')
        assert watch.end() == 0
    assert not any("\x1b" in line for line in watch.lines)
    assert len([line for line in watch.lines if "not as documented" in line]) == 6
    assert max(map(len, watch.lines)) < 1200
    assert watch.errors == []


@needs_mosquitto
def test_it_follows_through_reconnections(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path) as mosquitto,
        Looker("watch", url(mosquitto.port), "--topic", "detections", "--topic", "status") as watch,
    ):
        with Voice(mosquitto.port, "5") as voice:
            voice.say("vedette/eye/status", STATUS, retain=True)
            watch.line("ready")
            voice.say("vedette/eye/door/detections", detections(1))
            watch.line("detections  #1")
        mosquitto.kill()
        watch.line("not connected")
        mosquitto.start()
        watch.line("connected again")
        with Voice(mosquitto.port, "5") as voice:
            voice.say("vedette/eye/door/detections", detections(5))
            voice.say("vedette/eye/door/detections", detections(7))
            watch.line("detections  #7")
        assert watch.end() == 0
    assert [line[line.index("missing") :] for line in watch.lines if "missing" in line] == [
        "missing: 2..4, while this watch was not connected",
        "missing: 6",
    ]


@needs_mosquitto
@pytest.mark.parametrize("protocol", ["auto", "3.1.1"])
def test_a_broker_that_says_no(tmp_path: Path, protocol: str) -> None:
    passwords, rules = tmp_path / "passwords", tmp_path / "rules"
    passwords.write_text("ops:secret\n")
    rules.write_text("user ops\ntopic read vedette/eye/#\n")
    for file in (passwords, rules):
        file.chmod(0o600)
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("no mosquitto_passwd: passwords of those who watch stay untested")
    subprocess.run(["mosquitto_passwd", "-U", passwords], check=True)
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    lines = f"allow_anonymous false\npassword_file {passwords}\nacl_file {rules}\n"
    with Mosquitto(tmp_path, lines) as mosquitto:
        wrong = run_cli("watch", f"mqtt://ops:wrong@{LOOPBACK}:{mosquitto.port}", "--protocol", protocol)
        assert wrong.returncode == 2 and "the broker refuses" in wrong.stderr and "wrong" not in wrong.stderr
        right = f"mqtt://ops@{LOOPBACK}:{mosquitto.port}"
        with Looker(
            "watch", right, "--password-file", secret, "--protocol", protocol, "--device", "eye", "--json"
        ) as watch:
            wait_for("the connection", lambda: "vedette-look" in mosquitto.log.read_text())
            wait_for("the subscription", lambda: "Sending SUBACK" in mosquitto.log.read_text())
            assert watch.end() == 0


def test_nobody_there_is_one_line() -> None:
    outcome = run_cli("watch", f"mqtt://{LOOPBACK}:1")
    assert outcome.returncode == 2
    [line] = outcome.stderr.splitlines()
    assert line.startswith("vedette: error: 127.0.0.1:1: no broker")


def test_a_reader_that_has_gone_ends_it_quietly(broker: BrokerAddress, voice: Voice) -> None:
    with voice:
        voice.say("vedette/eye/status", STATUS, retain=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "vedette", "watch", url(broker.port)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        assert b"ready" in process.stdout.readline()
        process.stdout.close()

        def ended() -> bool:
            voice.say("vedette/eye/door/detections", detections(1))
            return process.poll() is not None

        wait_for("the end", ended)
        assert (process.returncode, process.stderr.read()) == (0, b"")
        process.stderr.close()


def test_a_closed_terminal_ends_it_unless_it_was_begun_with_nohup(broker: BrokerAddress, voice: Voice) -> None:
    with voice:
        voice.say("vedette/eye/status", STATUS, retain=True)
        for nohup in ([], ["nohup"]):
            process = subprocess.Popen(
                [*nohup, sys.executable, "-m", "vedette", "watch", url(broker.port)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            with process:
                assert process.stdout is not None
                assert b"ready" in process.stdout.readline()
                process.send_signal(signal.SIGHUP)
                if nohup:
                    voice.say("vedette/eye/door/detections", detections(1))
                    assert b"detections" in process.stdout.readline()
                    process.terminate()
                assert process.wait(30) == 0


def test_colours_where_there_is_a_terminal(broker: BrokerAddress, voice: Voice) -> None:
    with voice, Terminal("watch", url(broker.port)) as terminal:
        voice.say("vedette/eye/status", STATUS, retain=True)
        terminal.shows("\x1b[32mready\x1b[0m")
        terminal.type(b"\x03")
        assert terminal.process.wait(20) == 0


@needs_mosquitto
def test_a_broker_that_asks_for_a_certificate_gets_one(authority: Path, tmp_path: Path) -> None:
    certificate, key = issue(authority, tmp_path, "localhost")
    lines = (
        f"certfile {certificate}\nkeyfile {key}\ncafile {authority}/ca.pem\n"
        "require_certificate true\nallow_anonymous true\n"
    )
    with Mosquitto(tmp_path, lines) as mosquitto:
        where = (f"mqtts://localhost:{mosquitto.port}", "--ca-file", authority / "ca.pem")
        with Looker("watch", *where, "--cert-file", certificate, "--key-file", key) as watch:
            wait_for("a watch", lambda: "SUBSCRIBE" in mosquitto.log.read_text())
            assert watch.end() == 0
        refused = run_cli("top", "--count", "1", *where)
    assert refused.returncode == 2 and "certificate" in refused.stderr, refused
    for options, says in (
        (("mqtt://a", "--cert-file", "c"), "bad --cert-file: expected mqtts:// beside it"),
        (("mqtts://a", "--key-file", "k"), "bad --key-file: expected --cert-file beside it"),
    ):
        assert says in run_cli("watch", *options).stderr
