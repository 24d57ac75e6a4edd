"""What a source is, and the thread that reads it.

A source is read by a thread of its own, the grabber, into a slot that holds the newest frame. A live source goes on
whether or not anybody takes its frames: the older one is replaced and counted as stale. A source read flat out waits
until its frame was taken, so that nothing is lost and the pipeline sets the pace.

Several may take frames of one source, each from a `Tap` of its own: a camera is opened and decoded once for all of them.

Whoever takes frames may say from when on the next one is wanted (`Tap.not_before`). Those before are let go as they
came: of a camera of 30 frames a second whose pipeline looks at 5, few more than 5 are made pictures, where letting one
pass costs less (YUV that is not made BGR, JPEG that is not decoded).
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np

from vedette import clock
from vedette.contract.errors import SourceLostError
from vedette.contract.jpeg import fingerprint
from vedette.contract.planes import PlanesToBgr
from vedette.contract.types import Frame, Jpeg, Picture, Planes, UInt8Array

from .buffers import Buffers
from .slot import Slot
from .supervise import Outcome, SourceThread

LOOK_NS: Final = 1_000_000_000  # a picture is made so often at least: a frozen camera must be noticed
ARRIVALS: Final = 32  # by whose times it is foretold when the next frames come
_MOST: Final = ARRIVALS * 9 // 10  # of them did not take longer than the wait at this place
UNDECODABLE: Final = "undecodable"  # why what a file holds is no frame
STOPPED: Final = "stopped"  # why what came as it was stopped was given to nobody
FROZEN: Final = "frozen"  # why the picture is not given by which a source was found to stand still
_STALE: Final = "stale"  # why a frame is let go that another will have replaced before anybody takes it
_FROZEN_STRIDE: Final = 16  # every 16th pixel of every 16th row is looked at to tell a frozen picture


class Source(Protocol):
    """Gives frames. Life cycle: `open`, `read` until it ends, `close`; then perhaps `open` again.

    All calls come from one thread, the grabber's; so no locking is needed.
    """

    @property
    def live(self) -> bool:
        """Whether time goes on without the reader: the newest frame wins. False: every frame waits to be taken."""
        ...

    @property
    def endless(self) -> bool:
        """Whether an end is a loss (a camera) rather than an end (a file)."""
        ...

    def open(self) -> None:
        """Raises `SourceError` when it can never be opened, `SourceLostError` when it may be later."""
        ...

    def read(self, into: UInt8Array | None) -> Reading | None:
        """The next frame; BGR into the given buffer where it fits. None at the end. Raises `SourceLostError`."""
        ...

    def close(self) -> None:
        """Gives everything back. Calling it again does nothing."""
        ...


@runtime_checkable
class Passing(Protocol):
    """A `Source` whose frame comes first and is made a picture of then: it can be let go by for less than reading it costs.

    `Source.read` is both.
    """

    def pass_over(self) -> bool:
        """Waits for the next frame and makes no picture of it; False at the end. Raises as `Source.read` does."""
        ...

    def picture(self, into: UInt8Array | None) -> Reading | None:
        """The picture of the frame that `pass_over` came to, after all; as of `Source.read`."""
        ...


@runtime_checkable
class Flawed(Protocol):
    """A `Source` that goes on behind what it cannot decode."""

    @property
    def undecodable(self) -> int:
        """How many frames or pictures could not be decoded, since it was made. Any thread may ask."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """One frame as read, and how long reading it took, and decoding what is decoded, nanoseconds. Planes and JPEG stay as
    they are while anybody holds them. ``media_ns``: of a file that is read flat out, its time since the first frame."""

    pixels: Picture
    capture_ns: int
    media_ns: int | None = None


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What the grabber says of its source. ``frames``: come since the start, those that could not be decoded, too;
    ``stale``: replaced before taken."""

    frames: int
    stale: int
    reopened: int
    outcome: Outcome | None
    why: str


class _Tempo:
    """When frames came, CLOCK_BOOTTIME nanoseconds."""

    def __init__(self) -> None:
        self.last_ns = 0
        self._waits_ns: deque[int] = deque(maxlen=ARRIVALS)
        self.likely_ns: int | None = None
        """When the next frame is there in all likelihood: nine of ten waits of late were no longer. None as yet."""
        self.expected_ns: int | None = None
        """When it comes most probably, by the median."""

    def came(self, now_ns: int) -> None:
        """A frame."""
        if self.last_ns:
            self._waits_ns.append(now_ns - self.last_ns)
        self.last_ns = now_ns
        if len(self._waits_ns) == ARRIVALS:
            waits_ns = sorted(self._waits_ns)
            self.likely_ns = now_ns + waits_ns[_MOST]
            self.expected_ns = now_ns + waits_ns[ARRIVALS // 2]


class Tap:
    """What one of those who take a grabber's frames is given: the newest, and an account of the others.

    Any thread may call anything but what begins with ``grabbed``, which the grabber's does.
    """

    def __init__(self, grabber: Grabber, on_change: Callable[[Outcome | None, str], None]) -> None:
        """See `Grabber.tap`."""
        self.slot = Slot()
        self._grabber = grabber
        self.on_change = on_change
        self._busy_until_ns = 0
        self._not_before: dict[str, int] = {}
        self._passed: dict[str, int] = {}
        self._frames = 0
        self._undecodable_before = 0
        self._undecodable_until: int | None = None

    @property
    def live(self) -> bool:
        """Whether the newest frame wins."""
        return self._grabber.live

    def start(self) -> None:
        """Frames come from now on. Raises as `SourceThread.start` does where nobody else has started it."""
        self._undecodable_before = self._grabber.undecodable
        self._grabber.begin(self)

    def stop(self, timeout_s: float = 5.0) -> None:
        """None come any more; whoever is the last ends the grabber. Calling it again waits again."""
        self._grabber.leave(self, timeout_s)

    def not_before(self, reason: str, at_ns: int) -> None:
        """For this reason no frame is wanted that comes before then, CLOCK_BOOTTIME nanoseconds: it may be let go, and is
        counted."""
        self._not_before[reason] = at_ns

    def busy_until(self, at_ns: int) -> None:
        """Nobody takes a frame before then, CLOCK_BOOTTIME: one that another will have replaced until then may be let go,
        and is counted as stale."""
        self._busy_until_ns = at_ns

    def await_newer(self, patience_ns: int) -> None:
        """Where a frame waits to be taken and a newer one is expected within so long, and within the time that it has waited
        itself, waits for that, and no longer. One that is overdue by more than that is not expected any more."""
        now = clock.now_ns()
        expected_ns = self._grabber.expected_ns
        if expected_ns is not None and abs(expected_ns - now) <= patience_ns:
            self.slot.await_newer(expected_ns, now + patience_ns)

    def passed(self, reason: str) -> int:
        """How many were let go for it, since the start."""
        if reason == UNDECODABLE:
            until = self._undecodable_until
            return (self._grabber.undecodable if until is None else until) - self._undecodable_before
        return self._passed.get(reason, 0)

    def status(self) -> SourceStatus:
        """How the source is, and what came of its frames here."""
        reopened, outcome, why = self._grabber.standing()
        return SourceStatus(self._frames + self.passed(UNDECODABLE), self.slot.stale, reopened, outcome, why)

    def left(self) -> None:
        """What comes from now on is the others'."""
        self._undecodable_until = self._grabber.undecodable

    def unwanted(self, came_ns: int, making_ns: int, next_ns: int | None) -> str:
        """Why a frame that has come can be let go; empty where a picture of it is to be made, which takes ``making_ns``.
        ``next_ns``: when the next one will have come in all likelihood."""
        if self._not_before:
            reason, until_ns = max(tuple(self._not_before.items()), key=lambda item: item[1])
            if came_ns + making_ns < until_ns:
                return reason
        return _STALE if next_ns is not None and next_ns + making_ns < self._busy_until_ns else ""

    def grabbed(self, frame: Frame) -> None:
        """A frame for whoever takes it."""
        self._frames += 1
        if not self.slot.put(frame, wait=not self.live):
            self._pass(STOPPED)

    def grabbed_and_let_go(self, reason: str) -> None:
        """One that is not given."""
        self._frames += 1
        if reason == _STALE:
            self.slot.pass_over()
        else:
            self._pass(reason)

    def _pass(self, reason: str) -> None:
        self._passed[reason] = self._passed.get(reason, 0) + 1


class Grabber(SourceThread):
    """The thread that reads one source for all that have a `tap`, and opens it again with back-off when it is lost.

    ``stall_timeout_s``: no frame for so long is `Outcome.STALLED`. ``frozen_timeout_s``: one and the same picture for so
    long is `Outcome.FROZEN` and the source is opened anew; 0 for never. ``planes``: whoever takes the frames takes them as
    planes, too; else those are made BGR. JPEG is decoded by whoever takes it. Frames are shared: nobody writes to them.
    """

    def __init__(
        self, source: Source, *, name: str, stall_timeout_s: float, frozen_timeout_s: float, planes: bool = False
    ) -> None:
        super().__init__(
            source, name=f"grab-{name}", thing="frame", stall_timeout_s=stall_timeout_s, on_change=self._changed
        )
        self._source = source
        self._passing = source if source.live and isinstance(source, Passing) else None
        self._flawed = source if isinstance(source, Flawed) else None
        self._frozen_timeout_s = frozen_timeout_s
        self._frozen_fingerprint = -1
        self._to_bgr = None if planes else PlanesToBgr()
        self._making_ns = 0  # how long the last picture took to make, of a frame that had come
        self.expected_ns: int | None = None
        """When the next picture of a live source comes, most probably."""
        self._scene_ns = 0  # of the last frame
        self._coming = threading.Lock()  # and going
        self._taps: tuple[Tap, ...] = ()  # replaced as a whole, under it
        self._begun = False

    @property
    def live(self) -> bool:
        """Whether the newest frame wins."""
        return self._source.live

    @property
    def undecodable(self) -> int:
        """See `Flawed.undecodable`."""
        return self._flawed.undecodable if self._flawed is not None else 0

    def tap(self, on_change: Callable[[Outcome | None, str], None]) -> Tap:
        """For one more that takes frames, of a source that is `live`. ``on_change`` hears of each change of outcome, on the
        grabber's thread."""
        return Tap(self, on_change)

    def begin(self, tap: Tap) -> None:
        """See `Tap.start`."""
        with self._coming:
            self._taps = (*self._taps, tap)
            begins, self._begun = not self._begun, True
        if begins:
            self.start()

    def leave(self, tap: Tap, timeout_s: float) -> None:
        """See `Tap.stop`."""
        tap.slot.close()
        with self._coming:
            others = tuple(other for other in self._taps if other is not tap)
            if others and tap in self._taps:
                self._taps = others
                tap.left()
        if not others:  # what comes meanwhile is counted for the last one
            self.stop(timeout_s)

    def standing(self) -> tuple[int, Outcome | None, str]:
        """How often it was opened again, its outcome, and why. May be called by any thread."""
        _, reopened, outcome, why = self._standing()
        return reopened, outcome, why

    def _changed(self, outcome: Outcome | None, why: str) -> None:
        for tap in self._taps:
            tap.on_change(outcome, why)

    def _no_more(self) -> None:
        for tap in self._taps:
            tap.slot.close()

    def _read_to_end(self) -> tuple[Outcome, str]:
        buffers = Buffers()
        tempo = _Tempo()
        frozen_since_ns = looked_ns = 0
        seen = -1  # the last picture's fingerprint
        media_began_ns = 0
        while not self._stop.is_set():
            unwanted: dict[Tap, str] = {}
            passed = False
            if self._passing is None:
                reading = self._bgr(self._source.read(buffers.free()), buffers)
                came_ns = now = clock.now_ns()
            else:
                reading = None
                if self._passing.pass_over():
                    came_ns = clock.now_ns()
                    unwanted = self._unwanted(tempo, came_ns, looked_ns)
                    passed = self._nobody_wants(unwanted)
                    reading = None if passed else self._bgr(self._passing.picture(buffers.free()), buffers)
                    now = clock.now_ns()
            if reading is None and not passed:
                if self._source.endless:
                    raise SourceLostError("the stream ended")
                undecodable = self.undecodable
                return Outcome.END, "read to its end" + (f"; {undecodable} could not be decoded" if undecodable else "")
            seq = self._arrived(1, now)
            if self._source.live:
                tempo.came(came_ns)
                self.expected_ns = None if tempo.expected_ns is None else tempo.expected_ns + self._making_ns
            if reading is None:
                for tap, reason in unwanted.items():
                    tap.grabbed_and_let_go(reason)
                continue
            looked_ns = now
            self._making_ns = now - came_ns
            if self._frozen_timeout_s:
                before, seen = seen, _fingerprint(reading.pixels)
                if seen != before:
                    frozen_since_ns = now
                elif now - frozen_since_ns > self._frozen_timeout_s * 1e9:
                    self._frozen_fingerprint = seen
                    for tap in self._taps:
                        tap.grabbed_and_let_go(FROZEN)
                    return Outcome.FROZEN, f"the same picture for {self._frozen_timeout_s:g} s"
            # opened anew and still the same picture: nothing is back
            still_frozen = self._outcome is Outcome.FROZEN and seen == self._frozen_fingerprint
            if (self._outcome is not None or seq == 1) and not still_frozen:
                self._set(None, "")
            if isinstance(reading.pixels, np.ndarray):  # the source has memory of its own for others
                buffers.keep(reading.pixels)
            self._scene_ns, before_ns = now, self._scene_ns
            if reading.media_ns is not None:
                # a file that is opened again goes on from where the scene was
                media_began_ns = media_began_ns or max(now, before_ns) - reading.media_ns
                self._scene_ns = media_began_ns + reading.media_ns
            frame = Frame(seq, now, reading.capture_ns, reading.pixels, self._scene_ns - now)
            del reading
            for tap in self._taps:
                if reason := unwanted.get(tap, ""):
                    tap.grabbed_and_let_go(reason)
                else:
                    tap.grabbed(frame)
            del frame
        return Outcome.END, "stopped"

    def _bgr(self, reading: Reading | None, buffers: Buffers) -> Reading | None:
        """As whoever takes the frames takes them."""
        if self._to_bgr is None or reading is None or not isinstance(reading.pixels, Planes):
            return reading
        begun = time.perf_counter_ns()
        pixels = self._to_bgr(reading.pixels, buffers.free())
        return Reading(pixels, reading.capture_ns + time.perf_counter_ns() - begun, reading.media_ns)

    def _unwanted(self, tempo: _Tempo, came_ns: int, looked_ns: int) -> dict[Tap, str]:
        """Who can do without a frame that has come, and why; nobody where it is time to look at one. ``looked_ns``: when the
        last one was."""
        if self._outcome is not None or came_ns >= looked_ns + LOOK_NS:
            return {}
        likely_ns = tempo.likely_ns  # as of the frame before this one
        next_ns = None if likely_ns is None else came_ns + likely_ns - tempo.last_ns
        return {tap: why for tap in self._taps if (why := tap.unwanted(came_ns, self._making_ns, next_ns))}

    def _nobody_wants(self, unwanted: dict[Tap, str]) -> bool:
        return bool(unwanted) and all(tap in unwanted for tap in self._taps)


def _fingerprint(pixels: Picture) -> int:
    """Of a picture: that of another one, which does not stand still, is another."""
    if isinstance(pixels, Jpeg):
        return fingerprint(pixels)
    seen = pixels.luma if isinstance(pixels, Planes) else pixels
    return zlib.crc32(seen[::_FROZEN_STRIDE, ::_FROZEN_STRIDE].tobytes())
