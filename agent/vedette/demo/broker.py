"""A broker on loopback for the length of a demo: Mosquitto where it is installed, else the one inside `iotcore`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from vedette.contract.errors import FaultError, MissingPackageError

from .child import end_with_parent

START_TIMEOUT_S: Final = 10.0
LOOPBACK: Final = "127.0.0.1"


def free_port() -> int:
    """A TCP port nobody listens on, on loopback."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def mosquitto_path() -> str | None:
    """Mosquitto's program; Debian keeps it where a user's PATH does not always look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def loopback_broker(prefer: str = "auto") -> Iterator[tuple[str, int]]:
    """Runs a broker bound to 127.0.0.1 and nothing else; yields its name and port, ends it afterwards.

    ``prefer``: auto, mosquitto or iotcore. Raises `MissingPackageError` where there is neither.
    """
    port = free_port()
    mosquitto = mosquitto_path() if prefer != "iotcore" else None
    if mosquitto:
        with _mosquitto(mosquitto, port):
            yield "mosquitto", port
        return
    if prefer == "mosquitto":
        raise MissingPackageError("mosquitto is not installed", fix="apt-get install mosquitto")
    try:
        from iotcore import Broker
    except ImportError:
        raise MissingPackageError(
            "no MQTT broker for the demo", expected="mosquitto on the PATH, or the package iotcore",
            fix="pip install 'vedette[demo]', or apt-get install mosquitto",
        ) from None  # fmt: skip
    with Broker(port=port, listen=LOOPBACK):
        _wait_until_listening(port)
        yield "iotcore", port


@contextmanager
def _mosquitto(program: str, port: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="vedette-broker-") as folder:
        config = Path(folder) / "mosquitto.conf"
        # a change of user would make the kernel forget that the broker ends with its parent
        user = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(
            f"{user}listener {port} {LOOPBACK}\nallow_anonymous true\npersistence false\n"
            # a subscriber that is slower than the agent is owed everything (Mosquitto drops from 1,000 on)
            "max_queued_messages 1000000\n"
        )
        process = subprocess.Popen(
            [program, "-c", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=end_with_parent,
        )
        try:
            _wait_until_listening(port)
            yield
        finally:
            process.terminate()
            process.wait(5)


def _wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((LOOPBACK, port), timeout=0.2):
                return
        except OSError:
            time.sleep(0.02)
    raise FaultError("the demo's broker did not start", expected=f"a listener on {LOOPBACK}:{port}")
