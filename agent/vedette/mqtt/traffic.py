"""What goes over one connection: notices, the outbox's messages, and the broker's acknowledgements of both.

It lives as long as the connection. What outlives it stays in the outbox, in `Notices` and in `Suspect`, which see to it
that a message the broker does not take is found out over several connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vedette import clock
from vedette.contract.errors import BrokerUnreachableError
from vedette.delivery import Entry, Key, Outbox

from .connection import RESERVED_WINDOW, Connection, LinkOptions
from .envelope import render
from .inbox import Incoming
from .notices import Notice, Notices
from .suspect import Suspect
from .topics import Topics

PUBACK_TIMEOUT_S: Final = 30.0  # a broker that is connected and acknowledges nothing is no broker
# PUBACK's reasons that say nothing of the message itself, or nothing for good (MQTT 5, section 3.4.2.1): unspecified and
# implementation specific errors, a message id in use, a quota
_QUOTA: Final = 0x97
_FOR_NOW: Final = frozenset({0x80, 0x83, 0x91, _QUOTA})


@dataclass(frozen=True, slots=True)
class Shared:
    """What is the same on each connection. The functions: see `Link`."""

    options: LinkOptions
    topics: Topics
    outbox: Outbox
    notices: Notices
    suspect: Suspect
    on_sent: Callable[[Key, int, int], None]
    on_acknowledged: Callable[[Key, int], None]
    on_alert: Callable[[str], None]


class Traffic:
    """See the module. Belongs to whoever holds the link's wire; `sent` may be read by any thread."""

    def __init__(
        self,
        shared: Shared,
        will: tuple[str, bytes],
        heard: Callable[[Incoming], None],
        unheard: Callable[[str, int], None],
    ) -> None:
        """``will``, ``heard``, ``unheard``: see `Connection`, which is made and not yet connected."""
        self.connection = Connection(shared.options, will, self._settled, heard, unheard)
        self.sent = 0
        """How many of the outbox's messages."""
        self._shared = shared
        self._outbox = shared.outbox
        self._notices = shared.notices
        self._suspect = shared.suspect
        self._in_flight: dict[int, Entry] = {}  # by message id
        self._awaited: dict[int, tuple[Notice, int]] = {}  # by message id, and since when; oldest first
        self._settled_ns = 0  # when an acknowledgement last came, or nothing was awaited
        self._refused_for_now = 0  # the broker's reason, or 0
        self._useful = False  # whether something was delivered
        self._passed_over = False  # whether messages are out of the outbox, and not to be sent on this connection
        self._complained: set[str] = set()  # kinds of rejections that were told of

    def begin(self) -> None:
        """The broker has taken the connection: from now on it is expected to acknowledge."""
        self._outbox.mark_replay()
        self._suspect.connected()
        self._settled_ns = clock.now_ns()

    @property
    def in_vain(self) -> bool:
        """Whether the broker took no message, and said that it is for now."""
        return bool(self._refused_for_now) and not self._useful

    @property
    def expects(self) -> bool:
        """Whether the broker has yet to answer something."""
        return bool(self._in_flight or self._awaited or not self.connection.subscribed)

    def refuse_silence(self, now_ns: int) -> None:
        """Raises `BrokerUnreachableError` where the broker has acknowledged nothing for too long."""
        if not self._in_flight:
            self._settled_ns = now_ns
        told_ns = next((since_ns for _, since_ns in self._awaited.values()), now_ns)
        if now_ns - min(self._settled_ns, told_ns) > PUBACK_TIMEOUT_S * 1e9:
            raise BrokerUnreachableError(
                "connected, but acknowledges nothing", found=f"silence for {PUBACK_TIMEOUT_S:g} s"
            )

    def send_notices(self) -> None:
        """As many as the window has room for; the rest goes when the broker has acknowledged some."""
        connection = self.connection
        while (notice := self._notices.first()) is not None:
            free = self._free
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
            if notice.qos:
                self._awaited[mid or 0] = notice, clock.now_ns()  # 0 is nobody's: it goes where the unacknowledged go
            if mid is None:
                connection.closed = True
                return

    def send_entries(self, limit: int) -> bool:
        """Of the outbox, at most so many, and no more than the window has room for. False where others may be left."""
        free = min(limit, self.connection.in_flight_limit - len(self._in_flight), self._free)
        if self._suspect.careful:
            return self._send_one() if free > 0 else True
        entries = self._outbox.batch(free, 0) if free > 0 else ()
        return all(self._send(entry) for entry in entries) and len(entries) < limit

    def over(self, *, by_the_other_side: bool) -> None:
        """The connection is, or is about to be closed: what the broker has not acknowledged waits for the next one."""
        if by_the_other_side and not self.connection.ended:
            self._give_up_what_ends_it()
        self._notices.connection_over([notice for notice, _ in self._awaited.values()])
        self._in_flight.clear()
        self._awaited.clear()
        self._outbox.release()

    @property
    def _free(self) -> int:
        """How many more the broker takes before it has acknowledged one."""
        return self.connection.receive_maximum - len(self._in_flight) - len(self._awaited)

    def _send_one(self) -> bool:
        """Alone, where a message is suspected: see `Suspect`. Those that are passed over wait for the next connection."""
        if not (self._in_flight or self._awaited or self._passed_over) and self._notices.empty:
            *passed_over, entry = self._outbox.batch(self._suspect.skip + 1, 0) or (None,)
            self._passed_over = bool(passed_over)
            sent = entry is None or self._send(entry)
            if self._passed_over and not self._in_flight:
                self.connection.end("no message that tells")  # it was too large
            return sent
        return True

    def _send(self, entry: Entry) -> bool:
        shared, connection = self._shared, self.connection
        age_s = (clock.now_ns() - entry.captured_ns) / 1e9
        replay = age_s > shared.options.replay_age_s or self._outbox.is_replay(entry.key)
        payload = render(entry, shared.topics, replay=replay)
        topic = shared.topics.stream(entry.key.stream)
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
        self.sent += 1
        if entry.boot == clock.boot_id():
            shared.on_sent(entry.key, entry.captured_ns, sent_ns)
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
            self.connection.end("the messages before it are to be sent")
        if reason >= 0x80:
            self._outbox.reject([entry.key], f"broker: reason {reason:#04x}")
            stream = "/".join(entry.key.stream)
            self._complain(f"{stream} {reason}", f"the broker rejects messages of {stream}: reason {reason:#04x}")
            return
        self._useful = True
        self._outbox.accept([entry.key])
        if entry.boot == clock.boot_id():  # or how long it took cannot be told
            self._shared.on_acknowledged(entry.key, entry.captured_ns)

    def _put_off(self, reason: int) -> None:
        """What is in flight waits in the outbox for another connection, later: its order and its ids stay as they are."""
        self._refused_for_now = reason
        self.connection.end(f"the broker takes no messages for now: reason {reason:#04x}")

    def _give_up_what_ends_it(self) -> None:
        """Rejects the message at which the broker ends each connection, if there is one: see `Suspect`."""
        key = self._suspect.ended([entry.key for entry in self._in_flight.values()], others=bool(self._awaited))
        if key is not None:
            self._outbox.reject([key], "ends the connection")
            self._shared.on_alert(
                f"{'/'.join(key.stream)}, seq {key.seq}: the broker ends the connection each time it is sent, and takes "
                "others; given up, and counted as rejected"
            )

    def _complain(self, kind: str, text: str) -> None:
        """Once a connection: each message would fill the log, and the ledger counts them."""
        if kind not in self._complained:
            self._complained.add(kind)
            self._shared.on_alert(text)
