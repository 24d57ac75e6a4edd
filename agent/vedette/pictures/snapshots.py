"""Pictures of what happened, and of what the network is not sure of: to a folder, to the broker, or both.

Nothing leaves the device unless the configuration says so. The pipeline's thread decides, and copies the pixels only of a
frame that is really taken; blurring, drawing, encoding and writing are a thread's of its own, behind a queue of `QUEUE`
frames. What finds it full is dropped and counted.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from typing import Annotated, Final

import cv2
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from vedette.clock import rfc3339
from vedette.contract.bgr import own_bgr
from vedette.contract.errors import StateError, UndecodableError
from vedette.contract.types import Classes, Detections, Float32Array, Frame, Jpeg, Poses, Result, Segments, UInt8Array
from vedette.flow.selection import LabelFilter
from vedette.follow.events import Event, EventKind
from vedette.follow.following import Followed
from vedette.follow.zones import Label, Point, check_polygon

from .album import Album
from .blur import blur_boxes, blur_polygons
from .drawing import draw

log = logging.getLogger(__name__)

QUEUE: Final = 4  # frames that wait to be encoded; each is a copy of its own
MAX_MESSAGE: Final = 128 * 1024  # bytes of a picture that goes to the broker; AWS IoT's limit
QUALITIES: Final = (85, 70, 55, 40)  # of JPEG, tried in turn before a picture is made smaller
SHRINK: Final = 0.75
MIN_SIDE: Final = 32  # pixels; a picture that is too large even so is not sent
MIN_CROP: Final = 96  # pixels a side of a crop, where the frame has so many

Seconds = Annotated[float, Meta(ge=0.0, le=86400.0)]


class SnapshotOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.snapshots]"""

    folder: Annotated[str, Meta(pattern=r"^[^\x00]*$", max_length=4096)] = ""
    """Where pictures are kept, in a folder of the pipeline's name within it; empty for nowhere, with `mqtt`."""
    max_files: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """At most so many, the oldest go first ..."""
    max_bytes: Annotated[int, Meta(ge=65_536, le=1 << 40)] = 268_435_456
    """... and so many bytes."""
    mqtt: bool = False
    """Publish them on PIPELINE/snapshot, in at most 128 KB each."""
    events: Annotated[tuple[EventKind, ...], Meta(max_length=16)] = ("track_began", "zone_entered", "wire_crossed")
    """A picture of each of these."""
    events_every_s: Seconds = 1.0
    """Least time between two of them, seconds."""
    uncertain: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.0
    """A picture where a score is so near to its threshold, of a classifier where its best two are; 0 for none."""
    uncertain_every_s: Seconds = 60.0
    """Least time between two of them, seconds."""
    command: bool = True
    """A picture when the command asks for it."""
    crop: bool = False
    """The object with some of its surroundings, in place of the whole frame."""
    margin: Annotated[float, Meta(ge=0.0, le=4.0)] = 0.25
    """How much around it, in sizes of its box."""
    draw: bool = True
    """Draw boxes and labels; never on what is uncertain, for that is to be labelled."""
    quality: Annotated[int, Meta(ge=10, le=100)] = 85
    """JPEG quality of what is kept."""
    max_side: Annotated[int, Meta(ge=64, le=16384)] = 1280
    """Pixels; what is larger is made smaller."""
    blur_labels: Annotated[tuple[Label, ...], Meta(max_length=1000)] = ()
    """Objects with these labels are made unrecognisable ..."""
    blur_zones: Annotated[tuple[Annotated[tuple[Point, ...], Meta(max_length=256)], ...], Meta(max_length=64)] = ()
    """... and so is what lies in these polygons."""

    def __post_init__(self) -> None:
        if not self.folder and not self.mqtt:
            raise ValueError("folder: expected one, or mqtt = true, for a picture must go somewhere")
        if self.folder.startswith("~"):
            raise ValueError(f"folder: expected the whole path, for ~ is a shell's word, found {self.folder!r}")
        for polygon in self.blur_zones:
            check_polygon("blur_zones", polygon)


@dataclass(frozen=True, slots=True)
class _Shot:
    """A frame that is taken. ``why``: of its name. ``focus``: the box that it is about, fractions. ``private``: (n, 4) boxes
    to blur. ``drawn``: None for nothing."""

    pixels: UInt8Array | Jpeg
    seq: int
    unix_ns: int
    why: str
    focus: tuple[float, float, float, float] | None
    private: Float32Array
    drawn: Detections | Poses | Segments | None
    labels: Sequence[str]


