"""The agent as a process of its own: how it begins, ends, is killed, and what others then know of it."""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TextIO

import msgspec
import pytest
from camera import CameraServer, Pusher
from disks import Mount, fill, needs_root
from real import (
    CLIP,
    DEADLINE_S,
    Agent,
    BrokerAddress,
    Mosquitto,
    Subscriber,
    agent_config,
    needs_mosquitto,
    run_cli,
    wait_for,
    write_pictures,
)

from vedette.demo.broker import LOOPBACK, free_port

SECRET = "s3cret"


def endless(folder: Path) -> str:
    """A source of pictures for ever, twenty a second."""
    write_pictures(folder / "pictures")
    return f'url = "{folder / "pictures"}"\nfps = 20.0\nloop = true'


def finite(folder: Path, count: int = 20) -> str:
    """A source of so many pictures, as fast as they are taken."""
    write_pictures(folder / "pictures", count)
    return f'url = "{folder / "pictures"}"\npace = "max"'


def protocol(broker: BrokerAddress) -> str:
    return f'protocol = "{broker.protocols[0]}"'


SYSTEMD_BYTES = 4096  # of a datagram that systemd reads: its NOTIFY_BUFFER_MAX


class Supervisor:
    """What systemd is to a notify service: it passes over a datagram that is larger than its buffer."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self.heard: list[dict[str, str]] = []

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait(self, field: str, value: str = "1") -> dict[str, str]:
        """The next datagram that says so."""
        return self._next(f"{field}={value}", lambda said: said.get(field) == value)

    def wait_status(self, pattern: str) -> str:
        """The next status that has it."""
        return self._next(pattern, lambda said: re.search(pattern, said.get("STATUS", "")) is not None)["STATUS"]

    def _next(self, what: str, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if select.select([self._socket], [], [], 0.1)[0]:
                data, _, flags, _ = self._socket.recvmsg(SYSTEMD_BYTES)
                if flags & socket.MSG_TRUNC:
                    continue
                self.heard.append(dict(line.split("=", 1) for line in data.decode().splitlines()))
                if wanted(self.heard[-1]):
                    return self.heard[-1]
        pytest.fail(f"no {what} among {self.heard}")


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, Supervisor(Path(folder)) as one:
        yield one


def test_the_supervisor_hears_ready_watchdog_and_stopping(
    tmp_path: Path, broker: BrokerAddress, supervisor: Supervisor
) -> None:
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker))
    with Agent(config, NOTIFY_SOCKET=supervisor.address, WATCHDOG_USEC="3000000") as agent:
        supervisor.wait("READY")
        for _ in range(3):
            supervisor.wait("WATCHDOG")
            supervisor.wait_status(r"door: \d+ frames")
        agent.signal(signal.SIGTERM)
        supervisor.wait("STOPPING")
        assert agent.wait() == 0


def test_the_watchdog_is_fed_however_much_there_is_to_tell(tmp_path: Path, supervisor: Supervisor) -> None:
    """Three cameras that are away, each with a URL of two thousand letters."""
    source = f'url = "http://{LOOPBACK}:{free_port()}/{"é" * 2000}"'
    config = agent_config(tmp_path, free_port(), source)
    door = (text := config.read_text())[text.index("[pipeline.door]") :]
    config.write_text(text + "".join(door.replace("pipeline.door", f"pipeline.{name}") for name in ("gate", "yard")))
    with Agent(config, NOTIFY_SOCKET=supervisor.address, WATCHDOG_USEC="3000000") as agent:
        supervisor.wait("READY")
        status = supervisor.wait_status("source lost")
        assert len(status.encode()) > SYSTEMD_BYTES - 100, "more than there is room for"
        for _ in range(3):
            supervisor.wait("WATCHDOG")
        agent.signal(signal.SIGTERM)
        supervisor.wait("STOPPING")
        assert agent.wait() == 0


def test_sources_that_end_end_the_agent_and_everything_was_delivered(tmp_path: Path, broker: BrokerAddress) -> None:
    config = agent_config(tmp_path, broker.port, finite(tmp_path), mqtt=protocol(broker))
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        assert agent.wait() == 0
        subscriber.wait("/status", lambda status: status["state"] == "stopped")
        assert [m.json["seq"] for m in subscriber.messages("/detections")] == list(range(1, 21))
        [row] = subscriber.messages("/ledger")[-1].json["streams"]
        assert (row["acknowledged"], row["waiting"]) == (20, 0)


def test_told_to_reload_while_it_starts_it_does_once_it_has(
    tmp_path: Path, broker: BrokerAddress, supervisor: Supervisor
) -> None:
    """Its labels come from a pipe: it goes on when the test writes, and reads anew only where it reloads."""
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker))
    pipe = tmp_path / "labels.txt"
    labels = pipe.read_text()
    pipe.unlink()
    os.mkfifo(pipe)

    def opened() -> int | None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads
            return None

    def wait_reader() -> TextIO:
        descriptor = wait_for("the agent to read", opened)
        assert descriptor is not None
        return os.fdopen(descriptor, "w")

    with Agent(config, NOTIFY_SOCKET=supervisor.address) as agent:
        with wait_reader() as file:
            agent.signal(signal.SIGHUP)
            file.write(labels)
        supervisor.wait("READY")
        with wait_reader() as file:
            file.write(labels)
        wait_for("the reload", lambda: "reloaded: " in agent.text())
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_says_goodbye(tmp_path: Path, broker: BrokerAddress, signum: int) -> None:
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker))
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        subscriber.wait("/detections")
        agent.signal(signum)
        assert agent.wait() == 0
        subscriber.wait("/status", lambda status: status["state"] == "stopped")
        with Subscriber(broker.port, "+/+/status") as late:
            assert late.wait("/status").json["state"] == "stopped", "no will overwrites it"
    state = msgspec.json.decode((tmp_path / "dev-1" / "epoch.json").read_bytes())
    assert state["ended"] is not None


@pytest.mark.parametrize("durable", ["memory", "spill"])
def test_told_to_stop_it_stops_well_though_its_state_folder_is_gone(
    tmp_path: Path, broker: BrokerAddress, durable: str
) -> None:
    outbox = f'[outbox]\ndurable = "{durable}"'
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker), top=outbox)
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        subscriber.wait("/detections")
        shutil.rmtree(tmp_path / "dev-1")
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
        subscriber.wait("/status", lambda status: status["state"] == "stopped")
    assert "the epoch's end cannot be noted" in agent.text()


def test_killed_its_will_is_published_and_the_next_epoch_says_that_nobody_knows(
    tmp_path: Path, broker: BrokerAddress
) -> None:
    memory = '[outbox]\ndurable = "memory"'
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker), top=memory)
    with Subscriber(broker.port) as subscriber:
        with Agent(config) as agent:
            subscriber.wait("/detections")
            agent.signal(signal.SIGKILL)
            assert agent.wait() == -signal.SIGKILL
        will = subscriber.wait("/status", lambda status: status["state"] == "lost").json
        assert (will["epoch"], will["why"], will["pipelines"]) == (1, "connection lost", ["door"])
        with Subscriber(broker.port, "+/+/status") as late:
            message = late.wait("/status")
            assert (message.retain, message.json["state"]) == (True, "lost")
        with Agent(config) as agent:
            ledger = subscriber.wait("/ledger", lambda ledger: any(row["epoch"] == 2 for row in ledger["streams"]))
            rows = {(row["epoch"], row["topic"]): row for row in ledger.json["streams"]}
            for topic in ("detections", "events"):
                assert (rows[1, topic]["last"], rows[1, topic]["lost_at_crash"]) == (None, None)
            agent.signal(signal.SIGTERM)
            assert agent.wait() == 0
        ids = [m.json["id"] for m in subscriber.messages("/detections")]
        assert len(ids) == len(set(ids)), "no id is used twice"
        assert {m.json["epoch"] for m in subscriber.messages("/detections")} == {1, 2}


def test_what_waits_in_memory_when_it_stops_is_lost_to_the_very_number(tmp_path: Path, broker: BrokerAddress) -> None:
    source, memory = finite(tmp_path, 15), '[outbox]\ndurable = "memory"'
    agent_config(tmp_path, free_port(), source, mqtt=protocol(broker), top=memory)  # nobody listens there
    config = tmp_path / "dev-1.toml"
    with Agent(config) as agent:
        assert agent.wait() == 0
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker), top=memory)
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        ledger = subscriber.wait("/ledger", lambda ledger: len(ledger["streams"]) == 2)
        row = next(row for row in ledger.json["streams"] if row["epoch"] == 1)
        assert (row["last"], row["acknowledged"], row["waiting"], row["lost_at_crash"]) == (15, 0, 0, 15)
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0


@pytest.mark.parametrize("durable", ["spill", "always"])
def test_what_waits_on_disk_when_it_stops_is_sent_after_the_next_start_as_it_was(
    tmp_path: Path, broker: BrokerAddress, durable: str
) -> None:
    outbox = f'[outbox]\ndurable = "{durable}"'
    config = agent_config(tmp_path, free_port(), finite(tmp_path, 15), top=outbox)  # nobody listens there
    with Agent(config) as agent:
        assert agent.wait() == 0
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker), top=outbox)
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        ledger = subscriber.wait(
            "/ledger", lambda ledger: [row["acknowledged"] for row in ledger["streams"] if row["epoch"] == 1] == [15]
        )
        row = next(row for row in ledger.json["streams"] if row["epoch"] == 1)
        assert (row["last"], row["waiting"], row["lost_at_crash"]) == (15, 0, 0)
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
    old = [m.json for m in subscriber.messages("/detections") if m.json["epoch"] == 1]
    assert [m["seq"] for m in old] == list(range(1, 16))
    assert [m["id"] for m in old] == [f"dev-1-1-door-detections-{n}" for n in range(1, 16)]
    assert all(m["replay"] and m["ts"] for m in old)


def test_killed_it_sends_what_the_disk_has_and_says_what_is_lost(tmp_path: Path, broker: BrokerAddress) -> None:
    config = agent_config(tmp_path, free_port(), endless(tmp_path))  # nobody listens there
    with Agent(config) as agent:
        wait_for("messages in the file", lambda: in_file(tmp_path / "dev-1") >= 5)
        agent.signal(signal.SIGKILL)
        assert agent.wait() == -signal.SIGKILL
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker))
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        subscriber.wait("/ledger", lambda ledger: any(r["epoch"] == 1 and not r["waiting"] for r in ledger["streams"]))
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
    row = next(r for r in subscriber.messages("/ledger")[-1].json["streams"] if r["epoch"] == 1)
    old = [m.json["seq"] for m in subscriber.messages("/detections") if m.json["epoch"] == 1]
    assert len(old) >= 5
    assert old == list(range(1, len(old) + 1))
    assert (row["last"], row["acknowledged"]) == (len(old) + row["lost_at_crash"], len(old))


@needs_root
def test_on_a_full_disk_it_delivers_all_the_same_and_says_so_until_there_is_room(
    tmp_path: Path, broker: BrokerAddress, mount: Mount
) -> None:
    disk = mount("size=1m")
    (tmp_path / "dev-1").symlink_to(disk)
    filler = fill(disk)
    config = agent_config(tmp_path, broker.port, endless(tmp_path), mqtt=protocol(broker))
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        status = subscriber.wait("/status", lambda status: "the disk takes nothing" in (status["why"] or "")).json
        assert status["state"] == "alert"
        first = subscriber.wait("/detections").json
        assert first["epoch"] >= 2**52
        filler.unlink()
        wait_for("the disk to be used", lambda: "the disk takes messages again" in agent.text())
        wait_for(
            "the status to say so", lambda: "the disk" not in (subscriber.messages("/status")[-1].json["why"] or "")
        )
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
    assert msgspec.json.decode((disk / "epoch.json").read_bytes())["epoch"] == first["epoch"]


def in_file(state_dir: Path) -> int:
    """Messages in the outbox's file, as another process may see them."""
    try:
        with closing(sqlite3.connect(f"file:{state_dir / 'outbox.sqlite'}?mode=ro", uri=True)) as connection:
            [count] = connection.execute("SELECT count(*) FROM messages").fetchone()
            return int(count)
    except sqlite3.OperationalError:
        return 0  # not there yet


