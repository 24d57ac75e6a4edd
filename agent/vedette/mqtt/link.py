"""The link to the broker: connects, delivers the outbox, publishes what is retained, connects again.

The outbox is the only queue. paho-mqtt is handed at most its in-flight window, and a new client is made for each
connection, for an old one would deliver again by itself what the outbox delivers (paho queues without limit, and
loses its queue with the process).

Threads: the link's own sends; paho's network thread reports acknowledgements. `publish` may be called by any thread.
"""

from __future__ import annotations

import logging
import random
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from vedette import clock
from vedette.contract.errors import BrokerRefusedError, BrokerUnreachableError, VedetteError
from vedette.delivery import Entry, Key, Outbox

from .payloads import render
from .topics import Topics

log = logging.getLogger(__name__)

BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 10.0  # for TCP and TLS, and then for the broker's answer
PUBACK_TIMEOUT_S: Final = 30.0  # a broker that is connected and acknowledges nothing is no broker
RESERVED_WINDOW: Final = 4  # of the broker's receive maximum, for what is not the outbox's: status, ledger, models
POLL_S: Final = 0.25  # how late the link notices that it should stop, or that the connection broke

# CONNACK reason codes that only a person can mend (MQTT 5, section 3.2.2.2; 3.1.1's codes are mapped onto them by paho)
_FATAL: Final = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x90, 0x9D})


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Where the broker is, and how to talk to it."""

    host: str
    port: int
    client_id: str
    protocol: Literal["5", "3.1.1"] = "5"
    username: str = ""
    password: str = ""
    tls: bool = False
    ca_file: str = ""
    keepalive_s: int = 30
    in_flight: int = 64
    replay_age_s: float = 10.0


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """``connected``: since when, CLOCK_BOOTTIME nanoseconds, or 0. ``why``: what is wrong, or empty."""

    connected: int
    connections: int
    sent: int
    why: str


class _Connection:
    """One client, one connection, never used again."""

    def __init__(self, options: LinkOptions, will: tuple[str, bytes] | None) -> None:
        self.options = options
        self.answered = threading.Event()
        self.closed = threading.Event()
        self.refused: VedetteError | None = None
        self.why = ""
        self.in_flight_limit = options.in_flight
        self.max_packet = 0  # bytes; 0: no limit stated
        self.settled: Callable[[int, int], None] = lambda mid, reason: None
        v5 = options.protocol == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if v5 else True,
            reconnect_on_failure=False,
        )
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.max_inflight_messages_set(options.in_flight + 8)  # the outbox's window, and room for what is retained
        client.connect_timeout = CONNECT_TIMEOUT_S
        if options.username:
            client.username_pw_set(options.username, options.password or None)
        self._tls = tls_context(options.ca_file) if options.tls else None
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        self.client = client

    def connect(self, stop: threading.Event | None = None) -> None:
        """Raises `BrokerUnreachableError` or `BrokerRefusedError`. ``stop`` ends the wait for the broker's answer."""
        options = self.options
        where = f"{options.host}:{options.port}"
        properties = None
        if options.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.ReceiveMaximum = 16  # nothing is subscribed to; a small promise is enough
        try:
            self.client.connect(
                options.host,
                options.port,
                keepalive=options.keepalive_s,
                clean_start=True if options.protocol == "5" else paho.MQTT_CLEAN_START_FIRST_ONLY,
                properties=properties,
            )
        except ssl.SSLCertVerificationError as error:
            raise BrokerRefusedError(
                "the broker's certificate is not trusted", where=where, found=error.verify_message,
                fix="set mqtt.ca_file to the authority that signed it, and mqtt.host to the name in it",
            ) from None  # fmt: skip
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BrokerUnreachableError("no broker", where=where, found=text) from None
        self.client.loop_start()
        deadline_ns = clock.now_ns() + int(CONNECT_TIMEOUT_S * 1e9)
        while not self.answered.wait(POLL_S):
            if stop is not None and stop.is_set():
                raise BrokerUnreachableError("stopped before the broker answered", where=where)
            if clock.now_ns() >= deadline_ns:
                raise BrokerUnreachableError(
                    "no answer to CONNECT", where=where, found=f"silence for {CONNECT_TIMEOUT_S:g} s"
                )
        if self.refused is not None:
            raise self.refused

    def close(self, *, politely: bool) -> None:
        """Ends the connection and paho's thread. ``politely``: with DISCONNECT, so that no will is sent."""
        if politely:
            self.client.disconnect()
        else:
            sock = self.client.socket()
            if isinstance(sock, socket.socket):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError as error:
                    log.debug("the socket was closed already: %s", error)
        self.client.loop_stop()
        if self._tls is not None:
            self._tls.abandon()
        self.closed.set()

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            where = f"{self.options.host}:{self.options.port}"
            if reason.value in _FATAL:
                self.refused = BrokerRefusedError(
                    "the broker refuses this agent", where=where, found=str(reason),
                    fix="check mqtt.username, mqtt.password, mqtt.protocol and the broker's access rules",
                )  # fmt: skip
            else:
                self.refused = BrokerUnreachableError("the broker is not ready", where=where, found=str(reason))
        elif properties is not None:
            receive_maximum = getattr(properties, "ReceiveMaximum", 65535)
            # more than that at a time is a protocol error, and the broker may disconnect (MQTT 5, section 4.9)
            self.in_flight_limit = min(self.in_flight_limit, max(1, receive_maximum - RESERVED_WINDOW))
            self.max_packet = getattr(properties, "MaximumPacketSize", 0)
        self.answered.set()

    def _on_connect_fail(self, client: Any, userdata: Any) -> None:
        self.closed.set()

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if not self.answered.is_set():
            where = f"{self.options.host}:{self.options.port}"
            self.refused = BrokerUnreachableError(
                "the broker closed the connection without an answer", where=where, found=str(reason),
                fix=_other_protocol(self.options.protocol),
            )  # fmt: skip
            self.answered.set()
        if not self.closed.is_set():  # paho may tell twice: the broker's own words first, then of the closed socket
            self.why = str(reason)
        self.closed.set()

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        self.settled(mid, reason.value)


