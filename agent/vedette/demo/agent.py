"""An agent in a process of its own, as systemd would start it: with a notify socket that hears READY."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from vedette.contract.errors import FaultError
from vedette.service.health import pss_bytes

from .child import end_with_parent


class AgentProcess:
    """``vedette run -c CONFIG`` as a child. `start`, perhaps `wait_ready`, `stop`; leaving its context stops it.

    It may be started again once it has ended. ``environment``: beside this process's own.
    """

    def __init__(self, config: Path, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._config = config
        self._log = folder / "agent.log"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = str(folder / "notify")
        self._notify.bind(address)
        self._environment = {**os.environ, **(environment or {}), "NOTIFY_SOCKET": address}
        self._environment.pop("WATCHDOG_USEC", None)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self.ready_s = 0.0
        """From the start of the process to READY."""

    def __enter__(self) -> AgentProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the child."""
        self.drain()  # what an earlier one has said
        self._started = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vedette", "run", "-c", str(self._config)],
                env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the demo's, which then stops the agent properly
                preexec_fn=end_with_parent,
            )  # fmt: skip

    def wait_ready(self, timeout_s: float) -> None:
        """Until the agent says READY. Raises `FaultError` with the agent's last words where it ends or says nothing."""
        deadline = self._started + timeout_s
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self._notify], [], [], 0.02)
            if readable and b"READY=1" in self._notify.recv(4096):
                self.ready_s = time.monotonic() - self._started
                return
            if self.exit_code() is not None:
                raise FaultError("the agent ended before it was ready", found=self.last_words())
        raise FaultError("the agent is not ready", expected=f"READY within {timeout_s:g} s", found=self.last_words())

    def drain(self) -> None:
        """Reads away what else the agent tells its supervisor."""
        while select.select([self._notify], [], [], 0)[0]:
            self._notify.recv(4096)

    @property
    def pid(self) -> int:
        """Of the child."""
        assert self._process is not None
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process else None

    def pss_bytes(self) -> int:
        """Of the child and its children."""
        return pss_bytes(self.pid)

    def last_words(self) -> str:
        """The end of its log, in one line."""
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return " | ".join(lines[-3:]) or "nothing in its log"

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_s: float = 10.0) -> int:
        """SIGTERM, and its exit code; SIGKILL where it does not end in time."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode
