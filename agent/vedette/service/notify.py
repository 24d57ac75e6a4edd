"""sd_notify(3): tells systemd READY, STATUS, WATCHDOG, RELOADING, STOPPING. Says nothing where nobody listens."""

from __future__ import annotations

import logging
import os
import socket
from typing import Final

from vedette.contract.errors import one_line

log = logging.getLogger(__name__)

MAX_BYTES: Final = 4096  # of a datagram; of a longer one systemd takes nothing (its NOTIFY_BUFFER_MAX)
_CUT: Final = b" ..."


class Notifier:
    """One datagram socket to $NOTIFY_SOCKET."""

    def __init__(self) -> None:
        path = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if path else None
        if self._socket is not None:
            # a supervisor that does not read its socket must not hang the agent
            self._socket.setblocking(False)
        self._heard = True
        watchdog_us = os.environ.get("WATCHDOG_USEC", "")
        is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() and is_ours else 0.0
        """How often at least systemd wants to hear WATCHDOG=1; 0 where it does not watch."""

    def send(self, *, status: str | None = None, **fields: str) -> None:
        """For instance ``send(READY="1", status="watching 2 cameras")``.

        The status follows in a datagram of its own, one line and cut where there is no more room: whatever it says, the
        rest is heard.
        """
        if fields:
            self._send("\n".join(f"{name}={value}" for name, value in fields.items()).encode())
        if status is not None:
            self._send(b"STATUS=" + _cut(one_line(status), MAX_BYTES - len("STATUS=")))

    def _send(self, message: bytes) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(message, self._address)
            self._heard = True
        except OSError as error:
            if self._heard:
                log.warning("systemd does not hear: %s", error)
            self._heard = False


def _cut(text: str, most: int) -> bytes:
    """As UTF-8, whole letters, at most so many bytes."""
    whole = text.encode()
    if len(whole) <= most:
        return whole
    return whole[: most - len(_CUT)].decode(errors="ignore").encode() + _CUT
