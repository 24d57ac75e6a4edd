"""When to connect again, and whether connections last.

After a failure comes a pause that doubles, to a minute at most; a connection that broke begins anew with the shortest. Not
so where the broker closes one connection after the other soon after it has taken it: that is what two clients of one id do
to each other, each connection ending the other's (MQTT 5 and 3.1.1, section 3.1.4), and before MQTT 5 without a word. Then
the pause goes on doubling, for both, until a connection lasts. So it does where a network resets one connection after the
other as soon as it is made; but for a few in a row, as a link that comes and goes makes them, the shortest pause is right.
"""

from __future__ import annotations

import random
from typing import Final

BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 60.0
BRIEF_S: Final = 2.0  # two clients that take turns, at the shortest pause, have a quarter to half a second each
BRIEF_TIMES: Final = 3  # in a row: a broker that is restarted twice is no reason for a word
RESET_S: Final = 0.5  # what is reset before that never was of use
RESET_TIMES: Final = 6  # in a row
SEARCH_S: Final = 2.0  # the longest pause while it is found out which message a broker does not take
LASTS: Final = 3  # pauses; the other's pause, which is how long a connection has, is at most one doubling ahead of ours


class Retry:
    """See the module. Belongs to one thread; times are `vedette.clock.now_ns`."""

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._step_s = BACKOFF_MIN_S
        self._paused_s = 0.0  # the step before the last attempt
        self._since_ns = 0
        self._brief = 0  # connections in a row that the broker closed soon
        self._reset = 0  # connections in a row that a network broke soon
        self.why = ""
        """What is said of connections that do not last; empty where they do."""

    def connected(self, now_ns: int) -> None:
        """The broker has taken a connection."""
        self._since_ns = now_ns

    def lasts(self, now_ns: int) -> bool:
        """The connection is up still. True once: when connections did not last, and this one does."""
        if not self.why or now_ns - self._since_ns < self._enough_ns():
            return False
        self.why = ""
        self._brief = 0
        return True

    def failed(self) -> None:
        """Nobody was there, or said no. A broker that was away is none that closes what it has just taken."""
        if not self.why:
            self._brief = 0

    def broke(
        self, now_ns: int, *, closed: bool, taken_over: bool, in_vain: bool = False, searching: bool = False
    ) -> None:
        """A connection is over.

        ``closed``: in good order, by the broker; one that a network resets is no sign of another client. ``taken_over``:
        the broker says that another client has connected with this id (MQTT 5, reason 0x8E). ``in_vain``: it was of no use,
        for the broker takes no messages now, and the pause goes on doubling. ``searching``: see `vedette.mqtt.suspect`.
        """
        if in_vain:
            return
        if searching:
            self._step_s = min(self._step_s, SEARCH_S)
        up_ns = now_ns - self._since_ns
        self._reset = self._reset + 1 if up_ns < RESET_S * 1e9 and not (closed or taken_over) else 0
        if not self.why and self._reset < RESET_TIMES:
            self._step_s = BACKOFF_MIN_S
        if taken_over:
            self._brief = BRIEF_TIMES
        elif closed:
            self._brief = self._brief + 1 if up_ns < self._enough_ns() else 0
        if self._brief < BRIEF_TIMES:
            self.why = ""
        elif taken_over:
            self.why = (
                f"another client called {self._client_id} has taken this one's place at the broker (Session taken over): "
                "give each device a name of its own"
            )
        elif not self.why:
            self.why = (
                f"the broker closes the connection soon after each connect: is another client called {self._client_id} "
                "connected, or must this one not publish below its topic?"
            )

    def pause_s(self) -> float:
        """How long to wait before the next attempt; each is twice as long.

        Half to whole of it, so that a site's devices do not all come back in one moment.
        """
        self._paused_s = self._step_s
        self._step_s = min(2 * self._step_s, BACKOFF_MAX_S)
        return self._paused_s * random.uniform(0.5, 1.0)

    def _enough_ns(self) -> int:
        """How long a connection must be up to have lasted."""
        return int(max(BRIEF_S, LASTS * self._paused_s if self.why else 0.0) * 1e9)
