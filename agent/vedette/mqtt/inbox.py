"""What others send to this agent: bounded in size and rate before anybody looks at it, and counted.

A token bucket a subscription (RFC 2697's committed rate and burst): what goes beyond the rate is dropped, counted, and
told once a flood. A broker puts acknowledgements behind a flood in one and the same stream of bytes, so that dropping
alone would still starve delivery: a flood that goes on ends the subscription for a while.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from paho.mqtt.client import topic_matches_sub

from vedette import clock

log = logging.getLogger(__name__)

MAX_MESSAGE: Final = 16 * 1024  # bytes of one payload; a command has a hundred
RATE_PER_S: Final = 10.0  # messages a second of one subscription, in the long run
BURST: Final = 40  # messages at once; whoever has sixteen switches may turn all of them
PATIENCE: Final = 200  # messages dropped of one flood, after which the agent stops listening
PAUSE_S: Final = 30.0  # for how long


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message as the broker sent it. ``retained``: it was kept by the broker, nobody knows for how long."""

    topic: str
    payload: bytes
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """A filter, and who hears what matches it, on the link's thread: it must not wait."""

    topic_filter: str
    receive: Callable[[Incoming], None]


class _Bucket:
    """Tokens of one subscription. ``dropped``: messages of the flood that is on."""

    def __init__(self, now_ns: int) -> None:
        self._tokens = float(BURST)
        self._filled_ns = now_ns
        self.dropped = 0
        self.paused_until_ns = 0  # 0: it listens

    def take(self, now_ns: int) -> bool:
        """Whether there was one left."""
        self._tokens = min(BURST, self._tokens + (now_ns - self._filled_ns) / 1e9 * RATE_PER_S)
        self._filled_ns = now_ns
        if self._tokens >= BURST - 1:
            self.dropped = 0  # it has been quiet for long enough: the next flood is another one
        if self._tokens < 1:
            self.dropped += 1
            return False
        self._tokens -= 1
        return True


class Inbox:
    """See the module. `counts` may be called by any thread, all else belongs to the link's."""

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        alert: Callable[[str], None],
        now_ns: Callable[[], int] = clock.now_ns,
    ) -> None:
        self.filters = tuple(subscription.topic_filter for subscription in subscriptions)
        self._subscriptions = tuple((subscription, _Bucket(now_ns())) for subscription in subscriptions)
        self._alert = alert
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def take(self, message: Incoming) -> None:
        """Hands it to the first subscription that it matches, or counts why not."""
        for subscription, bucket in self._subscriptions:
            if topic_matches_sub(subscription.topic_filter, message.topic):
                outcome = self._pass_on(message, subscription, bucket)
                break
        else:
            outcome = "unasked"  # a broker should not; nothing is wrong with the next one
        with self._lock:
            self._counts[outcome] += 1

    def _pass_on(self, message: Incoming, subscription: Subscription, bucket: _Bucket) -> str:
        if not bucket.take(self._now_ns()):
            if bucket.dropped == 1:
                self._alert(
                    f"a flood on {subscription.topic_filter}: what is over {RATE_PER_S:g} messages a second is dropped"
                )
            return "flood"
        if len(message.payload) > MAX_MESSAGE:
            self._alert(
                f"{message.topic[:200]!r}: {len(message.payload)} bytes, at most {MAX_MESSAGE} are read; dropped"
            )
            return "too_large"
        try:
            subscription.receive(message)
        except Exception as error:
            # a fault of ours must not end the link, which delivers everything else
            log.exception("a message on %r", message.topic)
            self._alert(f"a fault of ours on {message.topic[:200]!r}: {error!r}")
            return "fault"
        return "passed"

    def changes(self) -> list[tuple[str, bool]]:
        """Filters to unsubscribe from now (False), and those to subscribe to again (True)."""
        now = self._now_ns()
        changed = []
        for subscription, bucket in self._subscriptions:
            if bucket.paused_until_ns and now >= bucket.paused_until_ns:
                bucket.paused_until_ns = 0
                bucket.dropped = 0
                changed.append((subscription.topic_filter, True))
            elif not bucket.paused_until_ns and bucket.dropped >= PATIENCE:
                bucket.paused_until_ns = now + int(PAUSE_S * 1e9)
                self._alert(f"the flood on {subscription.topic_filter} goes on: not listening to it for {PAUSE_S:g} s")
                changed.append((subscription.topic_filter, False))
        return changed

    def begin(self) -> tuple[str, ...]:
        """A connection has come up: what to subscribe to."""
        for _, bucket in self._subscriptions:
            bucket.paused_until_ns = 0
            bucket.dropped = 0
        return self.filters

    def counts(self) -> dict[str, int]:
        """Messages since the start by what became of them: passed, flood, too_large, unasked, fault."""
        with self._lock:
            return dict(self._counts)
