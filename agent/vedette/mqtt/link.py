"""The link to the broker: connects, delivers the outbox, publishes what is retained, connects again.

The outbox is the only queue. paho-mqtt is handed at most its in-flight window, and a new client is made for each
connection, for an old one would deliver again by itself what the outbox delivers (paho queues without limit, and
loses its queue with the process).

One thread connects, sends, hears acknowledgements, and hears what is subscribed to. While it does nothing but wait,
whoever appends to the outbox sends at once: no other thread need be woken, and wait for a core and Python's lock. Where it
is not waiting, or more than a little is to be sent, it is woken through an eventfd instead, and by `publish`, which leaves a
message for it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from vedette import clock
from vedette.contract.errors import BrokerRefusedError, BrokerUnreachableError
from vedette.delivery import Entry, Key, Outbox
from vedette.trust.credentials import certificate_expires, days_left

from .connection import CONNECT_TIMEOUT_S, POLL_S, RESERVED_WINDOW, Connection, LinkOptions
from .envelope import render
from .inbox import Inbox, Subscription
from .notices import Notice, Notices
from .retry import Retry
from .suspect import Suspect
from .topics import Topics

log = logging.getLogger(__name__)

PUBACK_TIMEOUT_S: Final = 30.0  # a broker that is connected and acknowledges nothing is no broker
FEW: Final = 4  # messages that whoever appends sends at once; more, such as a backlog, are the link's thread's
# PUBACK's reasons that say nothing of the message itself, or nothing for good (MQTT 5, section 3.4.2.1): unspecified and
# implementation specific errors, a message id in use, a quota
_QUOTA: Final = 0x97
_FOR_NOW: Final = frozenset({0x80, 0x83, 0x91, _QUOTA})


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """``connected``: since when, CLOCK_BOOTTIME nanoseconds, or 0. ``why``: what is wrong, or empty.

    ``unheard``: filters that the broker does not let this agent subscribe to. ``received``: messages since the start by
    what became of them (`Inbox.counts`). ``unsteady``: what is said of connections that do not last, or empty.
    """

    connected: int
    connections: int
    sent: int
    why: str
    unheard: tuple[str, ...] = ()
    received: dict[str, int] = field(default_factory=dict)
    unsteady: str = ""


class Link:
    """See the module. Owned by `vedette.service.service`."""

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
        on_sent: Callable[[Key, int, int], None] = lambda key, captured_ns, sent_ns: None,
        subscriptions: Sequence[Subscription] = (),
    ) -> None:
        """``will``: the payload of the last will, asked for at each connection. ``on_connected``: publish what is
        retained. ``on_sent``, ``on_acknowledged``: a key and its capture time, of a message of this boot; for ``on_sent``
        the time, too, when it was handed to the client: after that call the broker, whom it wakes, may have had the core
        and the message long ago. Times are nanoseconds of CLOCK_BOOTTIME.

        All of them are called by one thread at a time, the link's or, of ``on_sent`` and ``on_alert``, the one that appends.
        """
        self._options = options
        self._topics = topics
        self._outbox = outbox
        self._will = will
        self._on_connected = on_connected
        self._on_acknowledged = on_acknowledged
        self._on_sent = on_sent
        self._on_alert = on_alert
        self._inbox = Inbox(subscriptions, on_alert)
        self._stop = threading.Event()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        outbox.on_append(self._appended)
        self._notices = Notices()
        # whoever holds the wire, and only they, may use the connection; the link's thread lets go of it while it waits
        self._wire = threading.Lock()
        self._connection: Connection | None = (
            None  # the one that has told what is retained and sends what is in the outbox
        )
        self._in_flight: dict[int, Entry] = {}  # by message id
        self._awaited: dict[int, tuple[Notice, int]] = {}  # by message id, and since when; oldest first
        self._suspect = Suspect()
        self._refused_for_now = 0  # the broker's reason, or 0
        self._useful = False  # whether this connection has delivered something
        self._passed_over = False  # whether messages are out of the outbox, and not to be sent on this connection
        self._complained: set[str] = set()  # kinds of rejections that this connection has told of
        self._retry = Retry(options.client_id)
        self._settled_ns = 0  # when an acknowledgement last came, or nothing was awaited
        # under the lock, for `status`
        self._lock = threading.Lock()
        self._connected_ns = 0
        self._connections = 0
        self._messages = 0
        self._why = "not connected yet"
        self._unsteady = ""
        self._unheard: dict[str, int] = {}  # filters that the broker refused, and its reasons
        self._broker_expires: float | None = None  # its certificate, as it was last seen
        self.refused: BrokerRefusedError | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)

    def start(self) -> None:
        """Begins to connect; returns at once, for a broker may be away for days."""
        self._thread.start()

    def status(self) -> LinkStatus:
        """May be called by any thread."""
        with self._lock:
            unheard = tuple(self._unheard)
            return LinkStatus(
                self._connected_ns, self._connections, self._messages, self._why, unheard, self._inbox.counts(),
                self._unsteady,
            )  # fmt: skip

    def certificate_days_left(self) -> float | None:
        """Days until the broker's certificate expires, or our own in its file now, what comes first; None without TLS."""
        own = certificate_expires(self._options.cert_file) if self._options.cert_file else None
        with self._lock:
            return days_left(own, self._broker_expires)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, lasting: bool = False) -> bool:
        """Hands on one message that the outbox does not keep: False when there is no connection, or too much waits already.
        One that is over the broker's limit is not sent either, and said so once.

        For statistics and what is retained: their newest value is sent again on the next connection. ``lasting``: it waits
        for a connection, and is sent again where the broker has not acknowledged it: for answers.
        """
        return self._leave(Notice(topic, payload, qos, retain, lasting))

    def publish_and_wait(self, topic: str, payload: bytes, timeout_s: float) -> bool:
        """As `publish` with QoS 1, retained, before all others, and waits for the acknowledgement: for the last words of a
        clean stop."""
        notice = Notice(topic, payload, 1, True, last=True)
        return self._leave(notice) and notice.acknowledged.wait(timeout_s)

    def _leave(self, notice: Notice) -> bool:
        with self._lock:
            if not self._connected_ns and not notice.lasting:
                return False
        if not self._notices.put(notice):
            return False
        self._wake()
        return True

    def stop(self) -> None:
        """Disconnects politely and ends the thread. Where last words could not be sent the broker is left to tell of the end
        itself, by the last will."""
        self._stop.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(CONNECT_TIMEOUT_S + 5)

    def _wake(self) -> None:
        try:
            os.eventfd_write(self._wake_fd, 1)
        except BlockingIOError:
            return  # it counts to 2**64 - 2 and is as awake as it can be

    def _run(self) -> None:
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
            except Exception as error:
                log.exception("broker: the link")
                why = f"a fault of ours: {error!r}"
            if self._stop.is_set():
                return
            if self._connections == served:
                self._retry.failed()
            self._set_disconnected(why)
            self._stop.wait(self._retry.pause_s())

    def _set_disconnected(self, why: str) -> None:
        unsteady = self._retry.why
        with self._lock:
            # while connections do not last, that is said once, and not each time one breaks
            news = unsteady != self._unsteady if unsteady else why != self._why
            self._why = why = unsteady or why
            self._unsteady = unsteady
        if news and self.refused is None:  # a refusal at the first connection ends the agent, whose last words it is
            self._on_alert(f"broker: {why}")

    def _connect_and_serve(self) -> None:
        will = (self._topics.status, self._will())
        connection = Connection(self._options, will, self._settled, self._inbox.take, self._refuse_filter)
        connected = False
        try:
            connection.connect(self._stop.is_set)
            connected = True
            with self._lock:
                self._connected_ns = clock.now_ns()
                self._connections += 1
                self._broker_expires = connection.broker_certificate_expires
                self._why = ""
                self._unheard.clear()
            self._retry.connected(self._connected_ns)
            log.info("broker: connected to %s:%d", self._options.host, self._options.port)
            self._outbox.mark_replay()
            self._suspect.connected()
            self._useful = False
            for topic_filter in self._inbox.begin():
                connection.subscribe(topic_filter)
            self._on_connected()
            self._serve(connection)
        finally:
            if connected:
                self._retry.broke(
                    clock.now_ns(), closed=connection.closed_by_broker, taken_over=connection.taken_over,
                    in_vain=bool(self._refused_for_now and not self._useful), searching=self._suspect.searching,
                )  # fmt: skip
            with self._lock:
                self._connected_ns = 0
            with self._wire:
                self._connection = None
            if connection.closed and not connection.ended and not self._stop.is_set():
                self._give_up_what_ends_it()
            connection.close(politely=self._stop.is_set() and not self._notices.last_words)
            self._notices.connection_over([notice for notice, _ in self._awaited.values()])
            self._in_flight.clear()
            self._awaited.clear()
            self._complained.clear()
            self._refused_for_now = 0
            self._passed_over = False
            self._outbox.release()

    def _serve(self, connection: Connection) -> None:
        self._settled_ns = clock.now_ns()
        with self._wire:
            self._connection = connection
            self._turn(connection)
        while not self._stop.is_set():
            woken = connection.wait(POLL_S)
            with self._wire:
                connection.serve()
                if woken:
                    self._hear_wake()
                self._turn(connection)

    def _turn(self, connection: Connection) -> None:
        """Sends what is to be sent, and gets ready to wait. Raises `BrokerUnreachableError` where that is in vain."""
        if connection.closed:
            raise _broken(connection)
        self._send_notices(connection)
        for topic_filter, wanted in self._inbox.changes():
            (connection.subscribe if wanted else connection.unsubscribe)(topic_filter)
        self._send_entries(connection, connection.in_flight_limit)
        now = clock.now_ns()
        if self._retry.lasts(now):
            with self._lock:
                self._unsteady = ""
            log.info("broker: the connection lasts")
        if not self._in_flight:
            self._settled_ns = now
        told_ns = next((since_ns for _, since_ns in self._awaited.values()), now)
        if now - min(self._settled_ns, told_ns) > PUBACK_TIMEOUT_S * 1e9:
            raise BrokerUnreachableError(
                "connected, but acknowledges nothing", found=f"silence for {PUBACK_TIMEOUT_S:g} s"
            )
        expects = bool(self._in_flight or self._awaited or not connection.subscribed)
        if connection.closed or not connection.arm(self._wake_fd, expects=expects):
            raise _broken(connection)

    def _send_entries(self, connection: Connection, limit: int) -> bool:
        """At most so many, and no more than the window has room for. False where others may be left."""
        free = min(limit, connection.in_flight_limit - len(self._in_flight), self._free(connection))
        if self._suspect.careful:
            return self._send_one(connection) if free > 0 else True
        entries = self._outbox.batch(free, 0) if free > 0 else ()
        return all(self._send(connection, entry) for entry in entries) and len(entries) < limit

    def _send_one(self, connection: Connection) -> bool:
        """Alone, where a message is suspected: see `Suspect`. Those that are passed over wait for the next connection."""
        if not (self._in_flight or self._awaited or self._passed_over) and self._notices.empty:
            *passed_over, entry = self._outbox.batch(self._suspect.skip + 1, 0) or (None,)
            self._passed_over = bool(passed_over)
            sent = entry is None or self._send(connection, entry)
            if self._passed_over and not self._in_flight:
                connection.end("no message that tells")  # it was too large
            return sent
        return True

    def _free(self, connection: Connection) -> int:
        """How many more the broker takes before it has acknowledged one."""
        return connection.receive_maximum - len(self._in_flight) - len(self._awaited)

    def _appended(self) -> None:
        """On the thread of whoever has appended. What `publish` has left is the link's to send, and goes first."""
        if self._notices.empty and self._wire.acquire(blocking=False):
            try:
                connection = self._connection
                if connection is None or connection.closed:
                    return  # whoever connects looks into the outbox
                if self._sent_at_once(connection):
                    return
            finally:
                self._wire.release()
        self._wake()

    def _sent_at_once(self, connection: Connection) -> bool:
        """Whether there is nothing left for the link's thread to do. A fault of ours ends the connection, which gives back
        to the outbox what was taken out of it; the pipeline whose thread this is goes on."""
        try:
            return self._send_entries(connection, FEW) and not connection.must_write
        except Exception as error:
            log.exception("broker: sending")
            connection.end(f"a fault of ours: {error!r}")
            return False

    def _hear_wake(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return  # nobody has woken it

    def _send_notices(self, connection: Connection) -> None:
        """As many as the window has room for; the rest goes when the broker has acknowledged some."""
        while (notice := self._notices.first()) is not None:
            free = self._free(connection)
            window = free if notice.last else min(free, RESERVED_WINDOW - len(self._awaited))
            if notice.qos and window <= 0:
                return
            if not self._notices.take(notice):
                continue  # a newer one has its place
            if not connection.fits(notice.topic, notice.payload):
                size = len(notice.payload)
                self._complain(
                    f"{notice.topic} too_large", f"{notice.topic}: {size} bytes are over the broker's limit, not sent"
                )
                continue
            mid = connection.publish(notice.topic, notice.payload, qos=notice.qos, retain=notice.retain)
            if mid is not None and notice.qos:
                self._awaited[mid] = notice, clock.now_ns()

    def _send(self, connection: Connection, entry: Entry) -> bool:
        age_s = (clock.now_ns() - entry.captured_ns) / 1e9
        replay = age_s > self._options.replay_age_s or self._outbox.is_replay(entry.key)
        payload = render(entry, self._topics, replay=replay)
        topic = self._topics.stream(entry.key.stream)
        if not connection.fits(topic, payload):
            self._outbox.reject([entry.key], "too_large")
            self._complain(
                "too_large", f"a message of {len(payload)} bytes is over the broker's {connection.max_packet}"
            )
            return True
        sent_ns = clock.now_ns()
        mid = connection.publish(topic, payload, qos=1)
        if mid is None:
            connection.closed = True
            return False
        self._in_flight[mid] = entry
        with self._lock:
            self._messages += 1
        if entry.boot == clock.boot_id():
            self._on_sent(entry.key, entry.captured_ns, sent_ns)
        return True

    def _settled(self, mid: int, reason: int) -> None:
        entry = self._in_flight.get(mid)
        if entry is None:
            awaited = self._awaited.pop(mid, None)
            if awaited is not None:
                awaited[0].acknowledged.set()
                self._suspect.heard()
            return  # QoS 0 is settled by sending it
        self._settled_ns = clock.now_ns()
        # of those that are refused for now on one connection the first counts
        if reason in _FOR_NOW and (self._refused_for_now or reason == _QUOTA or not self._suspect.refused(entry.key)):
            self._put_off(reason)
            return
        del self._in_flight[mid]
        self._suspect.settled(entry.key)
        if self._passed_over:
            self._end("the messages before it are to be sent")
        if reason >= 0x80:
            self._outbox.reject([entry.key], f"broker: reason {reason:#04x}")
            stream = "/".join(entry.key.stream)
            self._complain(f"{stream} {reason}", f"the broker rejects messages of {stream}: reason {reason:#04x}")
            return
        self._useful = True
        self._outbox.accept([entry.key])
        if entry.boot == clock.boot_id():  # or how long it took cannot be told
            self._on_acknowledged(entry.key, entry.captured_ns)

    def _put_off(self, reason: int) -> None:
        """What is in flight waits in the outbox for another connection, later: its order and its ids stay as they are."""
        self._refused_for_now = reason
        self._end(f"the broker takes no messages for now: reason {reason:#04x}")

    def _give_up_what_ends_it(self) -> None:
        """Rejects the message at which the broker ends each connection, if there is one: see `Suspect`."""
        key = self._suspect.ended([entry.key for entry in self._in_flight.values()], others=bool(self._awaited))
        if key is not None:
            self._outbox.reject([key], "ends the connection")
            self._on_alert(
                f"{'/'.join(key.stream)}, seq {key.seq}: the broker ends the connection each time it is sent, and takes "
                "others; given up, and counted as rejected"
            )

    def _end(self, why: str) -> None:
        connection = self._connection
        assert connection is not None  # who holds the wire hears acknowledgements
        connection.end(why)

    def _refuse_filter(self, topic_filter: str, reason: int) -> None:
        """The broker refuses a subscription: nothing else is the worse for it."""
        with self._lock:
            self._unheard[topic_filter] = reason
        self._on_alert(f"the broker does not let this agent hear {topic_filter}: reason {reason:#04x}")

    def _complain(self, kind: str, text: str) -> None:
        """Once a connection: each message would fill the log, and the ledger counts them."""
        if kind not in self._complained:
            self._complained.add(kind)
            self._on_alert(text)


def _broken(connection: Connection) -> BrokerUnreachableError:
    return BrokerUnreachableError("the connection broke", found=connection.why)
