"""How the agent is: ready or not, what is wrong, and which pipelines get less than they want.

A *problem* that lasts (a camera is away) stands as long as somebody sees it; one that happens (a malformed reading, a
refused command) stands for `NOTED_S` after it last happened, so that a subscriber who looks now and then sees it. The
status is published when the set of problems changes, not when their texts do: a stall's text counts seconds. What goes on
happening is said again every `AGAIN_S`, for whoever reads how often.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from vedette import clock
from vedette.mqtt.payloads import State

NOTED_S: Final = 60.0
AGAIN_S: Final = 10.0  # from one status to the next that says of the same problems how often they have happened by now
MAX_NOTES: Final = 50  # of different kinds; more are no news to anybody
DEGRADED_BELOW: Final = 0.9  # share of the samples it wanted; from there a pipeline counts as degraded
RECOVERED_FROM: Final = 0.95  # until this share, so that one at the edge does not flicker


@dataclass(frozen=True, slots=True)
class Said:
    """What the status says. ``since_ns``: CLOCK_BOOTTIME, when ``state`` or ``why`` began to be so."""

    state: State
    why: str | None
    since_ns: int
    degraded: tuple[str, ...]


class Condition:
    """Any thread may call anything. ``on_change`` is called without a lock held, on the thread that brought the news."""

    def __init__(self, on_change: Callable[[Said], None]) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._notes: dict[str, tuple[str, int]] = {}  # key -> text, when it last happened
        self._lasting: dict[str, str] = {}
        self._known: frozenset[str] = frozenset()
        self._degraded: frozenset[str] = frozenset()
        self._told: list[str] = []  # the notes' texts as they were last said, and when
        self._told_ns = clock.now_ns()
        self._said = Said("init", None, clock.now_ns(), ())

    @property
    def said(self) -> Said:
        """What was last said."""
        with self._lock:
            return self._said

    def change(self, state: State, why: str | None = None) -> None:
        """Says this, whatever the problems are."""
        with self._lock:
            said = self._said = Said(state, why, clock.now_ns(), tuple(sorted(self._degraded)))
        self._on_change(said)

    def note(self, key: str, text: str) -> bool:
        """Something went wrong just now. Problems of one ``key`` are one: the newest text stands for them.

        Whether this is news: none of its kind stands already.
        """
        with self._lock:
            news = key not in self._notes
            if not news or len(self._notes) < MAX_NOTES:
                self._notes[key] = (text, clock.now_ns())
            return news

    def review(self, lasting: Mapping[str, str], shares: Mapping[str, float]) -> None:
        """Compares with what was last said, and says what changed.

        ``lasting``: the problems there are now, by key. ``shares``: by pipeline, how much of what it wanted it got lately;
        one that is left out stays as it was.
        """
        now = clock.now_ns()
        with self._lock:
            for key in [key for key, (_, at) in self._notes.items() if now - at > NOTED_S * 1e9]:
                del self._notes[key]
            problems = {**lasting, **{key: text for key, (text, _) in self._notes.items()}}
            degraded = set(self._degraded)
            for name, share in shares.items():
                if share < DEGRADED_BELOW:
                    degraded.add(name)
                elif share >= RECOVERED_FROM:
                    degraded.discard(name)
            same = frozenset(problems) == self._known
            notes = [text for text, _ in self._notes.values()]
            again = notes != self._told and now - self._told_ns >= AGAIN_S * 1e9
            if same and degraded == self._degraded and not again:
                return
            self._known = frozenset(problems)
            self._degraded = frozenset(degraded)
            since_ns = self._said.since_ns if same else now
            why = self._said.why if same and not again else "; ".join(problems.values()) or None
            if not same or again:
                self._told, self._told_ns = notes, now
            said = self._said = Said("alert" if problems else "ready", why, since_ns, tuple(sorted(degraded)))
        self._on_change(said)
