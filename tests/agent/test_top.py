"""``vedette top`` on a real broker and a real agent, with a terminal and without."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest
from looking import STATUS, Looker, Terminal, Voice
from real import Agent, BrokerAddress, Mosquitto, agent_config, needs_mosquitto, run_cli, wait_for, write_pictures

from vedette.demo.broker import LOOPBACK
from vedette.monitor.keys import keyboard


def test_a_running_agent_without_a_terminal(broker: BrokerAddress, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    config = agent_config(
        tmp_path, broker.port, f'url = "images://{pictures}"\nloop = true\nfps = 20',
        mqtt=f'protocol = "{broker.protocols[0]}"', pipeline="max_fps = 5",
    )  # fmt: skip
    with Agent(config), Looker("top", f"mqtt://{LOOPBACK}:{broker.port}") as top:
        top.line("dev-1", "ready", "outbox 0", "synced", "mem", "free")
        top.line("door", "in ", "share 100%", "dropped rate_cap")
        top.line("p50/p99", "/")
        top.line("capture", "queue", "preproc", "infer", "decode", "total", "acknowl")
        tables = len([line for line in top.lines if line.startswith("vedette top")])
        wait_for("another table", lambda: len([x for x in top.lines if x.startswith("vedette top")]) > tables + 1)
        assert top.end() == 0
    assert top.errors == []
    assert not any("\x1b" in line for line in top.lines)
    assert max(map(len, top.lines)) <= 80


def test_q_quits_and_the_terminal_is_as_before(broker: BrokerAddress) -> None:
    with Voice(broker.port, broker.protocols[0]) as voice:
        voice.say("vedette/eye/status", STATUS, retain=True)
        with Terminal("top", f"mqtt://{LOOPBACK}:{broker.port}") as terminal:
            terminal.shows("\x1b[?1049h", "eye", "q quits", "no problems")
            terminal.type(b"q")
            assert terminal.process.wait(20) == 0
            terminal.shows("\x1b[?1049l")


def test_a_terminal_that_has_been_closed_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, ours = pty.openpty()
    with os.fdopen(ours) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with keyboard():
            os.close(terminal)


def test_ctrl_c_quits(broker: BrokerAddress) -> None:
    with Terminal("top", f"mqtt://{LOOPBACK}:{broker.port}") as terminal:
        terminal.shows("nobody has said anything yet")
        terminal.type(b"\x03")
        assert terminal.process.wait(20) == 0
        assert b"Traceback" not in terminal.output


def test_a_terminal_that_cannot_go_back_is_written_on_and_on(broker: BrokerAddress) -> None:
    with Terminal("top", f"mqtt://{LOOPBACK}:{broker.port}", "--count", 1, term="dumb") as terminal:
        terminal.shows("nobody has said anything yet")
        assert terminal.process.wait(20) == 0
        assert b"\x1b" not in terminal.output


def test_so_many_tables_and_no_more(broker: BrokerAddress) -> None:
    outcome = run_cli("top", f"mqtt://{LOOPBACK}:{broker.port}", "--count", 2)
    assert outcome.returncode == 0 and outcome.stderr == ""
    assert outcome.stdout.count("vedette top") == 2


@needs_mosquitto
def test_a_broker_that_goes_is_a_problem_until_it_is_back(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto, Looker("top", f"mqtt://{LOOPBACK}:{mosquitto.port}") as top:
        top.line("no problems")
        mosquitto.kill()
        top.line("not connected")
        mosquitto.start()
        count = len(top.lines)
        top.line("no problems", after=count)
        assert top.end() == 0


def test_mistakes_are_one_line() -> None:
    for arguments, code, says in (
        (("mqtt://127.0.0.1:1",), 2, "no broker"), (("http://a",), 2, "bad broker"), (("--count", "0"), 2, "bad --count"),
        (("--device", "a/b"), 2, "bad --device"), (("a", "-c", "b"), 2, "found both"), (("a", "--ca-file", "b"), 2, "mqtts://"),
        (("a", "--password-file", "b"), 2, "a user name"), (("a", "--root", "#"), 2, "bad root"),
    ):  # fmt: skip
        outcome = run_cli("top", *arguments)
        assert outcome.returncode == code
        [line] = outcome.stderr.splitlines()
        assert says in line