def _other_protocol(protocol: str) -> str:
    other = "3.1.1" if protocol == "5" else "5"
    return f'if it does not speak MQTT {protocol}, set mqtt.protocol = "{other}"'


class _TlsContext(ssl.SSLContext):
    """Remembers its socket, for paho-mqtt 2.1 leaves one open when the handshake fails."""

    _socket: ssl.SSLSocket | None = None

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """See `ssl.SSLContext.wrap_socket`."""
        self._socket = super().wrap_socket(*args, **kwargs)
        return self._socket

    def abandon(self) -> None:
        """Closes the socket, if there is one."""
        if self._socket is not None:
            self._socket.close()


def tls_context(ca_file: str) -> _TlsContext:
    """Verifies the broker's certificate and name, TLS 1.2 or newer. Raises `BrokerRefusedError` for a bad CA file."""
    context = _TlsContext(ssl.PROTOCOL_TLS_CLIENT)  # which asks for a certificate, and checks its name
    context.load_default_certs()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise BrokerRefusedError(
                "CA file cannot be used", where=f"mqtt.ca_file: {ca_file}", expected="PEM certificates",
                found=getattr(error, "strerror", None) or str(error),
            ) from None  # fmt: skip
    return context


@dataclass(slots=True)
class _Sent:
    key: Key
    at_ns: int


