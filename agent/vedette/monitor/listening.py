"""A subscription that lasts: made again whenever the broker has been away."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from vedette.contract.errors import BrokerRefusedError, BrokerUnreachableError, VedetteError
from vedette.mqtt.connection import POLL_S, Connection, LinkOptions
from vedette.mqtt.inbox import Incoming

Protocol: TypeAlias = Literal["auto", "5", "3.1.1"]

RECEIVES: Final = 1024 * 1024  # bytes of the largest packet taken; an agent's own stay under 128 KB
BACKOFF_S: Final = (0.5, 10.0)  # least and most between two tries; somebody is sitting there


class Listening:
    """Follows topic filters on one broker. `run` belongs to one thread; `stop` may be called by any."""

    def __init__(
        self,
        options: LinkOptions,
        filters: Sequence[str],
        heard: Callable[[Incoming], None],
        changed: Callable[[str | None], None],
        *,
        protocol: Protocol = "auto",
    ) -> None:
        """``filters``: of which no two match the same topic. ``heard``: each message, as it comes. ``changed``: why the
        connection is gone, None when it is up (again); messages that were published in between have been missed.
        ``protocol``: auto is MQTT 5, and 3.1.1 with a broker that does not know it."""
        self._options = replace(options, client_id=f"vedette-look-{uuid.uuid4().hex[:12]}")
        self._filters = filters
        self._heard = heard
        self._changed = changed
        self._protocols: tuple[Literal["5", "3.1.1"], ...] = ("5", "3.1.1") if protocol == "auto" else (protocol,)
        self._stopped = threading.Event()
        self._refused: list[tuple[str, int]] = []
        self.connections = 0
        """How often it has been connected."""

    def run(self) -> None:
        """Until `stop`. Raises `BrokerUnreachableError` where nobody answers the first time, later it tries again;
        `BrokerRefusedError` where the broker says no."""
        backoff_s = BACKOFF_S[0]
        while not self._stopped.is_set():
            try:
                connection = self._connect()
            except BrokerUnreachableError as error:
                if self._stopped.is_set():
                    return
                if not self.connections:
                    raise
                self._changed(error.found or error.problem)
                self._stopped.wait(backoff_s * random.uniform(0.8, 1.2))
                backoff_s = min(2 * backoff_s, BACKOFF_S[1])
                continue
            backoff_s = BACKOFF_S[0]
            self.connections += 1
            self._changed(None)
            try:
                while not (self._stopped.is_set() or connection.closed):
                    connection.poll(POLL_S)
                    self._check_refused()
            finally:
                connection.close(politely=True)
            if not self._stopped.is_set():
                said = connection.why
                # paho's words for a socket that was closed under it
                self._changed("the connection broke" if said in ("", "Unspecified error") else said)

    def stop(self) -> None:
        """`run` returns soon after."""
        self._stopped.set()

    def _connect(self) -> Connection:
        for number, protocol in enumerate(self._protocols):
            last = number + 1 == len(self._protocols)
            connection = Connection(
                replace(self._options, protocol=protocol), None, heard=self._heard,
                unheard=lambda topic, reason: self._refused.append((topic, reason)), receives=RECEIVES,
            )  # fmt: skip
            try:
                self._subscribe(connection)
            except VedetteError as error:
                connection.close(politely=False)
                if last or not _says_no_to_the_protocol(error):
                    raise
            except BaseException:
                connection.close(politely=True)
                raise
            else:
                self._protocols = (protocol,)  # it will not change its mind
                return connection
        raise AssertionError("a protocol at least")

    def _subscribe(self, connection: Connection) -> None:
        connection.connect(self._stopped.is_set)
        for topic in self._filters:
            connection.subscribe(topic)
        while not (connection.subscribed or connection.closed or self._stopped.is_set()):
            connection.poll(POLL_S)
        if connection.closed:
            raise BrokerUnreachableError("the connection broke", found=connection.why)
        self._check_refused()

    def _check_refused(self) -> None:
        if self._refused:
            topic, reason = self._refused[0]
            raise BrokerRefusedError(
                "the broker does not let this client hear", where=topic, found=f"reason {reason:#04x}",
                fix="check the broker's access rules, and the user name and password",
            )  # fmt: skip


def _says_no_to_the_protocol(error: BaseException) -> bool:
    """Whether the same broker may answer otherwise to another version of MQTT."""
    if isinstance(error, BrokerRefusedError):
        return "protocol" in error.found.lower()
    return isinstance(error, BrokerUnreachableError) and error.problem.startswith(("the broker closed", "no answer"))
