"""What a pipeline is fed with: the newest frame of a camera, or the windows of a sensor."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from vedette import clock
from vedette.contract.errors import ReadingsError
from vedette.contract.manifest import SeriesInput
from vedette.contract.types import Frame, Readings, Window
from vedette.contract.window import Cadence, WindowBuilder, WindowCounts
from vedette.sources import STOPPED, Listener, ListenerStatus, Outcome, SensorSource, SourceStatus, Tap

from .selection import RateCap

WINDOWS: Final = (
    64  # that may wait for a pipeline that is behind; of a live sensor the oldest goes then, and is counted
)


SLOWED: Final = "slowed"  # the reason of a cap that the governor sets


class Feed(Protocol):
    """Where a pipeline takes its samples from. Any thread may call anything."""

    @property
    def live(self) -> bool:
        """Whether time goes on without the pipeline: the newest sample wins. False: every sample waits to be taken."""
        ...

    @property
    def closed(self) -> bool:
        """Whether no more samples will come, and none is there to be taken."""
        ...

    def start(self) -> None:
        """Begins. Raises `SourceError` for what cannot be opened at all."""
        ...

    def take(self, timeout_s: float, patience_ns: int = 0) -> Frame | Window | None:
        """The next sample, waiting for it; None when none came in time, or the feed is closed and empty.

        ``patience_ns``: where the newest wins, and a newer one than the one that is there is expected within so long, that
        is waited for if it gains more freshness than it costs time.
        """
        ...

    def busy_until(self, at_ns: int) -> None:
        """Nobody will `take` before then, CLOCK_BOOTTIME nanoseconds: where the newest wins, a sample that another will have
        replaced until then may be let go before it is made ready, and counts as stale."""
        ...

    def not_before(self, reason: str, at_ns: int) -> None:
        """For this reason no sample is wanted that comes before then, CLOCK_BOOTTIME nanoseconds: it may be let go before it
        is made ready, and is then counted by `passed`."""
        ...

    def passed(self, reason: str) -> int:
        """How many samples were let go for it, since the start: a reason of `not_before`, `vedette.sources.STOPPED` or
        `vedette.sources.FROZEN`."""
        ...

    def status(self) -> SourceStatus:
        """How the source is. ``frames``: samples since the start; ``stale``: those nobody had time for."""
        ...

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends it; whoever waits in `take` is woken."""
        ...


def stop_all(feeds: Sequence[Feed], timeout_s: float) -> None:
    """Ends them all, and waits for so long together: many cameras may be silent at the same moment."""
    deadline_ns = clock.now_ns() + int(timeout_s * 1e9)
    for feed in feeds:
        feed.stop(0.0)
    for feed in feeds:
        feed.stop(max(0.0, (deadline_ns - clock.now_ns()) / 1e9))


