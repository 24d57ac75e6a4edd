"""sd_notify(3): tells systemd READY, STATUS, WATCHDOG, RELOADING, STOPPING. Says nothing where nobody listens."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


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

    def send(self, **fields: str) -> None:
        """For instance ``send(READY="1", STATUS="watching 2 cameras")``."""
        if self._socket is None:
            return
        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        try:
            self._socket.sendto(message.encode(), self._address)
            self._heard = True
        except OSError as error:
            if self._heard:
                log.warning("systemd does not hear: %s", error)
            self._heard = False
