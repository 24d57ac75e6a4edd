"""One client, one connection, never used again: a socket to one broker, served by one thread at a time.

paho-mqtt is driven from outside (its `loop_read`, `loop_write` and `loop_misc`), without a thread of its own: whoever
calls `publish` writes to the socket, whoever calls `poll` hears acknowledgements.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from vedette import clock
from vedette.contract.errors import BrokerRefusedError, BrokerUnreachableError, VedetteError
from vedette.trust.credentials import (
    TlsContext,
    certificate_expires,
    days_left,
    distrust,
    option,
    read_password,
    tls_context,
    turned_down,
)

from .inbox import Incoming

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 10.0  # for TCP and TLS, and then for the broker's answer
FAREWELL_S: Final = 2.0  # for the broker to close the connection after our DISCONNECT
RESERVED_WINDOW: Final = 4  # of the broker's receive maximum, for what is not the outbox's: status, ledger, models
POLL_S: Final = 0.25  # the longest wait for the socket while something else may have happened
MAX_PACKET: Final = 64 * 1024  # bytes that the broker may send an agent at once; MQTT 5 alone can ask for it
RTO_MAX_MS: Final = 44  # TCP_RTO_MAX_MS of linux/tcp.h, which Python has no name for; since Linux 6.15
RESEND_S: Final = 2.0  # longest between two attempts to send what was lost; the kernel's own limit is two minutes
UNHEARD_S: Final = 120.0  # the kernel gives a connection up then; the link does so much earlier
# of poll(2): a reset, and what is left of one that a send met first. An end in good order can be read, and that is all
_RESET: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)  # Linux has it

# CONNACK reason codes that only a person can mend (MQTT 5, section 3.2.2.2; 3.1.1's codes are mapped onto them by paho)
_FATAL: Final = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x90, 0x9A, 0x9B, 0x9D})
_UNABLE: Final = frozenset(
    {0x9A, 0x9B}
)  # of these: it does not keep messages, or not take QoS 1, as it says of the will
_IN_URL: Final = {"username": "the URL's user name"}
_CHECKED: Final = {
    "mqtt": ("username", "password", "protocol"),
    "--": ("username", "password_file", "protocol"),
    "url": ("username", "password_file", "protocol"),
}
_TAKEN_OVER: Final = 0x8E  # DISCONNECT's reason (MQTT 5, section 3.14.2.1)


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Where the broker is, and how to talk to it. Files are read anew for each connection."""

    host: str
    port: int
    client_id: str
    protocol: Literal["5", "3.1.1"] = "5"
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca_file: str = ""
    keepalive_s: int = 30
    in_flight: int = 64
    replay_age_s: float = 10.0
    password_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    alpn: tuple[str, ...] = ()
    table: Literal["mqtt", "--", "url"] = "mqtt"
    """What messages call its options: ``mqtt.ca_file``, or ``--ca-file``; ``url``: host, user and TLS stand in a URL."""

    def option(self, key: str) -> str:
        """An option's name, where whoever gave it finds it."""
        return _IN_URL.get(key, option("--", key)) if self.table == "url" else option(self.table, key)

    @property
    def encrypt(self) -> str:
        """How TLS is asked for."""
        return {"mqtt": "mqtt.tls = true", "--": "--tls", "url": "mqtts://"}[self.table]


def _name_all_reasons() -> None:
    """paho takes a PUBACK for malformed, and closes, where its reason is not one of that packet's (MQTT 5, section 3.4.2.1);
    Mosquitto sends 0x95 for a message that is too large for it. Any reason of 0x80 and above is a refusal, and is heard."""
    names = {code: dict(given) for code, given in ReasonCode.names.items()}
    for code in range(0x80, 0x100):
        given = names.setdefault(code, {})
        if not any(PacketTypes.PUBACK in packets for packets in given.values()):
            name = next(iter(given), f"Reason {code:#04x}")
            given[name] = [*given.get(name, []), PacketTypes.PUBACK]
    ReasonCode.names = MappingProxyType(names)


_name_all_reasons()


