"""One property over D-Bus: what a bus answered, and what else may come."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from real import wait_for

from vedette import timedate
from vedette.timedate import ntp_synchronized

# As Debian 12's dbus-daemon and timedated sent them; tests/system asks the real ones
OK = b"OK 3d65f85811cad12e9ffdb5446b07cb3d\r\n"
HELLO = (
    b"l\x02\x01\x01\x0b\x00\x00\x00\x01\x00\x00\x00=\x00\x00\x00\x06\x01s\x00\x06\x00\x00\x00:1.210\x00\x00\x05\x01u\x00"
    b"\x01\x00\x00\x00\x08\x01g\x00\x01s\x00\x00\x07\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00"
    b"\x06\x00\x00\x00:1.210\x00"
)
NAME = (
    b"l\x04\x01\x01\x0b\x00\x00\x00\x02\x00\x00\x00\x8d\x00\x00\x00\x01\x01o\x00\x15\x00\x00\x00/org/freedesktop/DBus\x00"
    b"\x00\x00\x02\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00\x03\x01s\x00\x0c\x00\x00\x00NameAcquired"
    b"\x00\x00\x00\x00\x06\x01s\x00\x06\x00\x00\x00:1.210\x00\x00\x08\x01g\x00\x01s\x00\x00\x07\x01s\x00\x14\x00\x00\x00"
    b"org.freedesktop.DBus\x00\x00\x00\x00\x06\x00\x00\x00:1.210\x00"
)
ANSWER = (
    b"l\x02\x01\x01\x08\x00\x00\x00\xce\x00\x00\x00-\x00\x00\x00\x05\x01u\x00\x02\x00\x00\x00\x06\x01s\x00\x06\x00\x00\x00"
    b":1.210\x00\x00\x08\x01g\x00\x01v\x00\x00\x07\x01s\x00\x04\x00\x00\x00:1.7\x00\x00\x00\x00\x01b\x00\x00"
)
YES, NO = ANSWER + b"\x01\x00\x00\x00", ANSWER + b"\x00\x00\x00\x00"


@contextlib.contextmanager
def bus(path: Path, greeting: bytes, answers: bytes) -> Iterator[None]:
    """Answers one client with that, whatever it asks, and hangs up."""

    def serve() -> None:
        client, _ = listener.accept()
        with client, contextlib.suppress(ConnectionError):  # it may have heard enough
            client.recv(4096)
            client.sendall(greeting)
            client.recv(4096)
            client.sendall(answers)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()


@pytest.mark.parametrize(("answer", "expected"), [(YES, True), (NO, False)])
def test_reads_the_answer(tmp_path: Path, answer: bytes, expected: bool) -> None:
    with bus(tmp_path / "bus", OK, HELLO + NAME + answer):
        assert ntp_synchronized(tmp_path / "bus") is expected


@pytest.mark.parametrize(
    ("greeting", "answers"),
    [
        pytest.param(b"REJECTED EXTERNAL\r\n", b"", id="not let in"),
        pytest.param(b"\xff" * 9000, b"", id="rubbish in the place of a greeting"),
        pytest.param(OK, b"", id="hangs up"),
        pytest.param(OK, HELLO + NAME, id="hangs up later"),
        pytest.param(OK, HELLO + YES[:-2], id="hangs up in the midst"),
        pytest.param(OK, HELLO + b"l\x03" + YES[2:], id="an error"),
        pytest.param(OK, HELLO + YES.replace(b"\x01b\x00\x00", b"\x01u\x00\x00"), id="of another type"),
        pytest.param(OK, HELLO + b"l\x02\x01\x01\xff\xff\xff\x7f" + YES[8:], id="too long"),
        pytest.param(OK, HELLO + b"x" + YES[1:], id="of no byte order"),
        pytest.param(OK, HELLO + NAME * 20 + YES, id="after a flood of signals"),
    ],
)
def test_what_is_no_answer_is_none(tmp_path: Path, greeting: bytes, answers: bytes) -> None:
    with bus(tmp_path / "bus", greeting, answers):
        assert ntp_synchronized(tmp_path / "bus") is None


def test_a_machine_without_a_bus(tmp_path: Path) -> None:
    assert ntp_synchronized(tmp_path / "bus") is None


def test_a_bus_that_is_silent_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timedate, "TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen()
        assert ntp_synchronized(tmp_path / "bus") is None


def test_a_real_bus_understands_the_question(tmp_path: Path) -> None:
    """It has no timedated: an error, which is no answer; and no complaint in what dbus-monitor would show."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("needs dbus-daemon (Debian: dbus-daemon)")
    path = tmp_path / "bus"
    with subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", f"--address=unix:path={path}"], stderr=subprocess.DEVNULL
    ) as daemon:
        try:
            wait_for("the bus", path.exists)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(path))
                client.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\n")
                with client.makefile("rb") as answers:
                    assert answers.readline().startswith(b"OK ")
                    client.sendall(timedate._GREETING + timedate._QUESTION)
                    said = b""
                    while b"org.freedesktop.timedate1 " not in said:
                        piece = answers.read1(4096)
                        assert piece, said
                        said += piece
            assert b"org.freedesktop.DBus.Error.ServiceUnknown" in said
            assert ntp_synchronized(path) is None
        finally:
            daemon.terminate()
