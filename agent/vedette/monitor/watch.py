"""What is said of each message, and of those that do not come: ``vedette watch``."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import msgspec
from rich.text import Text

from vedette.clock import rfc3339
from vedette.mqtt.inbox import Incoming
from vedette.terminal import Console

from .leftovers import Leftovers
from .lines import Part, line, now, printable, where_text
from .place import Place, place_of
from .sequence import Arrival, Sequences, StreamKey

NUMBERED: Final = ("detections", "events")
"""Topics whose messages have a seq."""


class Watch:
    """Writes a line a message to stdout. Belongs to the listening thread."""

    def __init__(self, root: str, *, as_json: bool) -> None:
        """``as_json``: messages as they came, a JSON object each; what is noticed of them goes to stderr then."""
        self._root = root
        self._json = as_json
        self._console = Console(highlight=False, soft_wrap=True, markup=False)
        self._notices = Console(highlight=False, soft_wrap=True, markup=False, stderr=as_json)
        self._sequences = Sequences()
        self._leftovers = Leftovers()
        self._connection = 0
        self.heard_count = 0
        """Messages so far."""

    def changed(self, why: str | None) -> None:
        """The connection is up, or gone, and why."""
        if why is not None:
            self._notice("", Text(f"not connected: {printable(why)}; trying again", "yellow"))
            return
        self._connection += 1
        if self._connection > 1:
            self._notice("", Text("connected again", "green"))

    def heard(self, message: Incoming) -> None:
        """One message."""
        place = place_of(message.topic, self._root)
        self.heard_count += 1
        arrival, replay = self._account(place, message.payload)
        if self._json:
            self._print_json(message)
        if place is not None and arrival.missing is not None:
            after = " after its agent was started again" if arrival.new_epoch else ""
            away = ", while this watch was not connected" if arrival.away else ""
            said = Text(f"{arrival.missing.length} missing: {arrival.missing}{after}{away}", "bold yellow")
            self._notice(where_text(place), said)
        if not self._json:
            self._write(place, message, arrival, replay)
        if place is not None:
            for gone in self._leftovers.note(place, message.payload, retained=message.retained):
                self._notice(where_text(gone), Text("left over: its agent has no such pipeline any more", "yellow"))

    def _write(self, place: Place | None, message: Incoming, arrival: Arrival, replay: bool) -> None:
        if place is None:
            self._console.print(
                Text(f"{printable(message.topic)}: no topic of an agent, {len(message.payload)} bytes", "dim")
            )
            return
        marks: list[Part] = [("replay ", "yellow")] if replay else []
        marks += [("was missing ", "green")] if arrival.late else []
        marks += [("again ", "yellow")] if arrival.again else []
        self._console.print(line(place, message.payload, retained=message.retained, marks=marks))
        if place.name == "ledger":
            self._explain(place, message.payload)

    def _account(self, place: Place | None, payload: bytes) -> tuple[Arrival, bool]:
        """What its number says, and whether it is a replay."""
        if place is None or place.name not in NUMBERED:
            return Arrival(), False
        try:
            envelope = msgspec.json.decode(payload, type=_Numbered)
        except (ValueError, RecursionError):
            return Arrival(), False  # its line says that it is not as documented
        key = StreamKey(place.device, place.pipeline, place.name)
        return self._sequences.note(key, envelope.epoch, envelope.seq, self._connection), envelope.replay

    def _explain(self, place: Place, payload: bytes) -> None:
        """Of what is missing, what the agent itself says that it gave up."""
        try:
            rows = msgspec.json.decode(payload, type=_Ledger).streams
        except (ValueError, RecursionError):
            return  # its line says so
        for row in rows:
            key = StreamKey(place.device, row.pipeline, row.topic)
            for dropped in row.dropped_ranges:
                known = self._sequences.dropped(key, row.epoch, dropped.first, dropped.last)
                if known is not None:
                    words = f"{known} will not come: the agent dropped them ({printable(dropped.reason, 80)})"
                    self._notice(where_text(Place(*key)), Text(words, "yellow"))

    def _print_json(self, message: Incoming) -> None:
        document: dict[str, Any] = {
            "topic": message.topic, "retained": message.retained, "received": rfc3339(time.time_ns()),
        }  # fmt: skip
        try:
            msgspec.json.decode(message.payload)
        except (ValueError, RecursionError):
            document["bytes"] = len(message.payload)  # a picture, or a stranger's
        else:
            document["payload"] = msgspec.Raw(message.payload)
        # a stranger's JSON may have line breaks between its tokens, never within them
        sys.stdout.buffer.write(msgspec.json.encode(document).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n")
        sys.stdout.buffer.flush()

    def _notice(self, where: str, words: Text) -> None:
        text = Text(no_wrap=True)
        text.append(f"{now():%H:%M:%S}       {where}{'  ' if where else ''}", "dim")
        self._notices.print(text.append_text(words))


class _Numbered(msgspec.Struct, frozen=True):
    epoch: int
    seq: int
    replay: bool = False


class _Range(msgspec.Struct, frozen=True):
    first: int
    last: int
    reason: str


class _Row(msgspec.Struct, frozen=True):
    epoch: int
    pipeline: str
    topic: str
    dropped_ranges: list[_Range]


class _Ledger(msgspec.Struct, frozen=True):
    streams: list[_Row]