class Snapshots:
    """See the module. `seen` is called by the pipeline's last thread, all else by any."""

    def __init__(
        self,
        options: SnapshotOptions,
        pipeline: str,
        labels: Sequence[str],
        thresholds: Callable[[], Float32Array],
        publish: Callable[[bytes], bool],
        alert: Callable[[str], None],
        *,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``thresholds``: (labels,) as they are now, above 1 for never. ``publish``: one JPEG; False where it cannot be
        sent now. ``alert``: hears of a folder that cannot be written to, once until it can again."""
        self._options = options
        self._thresholds = thresholds
        self._publish = publish
        self._alert = alert
        self._unix_ns = unix_ns
        self.relabel(labels)
        self._album = (
            Album(Path(options.folder) / pipeline, max_files=options.max_files, max_bytes=options.max_bytes)
            if options.folder
            else None
        )
        self._event_due_ns = 0
        self._uncertain_due_ns = 0
        self._asked = threading.Event()
        self._full = False
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._queue: Queue[_Shot | None] = Queue(QUEUE)
        self._thread = threading.Thread(target=self._run, name=f"snapshots-{pipeline}", daemon=True)

    def relabel(self, labels: Sequence[str]) -> None:
        """Another model comes, with these. No frame may be on its way to `seen`."""
        self._labels = labels
        self._private = np.array([label in self._options.blur_labels for label in labels], bool)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Lets it finish what waits. What is not finished in time is counted."""
        if self._thread.ident is None:
            return
        deadline = time.monotonic() + timeout_s
        told = 1
        try:
            self._queue.put(None, timeout=timeout_s)
        except Full:
            told = 0
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if left := self._queue.unfinished_tasks - told:
            self._count("unfinished", left)

    def ask(self) -> None:
        """The next frame, please."""
        self._asked.set()

    def counts(self) -> dict[str, int]:
        """Since the start: pictures kept, published, removed to make room; and those that were not, by reason: queue (it
        was full), disk, unsent (no connection), too_large, undecodable, fault, unfinished (at the end)."""
        with self._lock:
            counts = dict(self._counts)
        if self._album is not None and self._album.removed:
            counts["removed"] = self._album.removed
        return counts

    def seen(self, frame: Frame, result: Result, followed: Followed) -> None:
        """Takes the frame or not. ``result``: everything that was found, what is not reported included."""
        if self._asked.is_set():
            self._asked.clear()
            self._take(frame, result, "asked", None)
            return
        event = next((e for e in followed.events if e.kind in self._options.events), None)
        if event is not None and frame.captured_ns >= self._event_due_ns:
            self._event_due_ns = frame.captured_ns + int(self._options.events_every_s * 1e9)
            of = None if followed.ids is None or event.track is None else followed.ids == event.track
            self._take(frame, result, _why(event), event.box, of=of)
        elif self._options.uncertain and frame.captured_ns >= self._uncertain_due_ns:
            doubt = self._doubt(result)
            if doubt is not None:
                self._uncertain_due_ns = frame.captured_ns + int(self._options.uncertain_every_s * 1e9)
                self._take(frame, result, *doubt, plain=True)

    def _doubt(self, result: Result) -> tuple[str, tuple[float, float, float, float] | None] | None:
        """Why, and where, the network is not sure; None where it is."""
        if isinstance(result, Detections) and len(result):
            distance = np.abs(result.scores - self._thresholds()[result.class_ids])
            nearest = int(distance.argmin())
            if distance[nearest] <= self._options.uncertain:
                label, score = self._labels[result.class_ids[nearest]], result.scores[nearest]
                return f"uncertain-{label}-{score:.2f}", _box(result.boxes[nearest])
        if isinstance(result, Classes) and len(result) > 1:
            first, second = result.scores[:2]
            if first - second <= self._options.uncertain:
                names = "-".join(self._labels[class_id] for class_id in result.class_ids[:2])
                return f"uncertain-{names}-{first:.2f}", None
        return None

    def _take(
        self,
        frame: Frame,
        result: Result,
        why: str,
        focus: tuple[float, float, float, float] | None,
        *,
        of: NDArray[np.bool_] | None = None,
        plain: bool = False,
    ) -> None:
        """``of``: (n,) which detection the event is about, to be drawn even where its score is too poor to be reported."""
        if self._queue.full():
            self._count("queue")  # before anything is copied
            return
        private = np.empty((0, 4), np.float32)
        if isinstance(result, Detections):
            private = result.boxes[self._private[result.class_ids]]
        reported = LabelFilter(self._thresholds())
        shown, _ = reported.select(result)
        if isinstance(result, Detections) and of is not None and of.any():
            shown = result.take(np.union1d(reported.index(result), of.nonzero()[0]).astype(np.intp))
        drawn = shown if isinstance(shown, Detections | Poses | Segments) and self._options.draw and not plain else None
        # the pipeline's buffer is used again as soon as this returns; a JPEG is nobody's, and decoded where there is time
        pixels = frame.pixels if isinstance(frame.pixels, Jpeg) else own_bgr(frame.pixels)
        shot = _Shot(pixels, frame.seq, self._unix_ns(), why, focus, private.copy(), drawn, self._labels)
        try:
            self._queue.put_nowait(shot)
        except Full:
            self._count("queue")  # it has just been told to stop

    def _run(self) -> None:
        while (shot := self._queue.get()) is not None:
            try:
                self._develop(shot)
            except UndecodableError as error:
                self._count("undecodable")
                log.warning("snapshot of frame %d: %s", shot.seq, error)
            except Exception as error:
                # a picture that may not be blurred is not shown to anybody
                self._count("fault")
                log.exception("snapshot of frame %d: %r", shot.seq, error)
            self._queue.task_done()

    def _develop(self, shot: _Shot) -> None:
        pixels = self._print(shot)
        if self._album is not None:
            self._keep(self._album, shot, encode(pixels, self._options.quality))
        if self._options.mqtt:
            data = encode_within(pixels, MAX_MESSAGE)
            self._count("too_large" if data is None else "published" if self._publish(data) else "unsent")

    def _keep(self, album: Album, shot: _Shot, data: bytes) -> None:
        moment = re.sub(r"[-:]", "", rfc3339(shot.unix_ns))
        why = re.sub(r"[^A-Za-z0-9.]+", "-", shot.why)[:80]
        try:
            album.add(f"{moment}-{shot.seq}-{why}", data)
        except StateError as error:
            self._count("disk")
            if not self._full:
                self._full = True
                self._alert(error.line())
        else:
            self._full = False
            self._count("kept")

    def _print(self, shot: _Shot) -> UInt8Array:
        """The picture as others may see it: blurred first, then drawn upon, then cropped."""
        pixels = own_bgr(shot.pixels) if isinstance(shot.pixels, Jpeg) else shot.pixels
        blur_boxes(pixels, shot.private)
        blur_polygons(pixels, self._options.blur_zones)
        if shot.drawn is not None:
            pixels = draw(pixels, shot.drawn, shot.labels)
        if self._options.crop and shot.focus is not None:
            pixels = crop(pixels, shot.focus, self._options.margin)
        longest = max(pixels.shape[:2])
        return _scaled(pixels, self._options.max_side / longest) if longest > self._options.max_side else pixels

    def _count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self._counts[what] += number


def crop(pixels: UInt8Array, box: tuple[float, float, float, float], margin: float) -> UInt8Array:
    """What the box holds and ``margin`` sizes of it around, at least `MIN_CROP` pixels a side; a view. ``box``: x_min,
    y_min, x_max, y_max as fractions."""
    height, width = pixels.shape[:2]
    left, right = _around(box[0] * width, box[2] * width, margin, width)
    top, bottom = _around(box[1] * height, box[3] * height, margin, height)
    return pixels[top:bottom, left:right]


def _around(low: float, high: float, margin: float, size: int) -> tuple[int, int]:
    """At least `MIN_CROP` of the ``size`` pixels, and within them."""
    side = min(size, max(MIN_CROP, round((high - low) * (1 + 2 * margin))))
    start = min(max(0, round((low + high - side) / 2)), size - side)
    return start, start + side


def encode(pixels: UInt8Array, quality: int) -> bytes:
    """JPEG. ``pixels``: (height, width, 3) uint8, BGR."""
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def encode_within(pixels: UInt8Array, max_bytes: int) -> bytes | None:
    """JPEG of at most so many bytes: at less quality first, then smaller and smaller; None where nothing is left of it."""
    while min(pixels.shape[:2]) >= MIN_SIDE:
        for quality in QUALITIES:
            data = encode(pixels, quality)
            if len(data) <= max_bytes:
                return data
        pixels = _scaled(pixels, SHRINK)
    return None


def _scaled(pixels: UInt8Array, factor: float) -> UInt8Array:
    height, width = pixels.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _box(row: Float32Array) -> tuple[float, float, float, float]:
    x_min, y_min, x_max, y_max = row.tolist()
    return x_min, y_min, x_max, y_max


def _why(event: Event) -> str:
    return "-".join(filter(None, (event.kind, event.label, event.zone or event.wire)))