class Connection:
    """See the module. One thread at a time may call it, but for `wait`, beside which another may.

    ``settled`` hears each acknowledgement: message id, reason. ``heard`` hears each message of what is subscribed to;
    ``unheard`` each filter that the broker refuses to serve, and its reason (0x80 and above, SUBACK of MQTT 3.1.1 and 5).
    ``receives``: bytes of the largest packet that the broker may send; it keeps larger ones to itself.
    """

    def __init__(
        self,
        options: LinkOptions,
        will: tuple[str, bytes] | None,
        settled: Callable[[int, int], None] = lambda mid, reason: None,
        heard: Callable[[Incoming], None] = lambda message: None,
        unheard: Callable[[str, int], None] = lambda topic_filter, reason: None,
        *,
        receives: int = MAX_PACKET,
    ) -> None:
        self._options = options
        self._where = f"{options.host}:{options.port}"
        self._table = "mqtt" if options.table == "mqtt" else "--"
        self._receives = receives
        self._settled = settled
        self._heard = heard
        self._unheard = unheard
        self._asked: dict[int, str] = {}  # filters by the message id of their SUBSCRIBE
        self._poller = select.poll()
        self._fd = -1  # of the socket, as of `arm`
        self._pending = False  # whether TLS holds something, as of `arm`
        self._events = 0  # of the socket, as of `wait`
        self._answered = False
        self._refused: VedetteError | None = None
        self.closed = False
        self.ended = False
        """Whether it was us who ended it."""
        self.why = ""
        """Why it closed, in the broker's words or the system's."""
        self.closed_by_broker = False
        """Whether it ended in good order, and not by a network's reset or by us."""
        self.taken_over = False
        """Whether the broker said that another client has connected with the same id."""
        self.in_flight_limit = options.in_flight
        """Of the outbox's messages, which leave room for others where they can."""
        self.receive_maximum = 65535  # messages of QoS 1 at a time, of all kinds
        self.max_packet = 0  # bytes; 0: no limit stated
        v5 = options.protocol == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if v5 else True,
            reconnect_on_failure=False,
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.max_inflight_messages_set(options.in_flight + 8)  # the outbox's window, and room for what is retained
        client.connect_timeout = CONNECT_TIMEOUT_S
        if options.username:
            password = read_password(options.password_file) if options.password_file else options.password
            client.username_pw_set(options.username, password or None)
        self._tls = None
        if options.tls:
            self._tls = _tls_context(options)
            client.tls_set_context(self._tls)
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        self._client = client

    def connect(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Raises `BrokerUnreachableError` or `BrokerRefusedError`. ``stopped`` ends the wait for the broker's answer."""
        v5 = self._options.protocol == "5"
        properties = None
        if v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.ReceiveMaximum = 16  # commands are few; a small promise is enough
            properties.MaximumPacketSize = self._receives
        try:
            self._client.connect(
                self._options.host,
                self._options.port,
                keepalive=self._options.keepalive_s,
                clean_start=True if v5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
                properties=properties,
            )
        except ssl.SSLCertVerificationError as error:
            raise distrust(error, self._where, self._table) from None
        except (OSError, ValueError) as error:
            refusal = turned_down(error, self._where, self._table) if isinstance(error, ssl.SSLError) else None
            if refusal is not None:
                raise refusal from None
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BrokerUnreachableError(
                "no broker", where=self._where, found=text, fix=_no_tls(self._options, error)
            ) from None
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            # Nagle's algorithm is on in paho's sockets: after a message that nobody answers (QoS 0), the next one would
            # wait for the acknowledgement that the broker's kernel puts off for up to 40 ms
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # where packets are lost the kernel waits twice as long after each attempt (RFC 6298), and a network that is
            # well again would wait with it; without a time of its own it would then count attempts, and give up early
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(UNHEARD_S * 1000))
            with contextlib.suppress(OSError):  # an older kernel
                sock.setsockopt(socket.IPPROTO_TCP, RTO_MAX_MS, round(RESEND_S * 1000))
        deadline_ns = clock.now_ns() + int(CONNECT_TIMEOUT_S * 1e9)
        while not self._answered:
            self.poll(POLL_S)
            if stopped():
                raise BrokerUnreachableError("stopped before the broker answered", where=self._where)
            if clock.now_ns() >= deadline_ns:
                raise BrokerUnreachableError(
                    "no answer to CONNECT", where=self._where, found=f"silence for {CONNECT_TIMEOUT_S:g} s"
                )
        if self._refused is not None:
            raise self._refused

    def poll(self, timeout_s: float, wake_fd: int = -1) -> None:
        """Waits until the broker has said something, the socket takes more, or ``wake_fd`` is readable; then does it."""
        if self.arm(wake_fd):
            self.wait(timeout_s)
            self.serve()

    def arm(self, wake_fd: int = -1, *, expects: bool = True) -> bool:
        """Before `wait`: what it waits for. False where the connection is gone.

        ``expects``: the broker has yet to answer. Where it has not, what it says next is acknowledged by what is sent next,
        or after the 40 ms, and the kernel is not told to do so at once.
        """
        sock = self._client.socket()
        if sock is None:
            self.closed = True
            return False
        self._fd = sock.fileno()
        self._poller.register(self._fd, select.POLLIN | (select.POLLOUT if self.must_write else 0))
        if wake_fd >= 0:
            self._poller.register(wake_fd, select.POLLIN)
        if expects and _QUICKACK is not None and isinstance(sock, socket.socket):
            # brokers have Nagle's algorithm on (RFC 896): an acknowledgement waits for ours of the one before, which the
            # kernel puts off for up to 40 ms; it forgets this option by itself, see tcp(7)
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        # TLS may hold bytes that the socket no longer shows
        self._pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        return True

    def wait(self, timeout_s: float) -> bool:
        """Until there is something to `serve`, or time is up. Touches nothing that `publish` does. Whether the ``wake_fd``
        is readable."""
        ready = dict(self._poller.poll(0 if self._pending else timeout_s * 1000))
        self._events = ready.pop(self._fd, 0)
        return bool(ready)

    def serve(self) -> None:
        """After `wait`: hears what has come, and sends what the socket takes now."""
        if self._pending or self._events & ~select.POLLOUT:
            self._client.loop_read()
            self.closed_by_broker = self.closed and not self.ended and not self._events & _RESET
        if self._events & select.POLLOUT:
            self._client.loop_write()
        self._client.loop_misc()

    @property
    def must_write(self) -> bool:
        """Whether the socket did not take all of what was published: the rest goes when `wait` finds that it takes more."""
        return bool(self._client.want_write())

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> int | None:
        """The message id; None when the connection is gone."""
        message = self._client.publish(topic, payload, qos=qos, retain=retain)
        # AGAIN: the socket is full, and the rest goes when it takes more
        return message.mid if message.rc in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_AGAIN) else None

    def subscribe(self, topic_filter: str) -> None:
        """Asks for what matches, at QoS 1. A refusal comes later, through ``unheard``."""
        result, mid = self._client.subscribe(topic_filter, qos=1)
        if result == paho.MQTT_ERR_SUCCESS and mid is not None:
            self._asked[mid] = topic_filter

    def unsubscribe(self, topic_filter: str) -> None:
        """What the broker has already sent is still heard."""
        self._client.unsubscribe(topic_filter)

    @property
    def subscribed(self) -> bool:
        """Whether the broker has answered every subscription."""
        return not self._asked

    @property
    def broker_certificate_expires(self) -> float | None:
        """Seconds since 1970; None without TLS."""
        return self._tls.broker_expires() if self._tls is not None else None

    def fits(self, topic: str, payload: bytes) -> bool:
        """Whether the broker takes a packet of that size."""
        # 16: the fixed header, the topic's length, the message id and the properties' length, amply
        return not self.max_packet or len(payload) + len(topic.encode()) + 16 <= self.max_packet

    def end(self, why: str) -> None:
        """It is of no use any more: `closed` from now on, by us."""
        self.closed = self.ended = True
        self.why = why

    def close(self, *, politely: bool) -> None:
        """Ends the connection. ``politely``: with DISCONNECT, so that no will is sent."""
        if politely and not self.closed:
            self._client.disconnect()
            deadline_ns = clock.now_ns() + int(FAREWELL_S * 1e9)
            while not self.closed and clock.now_ns() < deadline_ns:
                self.poll(FAREWELL_S / 40)
        sock = self._client.socket()
        if sock is not None:
            sock.close()
        if self._tls is not None:
            self._tls.abandon()
        self.closed = True

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            if reason.value in _UNABLE:
                self._refused = BrokerRefusedError(
                    "the broker cannot do what this agent needs", where=self._where, found=str(reason),
                    fix="let it take QoS 1 and retained messages, or take another broker",
                )  # fmt: skip
            elif reason.value in _FATAL:
                self._refused = BrokerRefusedError(
                    "the broker refuses this agent", where=self._where, found=str(reason),
                    fix=f"check {', '.join(map(self._options.option, _CHECKED[self._options.table]))} and the broker's "
                    "access rules",
                )  # fmt: skip
            else:
                self._refused = BrokerUnreachableError("the broker is not ready", where=self._where, found=str(reason))
        elif properties is not None:
            # more than that at a time is a protocol error, and the broker may disconnect (MQTT 5, section 4.9)
            self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
            self.in_flight_limit = min(self.in_flight_limit, max(1, self.receive_maximum - RESERVED_WINDOW))
            self.max_packet = getattr(properties, "MaximumPacketSize", 0)
        self._answered = True

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if not self._answered:
            # with TLS 1.3 the broker looks at our certificate after the handshake is over for us
            self._refused = turned_down(self._tls.failure, self._where, self._table) if self._tls is not None else None
            if self._refused is None:
                self._refused = BrokerUnreachableError(
                    "the broker closed the connection without an answer", where=self._where, found=str(reason),
                    fix=_other_protocol(self._options),
                )  # fmt: skip
            self._answered = True
        if not self.closed:  # paho may tell twice: the broker's own words first, then of the closed socket
            self.why = str(reason)
            self.taken_over = reason.value == _TAKEN_OVER
        self.closed = True

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        self._settled(mid, reason.value)

    def _on_message(self, client: Any, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self.end("a topic that is no UTF-8")  # a malformed packet (MQTT 5, section 1.5.4)
            return
        self._heard(Incoming(topic, bytes(message.payload), message.retain))

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Any) -> None:
        topic_filter = self._asked.pop(mid, "")
        for reason in reasons:
            if reason.is_failure:
                self._unheard(topic_filter, reason.value)


