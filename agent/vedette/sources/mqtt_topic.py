"""``mqtt[s]://USER:PASSWORD@HOST:PORT/TOPIC``: the messages of a topic, one or more lines each.

A client and a connection of this source's own, apart from the agent's link. paho is driven from `read`, without a thread
or a queue of its own: what is not read yet waits at the broker. MQTT 3.1.1, which every broker speaks; QoS 1 as far as
the sender's; no session, so what is sent while nobody is connected is gone.
"""

from __future__ import annotations

import logging
import select
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from vedette import clock
from vedette.contract.errors import BrokerRefusedError, SourceError, SourceLostError, VedetteError
from vedette.contract.types import Readings
from vedette.trust.credentials import TlsContext, distrust, read_password, tls_context, turned_down

from .descriptor import MOST_BYTES, Gatherer
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
    password: str = field(default="", repr=False)
    tls: bool = False


def check_files(options: SensorOptions, *, tls: bool) -> None:
    """Reads what a connection will read. Raises `SourceError` where a file cannot be used, or would not be."""
    files = {"ca_file": options.ca_file, "cert_file": options.cert_file, "key_file": options.key_file}
    for name, file in files.items():
        if file and not tls:
            raise SourceError(f"bad {name}", where=f"source.{name}: {file}", expected="mqtts://", found="mqtt://")
    try:
        _read_files(options, tls=tls)
    except BrokerRefusedError as error:
        raise SourceError(
            error.problem, where=error.where, expected=error.expected, found=error.found, fix=error.fix
        ) from None


def _read_files(options: SensorOptions, *, tls: bool) -> tuple[str, TlsContext | None]:
    """The password file's content, and what TLS needs. Raises `BrokerRefusedError`."""
    password = read_password(options.password_file) if options.password_file else ""
    return password, tls_context(options.ca_file, options.cert_file, options.key_file, table="source") if tls else None


class MqttSource:
    """See `vedette.sources.sensor.SensorSource`. Retained messages are counted, not used: they may be of any age."""

    def __init__(self, topic: Topic, columns: tuple[str, ...], options: SensorOptions) -> None:
        self._topic = topic
        self._where = f"mqtt{'s' if topic.tls else ''}://{topic.host}:{topic.port}/{topic.filter}"
        self._columns = columns
        self._options = options
        self.tally = Tally()
        self._client: Any = None
        self._tls: TlsContext | None = None
        self._gatherer = Gatherer()
        self._descriptor = -1
        self._parser: LineParser
        self._arrivals = Arrivals()
        self._messages: list[bytes] = []
        self._size = 0  # of them, in bytes
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
        try:
            password, self._tls = _read_files(self._options, tls=topic.tls)
        except BrokerRefusedError as error:  # they could be read when the agent began
            raise self._lost(error) from None
        if topic.username:
            client.username_pw_set(topic.username, password or topic.password or None)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client
        self._arrivals = Arrivals()
        self._parser = LineParser(self._options.channels, self.tally, columns=self._columns)
        self._messages, self._size, self._subscribed, self._trouble = [], 0, False, ""
        try:
            client.connect(topic.host, topic.port, keepalive=KEEPALIVE_S)
        except ssl.SSLCertVerificationError as error:
            raise self._lost(distrust(error, self._where, "source")) from None
        except (OSError, ValueError) as error:
            refusal = turned_down(error, self._where, "source") if isinstance(error, ssl.SSLError) else None
            if refusal is not None:
                raise self._lost(refusal) from None
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SourceLostError("no broker", where=self._where, found=text) from None
        sock = client.socket()
        if sock is None:  # it broke while CONNECT was written
            self._raise_refusal()
            raise SourceLostError("the connection broke", where=self._where)
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
        messages, self._messages, self._size = self._messages, [], 0
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
        if self._tls is not None:
            self._tls.abandon()
            self._tls = None

    def _lost(self, error: VedetteError) -> SourceLostError:
        """What may pass by itself, for a source: whoever renews a file need not start the agent again."""
        return SourceLostError(
            error.problem, where=error.where, expected=error.expected, found=error.found, fix=error.fix
        )

    def _raise_refusal(self) -> None:
        """With TLS 1.3 the broker looks at our certificate after the handshake is over for us."""
        refusal = turned_down(self._tls.failure, self._where, "source") if self._tls is not None else None
        if refusal is not None:
            raise self._lost(refusal)

    def _pending(self) -> bool:
        """Whether TLS holds bytes that the socket no longer shows."""
        sock = self._client.socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def _serve(self, timeout_s: float) -> None:
        """Waits for the socket, and lets paho do what is to be done. Raises `SourceLostError` when it broke."""
        client = self._client
        if self._gatherer.wait(0.0 if self._pending() else timeout_s) or self._pending():
            poller = select.poll()
            poller.register(self._descriptor, select.POLLIN)
            for _ in range(PACKETS):
                client.loop_read()
                if self._trouble or client.socket() is None or self._size >= MOST_BYTES:
                    break
                if not (self._pending() or poller.poll(0)):
                    break
        if client.want_write():
            client.loop_write()
        client.loop_misc()
        if client.socket() is None and not self._trouble:
            self._trouble = "the connection broke"
        if self._trouble and not self._subscribed:
            self._raise_refusal()
        if self._trouble and not (self._messages and self._subscribed):  # what has come before is handed on first
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
            self._size += len(message.payload)