class FrameFeed:
    """A camera's frames as a `Feed`. Frames above a cap that may change at any time are passed over, and counted."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._cap = RateCap(0.0)
        self.cap_fps: float | None = None
        """At most so many frames a second are given; None for all of them. See `vedette.flow.governor`."""
        self._held_back = 0  # counted by whoever takes

    @property
    def slowed(self) -> int:
        """Frames that the cap held back, since the start."""
        return self._held_back + self._tap.passed(SLOWED)

    @property
    def live(self) -> bool:
        """See `Feed.live`."""
        return self._tap.live

    @property
    def closed(self) -> bool:
        """See `Feed.closed`."""
        return self._tap.slot.closed and self._tap.slot.empty

    def start(self) -> None:
        """See `Feed.start`."""
        self._tap.start()

    def take(self, timeout_s: float, patience_ns: int = 0) -> Frame | None:
        """See `Feed.take`. None, too, for a frame that the cap holds back."""
        if patience_ns:
            self._tap.await_newer(patience_ns)
        frame = self._tap.slot.get(timeout_s)
        if frame is None:
            return None
        due = self._cap.due(clock.now_ns())
        self._tap.not_before(SLOWED, self._cap.due_ns)
        if due:
            return frame
        self._held_back += 1
        return None

    def busy_until(self, at_ns: int) -> None:
        """See `Feed.busy_until`."""
        self._tap.busy_until(at_ns)

    def limit(self, max_fps: float) -> None:
        """At most so many frames a second from now on, above 0; 0 for all of them."""
        if (max_fps or None) == self.cap_fps:
            return
        self._cap.change(max_fps)
        self.cap_fps = max_fps or None
        self._tap.not_before(SLOWED, 0)  # until it is known under this cap

    def not_before(self, reason: str, at_ns: int) -> None:
        """See `Feed.not_before`."""
        self._tap.not_before(reason, at_ns)

    def passed(self, reason: str) -> int:
        """See `Feed.passed`."""
        return self._tap.passed(reason)

    def status(self) -> SourceStatus:
        """See `Feed.status`."""
        return self._tap.status()

    def stop(self, timeout_s: float = 5.0) -> None:
        """See `Feed.stop`."""
        self._tap.stop(timeout_s)


class WindowFeed:
    """A sensor's listener and the windows that are cut from what it hears, as a `Feed`."""

    def __init__(
        self,
        source: SensorSource,
        spec: SeriesInput,
        *,
        name: str,
        stride: int | None,
        stall_timeout_s: float,
        on_change: Callable[[Outcome | None, str], None],
    ) -> None:
        """``stride``: samples between windows, instead of the model's own. ``on_change``: as of `Listener`."""
        self._live = source.live
        self._builder = WindowBuilder(spec, stride=stride)
        self._changed = threading.Condition()
        self._windows: deque[Window] = deque()
        self._closed = False
        self._stale = 0
        self._left = 0  # windows that came when it was stopped
        self._told: dict[str, int] = {}
        self._unfit = 0  # readings that are none of this model's, and why
        self._refusal = ""
        self._on_change = on_change
        self._listener = Listener(
            source, name=name, stall_timeout_s=stall_timeout_s, on_readings=self._heard, on_change=self._source_changed
        )

    @property
    def live(self) -> bool:
        """See `Feed.live`. Windows are taken in their order all the same, as long as `WINDOWS` are enough."""
        return self._live

    @property
    def closed(self) -> bool:
        """See `Feed.closed`."""
        return self._closed and not self._windows

    @property
    def counts(self) -> WindowCounts:
        """What became of the readings."""
        return self._builder.counts

    @property
    def cadence(self) -> Cadence | None:
        """How the readings come; None until two have."""
        return self._builder.cadence

    def news(self) -> list[tuple[str, str]]:
        """What went wrong since this was last asked: a key for its kind, and words for people. For one thread alone."""
        heard, counts = self._listener.status(), self._builder.counts
        ours = {
            "gap": counts.gaps, "late": counts.late, "clock set back": counts.clock_back, "lost": heard.lost,
            "unfit": self._unfit,
        }  # fmt: skip
        seen = {**heard.malformed, **ours}
        problems = {**heard.problems, "unfit": self._refusal}
        found = []
        doubt = self._builder.doubt
        for reason, count in seen.items():
            if count <= self._told.get(reason, 0):
                continue
            if reason == "gap" and doubt is not None:
                found.append(("step", f"{'; '.join(doubt)} ({count} gaps so far)"))
            else:
                example = problems.get(reason)
                found.append((reason, f"{reason}, {count} so far" + (f", first: {example}" if example else "")))
        self._told = seen
        return found

    @property
    def heard(self) -> ListenerStatus:
        """What the listener says of its source."""
        return self._listener.status()

    def start(self) -> None:
        """See `Feed.start`."""
        self._listener.start()

    def take(self, timeout_s: float, patience_ns: int = 0) -> Window | None:
        """See `Feed.take`. Windows are taken in their order: none is waited for while another is there."""
        with self._changed:
            if not self._windows and not self._closed:
                self._changed.wait(timeout_s)
            if not self._windows:
                return None
            window = self._windows.popleft()
            self._changed.notify_all()
            return window

    def busy_until(self, at_ns: int) -> None:
        """See `Feed.busy_until`. None is replaced by another."""

    def not_before(self, reason: str, at_ns: int) -> None:
        """See `Feed.not_before`. Windows are taken in their order: none is let go."""

    def passed(self, reason: str) -> int:
        """See `Feed.passed`."""
        return self._left if reason == STOPPED else 0

    def status(self) -> SourceStatus:
        """See `Feed.status`."""
        heard = self._listener.status()
        return SourceStatus(self.counts.windows, self._stale, heard.reopened, heard.outcome, heard.why)

    def stop(self, timeout_s: float = 5.0) -> None:
        """See `Feed.stop`."""
        self._close()
        self._listener.stop(timeout_s)

    def _heard(self, readings: Readings) -> None:
        """On the listener's thread. Of a file that is read flat out, waits until there is room."""
        try:
            windows = self._builder.push(readings)
        except ReadingsError as error:
            self._unfit += len(readings)
            self._refusal = str(error)
            return
        for number, window in enumerate(windows):
            with self._changed:
                if not self._live:
                    self._changed.wait_for(lambda: len(self._windows) < WINDOWS or self._closed)
                elif len(self._windows) == WINDOWS:
                    self._windows.popleft()
                    self._stale += 1
                if self._closed:
                    self._left += len(windows) - number
                    return
                self._windows.append(window)
                self._changed.notify_all()

    def _source_changed(self, outcome: Outcome | None, why: str) -> None:
        if outcome is Outcome.END:
            self._close()
        elif outcome is not None:
            self._builder.reset()  # what comes next is no continuation
        self._on_change(outcome, why)

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
