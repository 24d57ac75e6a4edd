"""``mqtt://USER:PASSWORD@HOST:PORT/TOPIC``: the messages of a topic, one or more lines each.

A client and a connection of this source's own, apart from the agent's link. paho is driven from `read`, without a thread
or a queue of its own: what is not read yet waits at the broker. MQTT 3.1.1, which every broker speaks; QoS 1 as far as
the sender's; no session, so what is sent while nobody is connected is gone.
"""

from __future__ import annotations

import logging
import select
import time
from dataclasses import dataclass
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from vedette import clock
from vedette.contract.errors import SourceLostError
from vedette.contract.types import Readings

from .descriptor import Gatherer
from .lines import LineParser, Tally
from .sensor import Arrivals, SensorOptions, no_readings

log = logging.getLogger(__name__)

KEEPALIVE_S: Final = 15
MAX_MESSAGE: Final = 1 << 20  # bytes
PACKETS: Final = 1000  # read at once at most
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Topic:
    """Where to listen. ``filter``: may have wildcards."""

    host: str
    port: int
    filter: str
    username: str = ""
    password: str = ""


class MqttSource:
    """See `vedette.sources.sensor.SensorSource`. Retained messages are counted, not used: they may be of any age."""

    def __init__(self, topic: Topic, columns: tuple[str, ...], options: SensorOptions) -> None:
        self._topic = topic
        self._where = f"mqtt://{topic.host}:{topic.port}/{topic.filter}"
        self._columns = columns
        self._options = options
        self.tally = Tally()
        self._client: Any = None
        self._gatherer = Gatherer()
        self._descriptor = -1
        self._parser: LineParser
        self._arrivals = Arrivals()
        self._messages: list[bytes] = []
        self._subscribed = False
        self._trouble = ""

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def endless(self) -> bool:
        """A broker's end is a loss."""
        return True

    @property
    def reopens_when_silent(self) -> bool:
        """Keepalive tells whether the broker is there; a new connection hears no more than this one."""
        return False

    def open(self) -> None:
        """Raises `SourceLostError` where no broker answers, or it refuses."""
        topic = self._topic
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            protocol=MQTTProtocolVersion.MQTTv311,
            clean_session=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = self._options.open_timeout_s
        if topic.username:
            client.username_pw_set(topic.username, topic.password or None)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client
        self._arrivals = Arrivals()
        self._parser = LineParser(self._options.channels, self.tally, columns=self._columns)
        self._messages, self._subscribed, self._trouble = [], False, ""
        try:
            client.connect(topic.host, topic.port, keepalive=KEEPALIVE_S)
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SourceLostError("no broker", where=self._where, found=text) from None
        sock = client.socket()
        assert sock is not None
        self._descriptor = sock.fileno()
        self._gatherer = Gatherer(self._descriptor)
        deadline_s = time.monotonic() + self._options.open_timeout_s
        while not self._subscribed:
            self._serve(POLL_S)
            if time.monotonic() > deadline_s:
                raise SourceLostError("the broker does not answer", where=self._where)

    def read(self, timeout_s: float) -> Readings | None:
        """See `SensorSource.read`."""
        if not self._messages:
            self._serve(timeout_s)
        messages, self._messages = self._messages, []
        if not messages:
            return no_readings(len(self._options.channels))
        lines = b"".join([m if m.endswith(b"\n") else m + b"\n" for m in messages])
        return self._arrivals.readings(self._parser.parse(lines), clock.now_ns())

    def close(self) -> None:
        """See `SensorSource.close`."""
        client, self._client = self._client, None
        if client is None:
            return
        client.disconnect()
        sock = client.socket()
        if sock is not None:
            sock.close()

    def _serve(self, timeout_s: float) -> None:
        """Waits for the socket, and lets paho do what is to be done. Raises `SourceLostError` when it broke."""
        client = self._client
        if self._gatherer.wait(timeout_s):
            poller = select.poll()
            poller.register(self._descriptor, select.POLLIN)
            for _ in range(PACKETS):
                client.loop_read()
                if self._trouble or client.socket() is None or not poller.poll(0):
                    break
        if client.want_write():
            client.loop_write()
        client.loop_misc()
        if client.socket() is None and not self._trouble:
            self._trouble = "the connection broke"
        if self._trouble and not self._messages:
            raise SourceLostError("broke off", where=self._where, found=self._trouble)

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._trouble = f"the broker refuses: {reason}"
        else:
            client.subscribe(self._topic.filter, qos=1)

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._trouble = f"the broker refuses the topic: {reasons[0]}"
        self._subscribed = True

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        self._trouble = self._trouble or str(reason)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        if message.retain:
            self.tally.refuse("retained", message.payload)
        elif len(message.payload) > MAX_MESSAGE:
            self.tally.refuse("too_long", message.payload)
        else:
            self._messages.append(message.payload)
