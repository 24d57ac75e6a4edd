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
from vedette.delivery import Key, Outbox
from vedette.trust.credentials import certificate_expires, days_left

from .connection import CONNECT_TIMEOUT_S, POLL_S, Connection, LinkOptions
from .inbox import Inbox, Subscription
from .notices import Notice, Notices
from .retry import Retry
from .suspect import Suspect
from .topics import Topics
from .traffic import Shared, Traffic

log = logging.getLogger(__name__)

FEW: Final = 4  # messages that whoever appends sends at once; more, such as a backlog, are the link's thread's


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
        self._on_alert = on_alert
        self._inbox = Inbox(subscriptions, on_alert)
        self._notices = Notices()
        self._suspect = Suspect()
        self._shared = Shared(
            options, topics, outbox, self._notices, self._suspect, on_sent, on_acknowledged, on_alert
        )  # fmt: skip
        self._stop = threading.Event()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # whoever holds the wire, and only they, may use the connection; the link's thread lets go of it while it waits
        self._wire = threading.Lock()
        self._traffic: Traffic | None = None  # of the connection that has told what is retained and sends the outbox
        self._retry = Retry(options.client_id)
        # under the lock, for `status`
        self._lock = threading.Lock()
        self._connected_ns = 0
        self._connections = 0
        self._sent = 0  # on connections that are over
        self._why = "not connected yet"
        self._unsteady = ""
        self._unheard: dict[str, int] = {}  # filters that the broker refused, and its reasons
        self._broker_expires: float | None = None  # its certificate, as it was last seen
        self.refused: BrokerRefusedError | None = None
        outbox.on_append(self._appended)
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)

    def start(self) -> None:
        """Begins to connect; returns at once, for a broker may be away for days."""
        self._thread.start()

    def status(self) -> LinkStatus:
        """May be called by any thread."""
        with self._lock:
            unheard = tuple(self._unheard)
            sent = self._sent + (self._traffic.sent if self._traffic is not None else 0)
            return LinkStatus(
                self._connected_ns, self._connections, sent, self._why, unheard, self._inbox.counts(), self._unsteady
            )

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
        traffic = Traffic(self._shared, will, self._inbox.take, self._refuse_filter)
        connection = traffic.connection
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
            traffic.begin()
            for topic_filter in self._inbox.begin():
                connection.subscribe(topic_filter)
            self._on_connected()
            self._serve(traffic)
        finally:
            if connected:
                self._retry.broke(
                    clock.now_ns(), closed=connection.closed_by_broker, taken_over=connection.taken_over,
                    in_vain=traffic.in_vain, searching=self._suspect.searching,
                )  # fmt: skip
            with self._wire, self._lock:
                self._connected_ns = 0
                self._traffic = None
                self._sent += traffic.sent
            ended = connection.closed and not self._stop.is_set()
            connection.close(politely=self._stop.is_set() and not self._notices.last_words)
            traffic.over(by_the_other_side=ended)

    def _serve(self, traffic: Traffic) -> None:
        with self._wire:
            self._traffic = traffic
            self._turn(traffic)
        while not self._stop.is_set():
            woken = traffic.connection.wait(POLL_S)
            with self._wire:
                traffic.connection.serve()
                if woken:
                    self._hear_wake()
                self._turn(traffic)

    def _turn(self, traffic: Traffic) -> None:
        """Sends what is to be sent, and gets ready to wait. Raises `BrokerUnreachableError` where that is in vain."""
        connection = traffic.connection
        if connection.closed:
            raise _broken(connection)
        traffic.send_notices()
        for topic_filter, wanted in self._inbox.changes():
            (connection.subscribe if wanted else connection.unsubscribe)(topic_filter)
        traffic.send_entries(connection.in_flight_limit)
        now = clock.now_ns()
        if self._retry.lasts(now):
            with self._lock:
                self._unsteady = ""
            log.info("broker: the connection lasts")
        traffic.refuse_silence(now)
        if connection.closed or not connection.arm(self._wake_fd, expects=traffic.expects):
            raise _broken(connection)

    def _appended(self) -> None:
        """On the thread of whoever has appended. What `publish` has left is the link's to send, and goes first."""
        if self._notices.empty and self._wire.acquire(blocking=False):
            try:
                traffic = self._traffic
                if traffic is None or traffic.connection.closed:
                    return  # whoever connects looks into the outbox
                if self._sent_at_once(traffic):
                    return
            finally:
                self._wire.release()
        self._wake()

    def _sent_at_once(self, traffic: Traffic) -> bool:
        """Whether there is nothing left for the link's thread to do. A fault of ours ends the connection, which gives back
        to the outbox what was taken out of it; the pipeline whose thread this is goes on."""
        try:
            return traffic.send_entries(FEW) and not traffic.connection.must_write
        except Exception as error:
            log.exception("broker: sending")
            traffic.connection.end(f"a fault of ours: {error!r}")
            return False

    def _hear_wake(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return  # nobody has woken it

    def _refuse_filter(self, topic_filter: str, reason: int) -> None:
        """The broker refuses a subscription: nothing else is the worse for it."""
        with self._lock:
            self._unheard[topic_filter] = reason
        self._on_alert(f"the broker does not let this agent hear {topic_filter}: reason {reason:#04x}")


def _broken(connection: Connection) -> BrokerUnreachableError:
    return BrokerUnreachableError("the connection broke", found=connection.why)