class Link:
    """See the module. Owned by `vedette.service`."""

    def __init__(
        self,
        options: LinkOptions,
        topics: Topics,
        outbox: Outbox,
        *,
        will: Callable[[], bytes],
        on_connected: Callable[[], None],
        on_acknowledged: Callable[[Key, int], None],
        on_alert: Callable[[str], None],
    ) -> None:
        """``will``: the payload of the last will, asked for at each connection. ``on_connected``: publish what is
        retained. ``on_acknowledged``: a key and its capture time. All of them are called on the link's threads."""
        self._options = options
        self._topics = topics
        self._outbox = outbox
        self._will = will
        self._on_connected = on_connected
        self._on_acknowledged = on_acknowledged
        self._on_alert = on_alert
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._sent: dict[int, _Sent] = {}
        self._others: set[int] = set()  # message ids of what is not the outbox's
        self._early: dict[int, int] = {}  # acknowledged before publish() had returned the message id
        self._captured: dict[Key, int] = {}
        self._complained: set[str] = set()  # kinds of rejections that this connection has told of
        self._window = threading.Condition(self._lock)
        self._connected_ns = 0
        self._connections = 0
        self._messages = 0
        self._why = "not connected yet"
        self.refused: BrokerRefusedError | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)

    def start(self) -> None:
        """Begins to connect; returns at once, for a broker may be away for days."""
        self._thread.start()

    def status(self) -> LinkStatus:
        """May be called by any thread."""
        with self._lock:
            return LinkStatus(self._connected_ns, self._connections, self._messages, self._why)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Sends one message that is never queued: False when there is no connection, and it is not sent.

        For statistics and what is retained: their newest value is sent again on the next connection.
        """
        with self._lock:
            connection = self._connection
        if connection is None or connection.closed.is_set():
            return False
        return self._publish_outside(connection, topic, payload, qos=qos, retain=retain).rc == paho.MQTT_ERR_SUCCESS

    def _publish_outside(
        self, connection: _Connection, topic: str, payload: bytes, *, qos: int, retain: bool
    ) -> paho.MQTTMessageInfo:
        """A message that is not the outbox's. Its acknowledgement must not be taken for one of the outbox's."""
        if not self._fits(connection, topic, payload):
            self._complain(f"{topic} too_large", f"{topic}: {len(payload)} bytes are over the broker's limit, not sent")
            message = paho.MQTTMessageInfo(0)
            message.rc = paho.MQTT_ERR_PAYLOAD_SIZE
            return message
        message = connection.client.publish(topic, payload, qos=qos, retain=retain)
        with self._lock:
            if message.rc == paho.MQTT_ERR_SUCCESS and self._early.pop(message.mid, None) is None:
                self._others.add(message.mid)
        return message

    def publish_and_wait(self, topic: str, payload: bytes, timeout_s: float) -> bool:
        """As `publish` with QoS 1, retained, and waits for the acknowledgement: for the last words of a clean stop."""
        with self._lock:
            connection = self._connection
        if connection is None or connection.closed.is_set():
            return False
        message = self._publish_outside(connection, topic, payload, qos=1, retain=True)
        if message.rc != paho.MQTT_ERR_SUCCESS:
            return False
        try:
            message.wait_for_publish(timeout_s)
        except (RuntimeError, ValueError) as error:
            log.debug("the last message was not acknowledged: %s", error)
            return False
        return bool(message.is_published())

    def stop(self) -> None:
        """Disconnects politely and ends the thread."""
        self._stop.set()
        self._outbox.wake()
        with self._window:
            self._window.notify_all()
        if self._thread.ident is not None:
            self._thread.join(CONNECT_TIMEOUT_S + 5)

    def _run(self) -> None:
        backoff_s = BACKOFF_MIN_S
        while not self._stop.is_set():
            served = self._connections
            try:
                self._connect_and_serve()
                return  # it was told to stop
            except BrokerRefusedError as error:
                why = error.line()
                if self._connections == 0:
                    self.refused = error
            except BrokerUnreachableError as error:
                why = error.line()
            if self._stop.is_set():
                return
            if self._connections > served:
                backoff_s = BACKOFF_MIN_S
            self._set_disconnected(why)
            # half to whole of the step, so that a site's devices do not all come back in one moment
            self._stop.wait(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    def _set_disconnected(self, why: str) -> None:
        with self._lock:
            news = why != self._why
            self._why = why
            self._connected_ns = 0
        if news and self.refused is None:  # a refusal at the first connection ends the agent, whose last words it is
            self._on_alert(f"broker: {why}")

    def _connect_and_serve(self) -> None:
        connection = _Connection(self._options, (self._topics.status, self._will()))
        connection.settled = self._settled
        try:
            connection.connect(self._stop)
            with self._lock:
                self._connection = connection
                self._connected_ns = clock.now_ns()
                self._connections += 1
                self._why = ""
            log.info("broker: connected to %s:%d", self._options.host, self._options.port)
            self._outbox.mark_replay()
            self._on_connected()
            self._serve(connection)
        finally:
            with self._lock:
                self._connection = None
            connection.close(politely=self._stop.is_set())
            with self._lock:
                self._sent.clear()
                self._early.clear()
                self._others.clear()
                self._captured.clear()
                self._complained.clear()
            self._outbox.release()

    def _serve(self, connection: _Connection) -> None:
        last_progress_ns = clock.now_ns()
        while not self._stop.is_set():
            if connection.closed.is_set():
                raise BrokerUnreachableError("the connection broke", found=connection.why)
            with self._window:
                free = connection.in_flight_limit - len(self._sent)
                if free <= 0:
                    before = len(self._sent)
                    self._window.wait(POLL_S)
                    if len(self._sent) < before:
                        last_progress_ns = clock.now_ns()
                    elif clock.now_ns() - last_progress_ns > PUBACK_TIMEOUT_S * 1e9:
                        raise BrokerUnreachableError(
                            "connected, but acknowledges nothing", found=f"silence for {PUBACK_TIMEOUT_S:g} s"
                        )
                    continue
            last_progress_ns = clock.now_ns()
            for entry in self._outbox.batch(free, POLL_S):
                if not self._send(connection, entry):
                    # the network's thread is about to say why
                    connection.closed.wait(CONNECT_TIMEOUT_S)
                    break

    def _send(self, connection: _Connection, entry: Entry) -> bool:
        age_s = (clock.now_ns() - entry.captured_ns) / 1e9
        replay = age_s > self._options.replay_age_s or self._outbox.is_replay(entry.key)
        payload = render(entry, self._topics, replay=replay)
        topic = self._topics.stream(entry.key.stream)
        if not self._fits(connection, topic, payload):
            self._outbox.reject([entry.key], "too_large")
            self._complain(
                "too_large", f"a message of {len(payload)} bytes is over the broker's {connection.max_packet}"
            )
            return True
        with self._lock:
            self._captured[entry.key] = entry.captured_ns
        message = connection.client.publish(topic, payload, qos=1)
        if message.rc != paho.MQTT_ERR_SUCCESS:
            return False
        with self._lock:
            self._messages += 1
            early = self._early.pop(message.mid, None)
            if early is None:
                self._sent[message.mid] = _Sent(entry.key, clock.now_ns())
        if early is not None:
            self._settle(entry.key, early)
        return True

    @staticmethod
    def _fits(connection: _Connection, topic: str, payload: bytes) -> bool:
        # 16: the fixed header, the topic's length, the message id and the properties' length, amply
        return not connection.max_packet or len(payload) + len(topic.encode()) + 16 <= connection.max_packet

    def _settled(self, mid: int, reason: int) -> None:
        with self._window:
            sent = self._sent.pop(mid, None)
            if sent is None:
                if mid in self._others:
                    self._others.discard(mid)
                else:
                    self._early[mid] = reason
                return
            self._window.notify()
        self._settle(sent.key, reason)

    def _settle(self, key: Key, reason: int) -> None:
        with self._lock:
            captured_ns = self._captured.pop(key, 0)
        if reason >= 0x80:
            self._outbox.reject([key], f"broker: reason {reason:#04x}")
            stream = "/".join(key.stream)
            self._complain(f"{stream} {reason}", f"the broker rejects messages of {stream}: reason {reason:#04x}")
            return
        self._outbox.accept([key])
        self._on_acknowledged(key, captured_ns)

    def _complain(self, kind: str, text: str) -> None:
        """Once a connection: each message would fill the log, and the ledger counts them."""
        with self._lock:
            news = kind not in self._complained
            self._complained.add(kind)
        if news:
            self._on_alert(text)


def try_connection(options: LinkOptions) -> str:
    """Connects once and disconnects. Raises `BrokerUnreachableError` or `BrokerRefusedError`; says what was found."""
    connection = _Connection(replace(options, client_id=f"{options.client_id}-check"), None)
    try:
        connection.connect()
    finally:
        connection.close(politely=True)
    limits = f"in-flight window {connection.in_flight_limit}"
    if connection.max_packet:
        limits += f", packets of at most {connection.max_packet} bytes"
    return f"{options.host}:{options.port}, MQTT {options.protocol}, {limits}"
