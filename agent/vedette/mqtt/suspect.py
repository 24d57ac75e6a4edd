"""The message at which a broker ends the connection: it would be sent first on the next one, and nothing behind it ever.

Brokers do so with what is too large for them where the protocol cannot say it (MQTT 3.1.1), or crash at it. One connection
that ends while a message is unacknowledged says nothing of the message, and neither do two. From then on it is sent alone,
once all else on its connection has been acknowledged. Where that goes wrong `ALONE_TIMES` in a row, another message is sent
in its place, each time a later one, until one is acknowledged: the broker takes messages. If it then ends the connection at
this one again, it is the message. So is one that is refused `REFUSED_TIMES` while others are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vedette.delivery import Key

IN_A_ROW: Final = 2  # connections that ended with the same oldest message unacknowledged
ALONE_TIMES: Final = 3  # and then with it alone: a network would have to break that often just then
REFUSED_TIMES: Final = 5
REACH: Final = 64  # messages behind it, of which one is tried after the other


class Suspect:
    """See the module. Belongs to whoever holds the link's wire."""

    def __init__(self) -> None:
        self._key: Key | None = None
        self._times = 0
        self._alone = 0
        self._heard = False  # an acknowledgement of anything, on this connection
        self._proved = False  # that the broker takes others
        self.skip = 0
        """How many messages are passed over for the one that is to be sent, where that is careful."""
        self._refused: Key | None = None
        self._refusals = 0
        self._takes_others = False  # since the first of these

    @property
    def careful(self) -> bool:
        """Whether messages are to be sent one by one, and nothing else with them."""
        return self._times >= IN_A_ROW

    @property
    def searching(self) -> bool:
        """Whether it is of use to connect again soon: the broker takes something."""
        return self.careful and self._heard

    def connected(self) -> None:
        """A connection has come up."""
        self._heard = False

    def heard(self) -> None:
        """The broker has acknowledged something that is not the outbox's."""
        self._heard = True

    def settled(self, key: Key) -> None:
        """The broker has acknowledged a message of the outbox, or rejected it for good."""
        self._heard = True
        self._takes_others = key != self._refused
        if self.skip and key != self._key:
            self.skip = 0
            self._proved = True
        else:
            self._clear(None)

    def refused(self, key: Key) -> bool:
        """The broker refuses a message for now. Whether that is enough to give it up."""
        if key != self._refused:
            self._refused, self._refusals, self._takes_others = key, 0, False
        self._refusals += 1
        return self._refusals >= REFUSED_TIMES and self._takes_others

    def ended(self, unacknowledged: Sequence[Key], *, others: bool) -> Key | None:
        """The other side has ended the connection. ``unacknowledged``: of the outbox, in the order in which they were sent;
        ``others``: whether anything else was, too. The message that is to be given up, if it is one."""
        if not unacknowledged:
            return None
        first = unacknowledged[0]
        if self.skip and first != self._key:
            self.skip = self.skip % REACH + 1
            return None
        if first != self._key:
            self._clear(first)
        self._times += 1
        if self._heard and len(unacknowledged) == 1 and not others:
            if self._proved:
                self._clear(None)
                return first
            self._alone += 1
        if self._alone >= ALONE_TIMES:
            self.skip = self.skip % REACH + 1
        return None

    def _clear(self, key: Key | None) -> None:
        self._key = key
        self._times = self._alone = self.skip = 0
        self._proved = False
