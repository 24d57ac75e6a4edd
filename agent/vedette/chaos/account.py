"""What a subscriber heard of an agent, held against what the agent's ledger says."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from vedette.mqtt.payloads import LedgerMessage, LedgerStream, StatsMessage, StatusMessage
from vedette.mqtt.topics import Topics

KEPT: Final = ("detections", "events")
"""Last levels of the topics whose messages the outbox keeps."""

_VARIES: Final = ("replay", "ts")  # what may differ where a message is sent again (docs/WIRE.md, "Identity and order")


class StreamOf(NamedTuple):
    """One stream in one epoch."""

    epoch: int
    pipeline: str
    topic: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """``given``: messages that were given a seq, as far as anybody knows. ``received``: different ones.

    ``accounted``: not received, and the ledger says why, by reason. ``missing``: not received, and it does not.
    ``waiting``: not received, for the agent still has them. ``twice``: received again, which is allowed.
    ``conflicts``: ids that stood for two messages. ``unknown``: streams of epochs of which nobody knows how many there
    were; nothing is missing in what was received of them. ``unbalanced``: rows of the ledger whose sum does not hold.
    ``examples``: of what is wrong.
    """

    given: int
    received: int
    twice: int
    accounted: Mapping[str, int]
    missing: int
    waiting: int
    conflicts: int
    unknown: int
    malformed: int
    unbalanced: int
    examples: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every message is accounted for, and each id stands for one."""
        return not (self.missing or self.waiting or self.conflicts or self.malformed or self.unbalanced)


@dataclass(slots=True)
class _Heard:
    seqs: set[int] = field(default_factory=set)
    twice: int = 0


class Account:
    """`hear` is called by one thread, the rest by any."""

    def __init__(self, topics: Topics) -> None:
        self._prefix = f"{topics.base}/"
        self._status, self._ledger = topics.status, topics.ledger
        self._lock = threading.Lock()
        self._heard: dict[StreamOf, _Heard] = {}
        self._prints: dict[str, bytes] = {}  # of messages, by their ids
        self._conflicts: list[str] = []
        self._malformed: list[str] = []
        self._unbalanced: list[str] = []
        self._rows: dict[StreamOf, LedgerStream] = {}
        self._captured_us: dict[str, int] = {}  # the newest, by pipeline
        self._backlog = 0
        self.received = 0
        """Messages that the outbox keeps, each as often as it came."""
        self.last_status: StatusMessage | None = None
        self.stopped = threading.Event()
        """The agent has said goodbye, and nothing since."""

    def hear(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        """Takes a message of the device. What was retained is of an earlier time, and passed over."""
        if retained or not topic.startswith(self._prefix):
            return
        pipeline, _, last = topic.removeprefix(self._prefix).partition("/")
        with self._lock:
            try:
                if topic == self._status:
                    self._hear_status(msgspec.json.decode(payload, type=StatusMessage))
                elif topic == self._ledger:
                    self._hear_ledger(msgspec.json.decode(payload, type=LedgerMessage))
                elif last == "stats":
                    self._backlog = msgspec.json.decode(payload, type=StatsMessage).outbox.messages
                elif last in KEPT:
                    self._hear_kept(pipeline, last, msgspec.json.decode(payload))
            except (
                ValueError,
                RecursionError,
                KeyError,
                TypeError,
                AttributeError,
            ) as error:  # msgspec's are ValueErrors
                self._malformed.append(f"{topic}: {error!r}")

    def _hear_status(self, status: StatusMessage) -> None:
        self.last_status = status
        if status.state == "stopped":
            self.stopped.set()
        else:
            self.stopped.clear()

    def _hear_ledger(self, message: LedgerMessage) -> None:
        for row in message.streams:
            stream = StreamOf(row.epoch, row.pipeline, row.topic)
            old = self._rows.get(stream)
            if row.last is None and old is not None:  # what was known of its drops stays known
                row = msgspec.structs.replace(old, last=None, waiting=0, lost_at_crash=None)
            elif not _balances(row):
                self._unbalanced.append(msgspec.json.encode(row).decode())
            self._rows[stream] = row

    def _hear_kept(self, pipeline: str, topic: str, message: dict[str, Any]) -> None:
        self.received += 1
        heard = self._heard.setdefault(StreamOf(message["epoch"], pipeline, topic), _Heard())
        if message["seq"] in heard.seqs:
            heard.twice += 1
        heard.seqs.add(message["seq"])
        lasting = {key: value for key, value in message.items() if key not in _VARIES}
        print_ = hashlib.blake2b(msgspec.json.encode(lasting), digest_size=8).digest()
        if self._prints.setdefault(message["id"], print_) != print_:
            self._conflicts.append(message["id"])
        self._captured_us[pipeline] = max(self._captured_us.get(pipeline, 0), message["mono_us"])

    def fresh_since(self, captured_ns: int) -> set[str]:
        """The pipelines of which something has come that was captured after that, CLOCK_BOOTTIME."""
        with self._lock:
            return {name for name, captured_us in self._captured_us.items() if captured_us * 1000 > captured_ns}

    @property
    def backlog(self) -> int:
        """What waited in the agent when it last said so."""
        with self._lock:
            return self._backlog

    def ids(self) -> set[str]:
        """Of every message that has come."""
        with self._lock:
            return set(self._prints)

    def verdict(self) -> Verdict:
        """How it stands now."""
        with self._lock:
            accounted: Counter[str] = Counter()
            given = received = twice = missing = waiting = unknown = 0
            examples = [f"{name} stood for two messages" for name in self._conflicts[:3]] + self._malformed[:3]
            examples += [f"does not balance: {row}" for row in self._unbalanced[:3]]
            for stream in sorted({*self._heard, *self._rows}):
                heard, row = self._heard.get(stream, _Heard()), self._rows.get(stream)
                highest = max(heard.seqs, default=0)
                known = row is not None and row.last is not None
                last = max(highest, row.last or 0) if row is not None else highest
                absent = last - len(heard.seqs)
                given, received, twice = given + last, received + len(heard.seqs), twice + heard.twice
                if row is not None and not known:
                    unknown += 1
                if row is None or absent == 0:
                    excused: dict[str, int] = {}
                else:
                    excused = {
                        "dropped": row.dropped, "rejected": row.rejected, "lost with a crash": row.lost_at_crash or 0,
                    }  # fmt: skip
                for reason, count in excused.items():
                    taken = min(count, absent)
                    absent -= taken
                    if taken:
                        accounted[reason] += taken
                late = min(absent, row.waiting) if row is not None else 0
                waiting += late
                missing += absent - late
                if absent:
                    examples.append(_example(stream, heard.seqs, last, row))
            return Verdict(
                given, received, twice, dict(accounted), missing, waiting, len(self._conflicts), unknown,
                len(self._malformed), len(self._unbalanced), tuple(examples[:10]),
            )  # fmt: skip


def _balances(row: LedgerStream) -> bool:
    if row.last is None or row.lost_at_crash is None:
        return True  # nobody knows
    accounted = row.acknowledged + row.waiting + row.rejected + row.dropped + row.lost_at_crash
    return row.last - row.first + 1 == accounted


def _example(stream: StreamOf, seqs: set[int], last: int, row: LedgerStream | None) -> str:
    dropped = {n for r in (row.dropped_ranges if row else ()) for n in range(r.first, r.last + 1)}
    gone = [n for n in range(1, last + 1) if n not in seqs and n not in dropped]
    said = msgspec.json.encode(row).decode() if row is not None else "no row in any ledger"
    return f"epoch {stream.epoch} {stream.pipeline}/{stream.topic}: {gone[:5]} of {last}; {said}"