@needs_mosquitto
def test_a_broker_that_comes_up_later_gets_everything(tmp_path: Path, supervisor: Supervisor) -> None:
    port = free_port()
    config = agent_config(tmp_path, port, endless(tmp_path))
    with Agent(config, NOTIFY_SOCKET=supervisor.address) as agent:
        supervisor.wait("READY")
        wait_for("the failure to be told", lambda: "no broker" in agent.text())
        assert agent.process is not None and agent.process.poll() is None
        with Mosquitto(tmp_path, port=port), Subscriber(port) as subscriber:
            first = subscriber.wait("/detections").json
            assert subscriber.wait("/detections", lambda m: not m["replay"]).json["seq"] >= first["seq"]
            agent.signal(signal.SIGTERM)
            assert agent.wait() == 0
            subscriber.wait("/status", lambda status: status["state"] == "stopped")
            [row] = subscriber.messages("/ledger")[-1].json["streams"]
            assert row["waiting"] == 0 and row["acknowledged"] == row["last"]


@needs_mosquitto
def test_a_wrong_password_ends_it_with_one_line_that_does_not_repeat_it(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("anna:right\n")
    passwords.chmod(0o700)
    import subprocess

    subprocess.run(["mosquitto_passwd", "-U", passwords], check=True, capture_output=True)
    password_file = tmp_path / "secret"
    password_file.write_text(f"{SECRET}\n")
    with Mosquitto(tmp_path, f"password_file {passwords}\n") as mosquitto:
        mqtt = f'username = "anna"\npassword_file = "{password_file}"'
        config = agent_config(tmp_path, mosquitto.port, endless(tmp_path), mqtt=mqtt, top='log_level = "warning"')
        outcome = run_cli("run", "-c", config)
        assert outcome.returncode == 2
        assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
        assert "refuses" in outcome.stderr and SECRET not in outcome.stderr
        password_file.write_text("right\n")
        with Subscriber(mosquitto.port, options={"username": "anna", "password": "right"}) as subscriber:
            with Agent(config) as agent:
                subscriber.wait("/detections")
                agent.signal(signal.SIGTERM)
                assert agent.wait() == 0
            assert SECRET not in "".join(m.payload.decode() for m in subscriber.messages())


@needs_mosquitto
def test_a_broker_of_another_authority_ends_it_with_one_line(tmp_path: Path, authority: Path) -> None:
    lines = f"allow_anonymous true\ncertfile {authority}/server.pem\nkeyfile {authority}/server.key\n"
    with Mosquitto(tmp_path, lines) as mosquitto:
        mqtt = f'tls = true\nca_file = "{authority}/other.pem"'
        top = 'log_level = "warning"'
        config = agent_config(tmp_path, mosquitto.port, endless(tmp_path), mqtt=mqtt, top=top)
        config.write_text(config.read_text().replace(f'host = "{LOOPBACK}"', 'host = "localhost"'))
        outcome = run_cli("run", "-c", config)
        assert outcome.returncode == 2
        assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
        assert "not trusted" in outcome.stderr
        config.write_text(config.read_text().replace("other.pem", "ca.pem"))
        subscriber = Subscriber(mosquitto.port, options={"ca_file": str(authority / "ca.pem")}, host="localhost")
        with subscriber, Agent(config) as agent:
            subscriber.wait("/detections")
            agent.signal(signal.SIGTERM)
            assert agent.wait() == 0


def test_a_camera_that_is_away_is_an_alert_and_passes(tmp_path: Path, broker: BrokerAddress) -> None:
    port = free_port()
    source = f'url = "http://admin:{SECRET}@{LOOPBACK}:{port}/video?pwd={SECRET}"\nopen_timeout_s = 2.0'
    config = agent_config(tmp_path, broker.port, source, mqtt=protocol(broker), top='log_level = "debug"')
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        alert = subscriber.wait("/status", lambda status: status["state"] == "alert").json
        assert "door: source lost" in alert["why"]
        subscriber.wait("/stats", lambda stats: stats["source"]["outcome"] == "lost")
        with CameraServer(port) as camera, Pusher(camera):
            subscriber.wait("/detections")
            wait_for("the alert to pass", lambda: subscriber.messages("/status")[-1].json["state"] == "ready")
            agent.signal(signal.SIGTERM)
            assert agent.wait() == 0
        everything = "".join(m.payload.decode() for m in subscriber.messages()) + agent.text()
        assert SECRET not in everything, "nobody is told the camera's password"
        assert "http://***@" in everything


def test_two_pipelines_have_their_own_streams(tmp_path: Path, broker: BrokerAddress) -> None:
    config = agent_config(tmp_path, broker.port, finite(tmp_path, 10), mqtt=protocol(broker))
    text = config.read_text()
    config.write_text(text + text[text.index("[pipeline.door]") :].replace("pipeline.door", "pipeline.gate"))
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        assert agent.wait() == 0
        subscriber.wait("/status", lambda status: status["state"] == "stopped")
        for pipeline in ("door", "gate"):
            seqs = [m.json["seq"] for m in subscriber.messages(f"/{pipeline}/detections")]
            assert seqs == list(range(1, 11))
        rows = subscriber.messages("/ledger")[-1].json["streams"]
        assert {(row["pipeline"], row["acknowledged"]) for row in rows} == {("door", 10), ("gate", 10)}


@needs_mosquitto
def test_what_a_full_outbox_dropped_is_in_the_statistics(tmp_path: Path) -> None:
    port = free_port()
    config = agent_config(tmp_path, port, endless(tmp_path))
    config.write_text(config.read_text() + "[outbox]\nmax_messages = 3\n")
    with Agent(config) as agent:
        wait_for("the failure to be told", lambda: "no broker" in agent.text())
        begun = time.monotonic()
        wait_for("some more pictures", lambda: time.monotonic() > begun + 0.5)
        with Mosquitto(tmp_path, port=port), Subscriber(port) as subscriber:
            stats = subscriber.wait("/stats", lambda stats: stats["dropped"].get("outbox_full", 0) > 0).json
            ledger = subscriber.wait("/ledger", lambda ledger: ledger["streams"][0]["dropped"] > 0).json
            assert stats["dropped"]["outbox_full"] <= subscriber.messages("/ledger")[-1].json["streams"][0]["last"]
            row = ledger["streams"][0]
            settled = row["acknowledged"] + row["waiting"] + row["rejected"] + row["dropped"]
            assert row["last"] - row["first"] + 1 == settled
            agent.signal(signal.SIGTERM)
            assert agent.wait() == 0


def test_out_of_descriptors_it_goes_on_and_says_what_it_can(tmp_path: Path, broker: BrokerAddress) -> None:
    config = agent_config(tmp_path, broker.port, f'url = "{CLIP}"\nloop = true', mqtt=protocol(broker))
    with Subscriber(broker.port) as subscriber, Agent(config) as agent:
        subscriber.wait("/health", lambda health: health["open_files"] > 3)
        subscriber.wait("/detections")
        assert agent.process is not None
        limits = resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        blind = subscriber.wait("/health", lambda health: health["open_files"] is None).json
        assert blind["memory_available_bytes"] is None and blind["uptime_s"] > 0
        resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, limits)
        subscriber.wait("/health", lambda health: health["ts"] > blind["ts"] and health["open_files"] is not None)
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