def _other_protocol(options: LinkOptions) -> str:
    tls = "" if options.tls else f"is it a TLS port? Then {options.encrypt}; "
    other = "3.1.1" if options.protocol == "5" else "5"
    change = f'set mqtt.protocol = "{other}"' if options.table == "mqtt" else f"--protocol {other}"
    certificate = ""
    if options.tls and not options.cert_file and options.table != "url":  # which has none
        certificate = f"; if it wants a certificate, set {options.option('cert_file')}"
    return f"{tls}if it does not speak MQTT {options.protocol}, {change}{certificate}"


def _no_tls(options: LinkOptions, error: OSError | ValueError) -> str:
    """What to do about a handshake that the other side broke off."""
    if (
        options.tls
        and isinstance(error, ssl.SSLError | ConnectionError)
        and not isinstance(error, ConnectionRefusedError)
    ):
        return f"is it a TLS port? On a plain one, leave out {options.encrypt}"
    return ""


def _tls_context(options: LinkOptions) -> TlsContext:
    table = "mqtt" if options.table == "mqtt" else "--"
    return tls_context(options.ca_file, options.cert_file, options.key_file, options.alpn, table=table)


def check_credentials(options: LinkOptions) -> None:
    """Reads what a connection will read. Raises `BrokerRefusedError` where a file cannot be used."""
    if options.password_file:
        read_password(options.password_file)
    if options.tls:
        _tls_context(options)


def try_connection(options: LinkOptions) -> str:
    """Connects once and disconnects. Raises `BrokerUnreachableError` or `BrokerRefusedError`; says what was found."""
    connection = Connection(replace(options, client_id=f"{options.client_id}-check"), None)
    try:
        connection.connect()
        expires = connection.broker_certificate_expires
    finally:
        connection.close(politely=True)
    limits = f"in-flight window {connection.in_flight_limit}"
    if connection.max_packet:
        limits += f", packets of at most {connection.max_packet} bytes"
    if options.tls:
        days = days_left(expires, certificate_expires(options.cert_file) if options.cert_file else None)
        limits += "" if days is None else f", certificates valid for {days:.0f} more days"
    return f"{options.host}:{options.port}, MQTT {options.protocol}, {limits}"
