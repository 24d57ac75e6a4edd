"""Whether a frame is worth a look: a cheap test on a small grey picture, so that a still scene costs next to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Annotated, Final

import cv2
import numpy as np
from msgspec import Meta, Struct

from vedette.contract.jpeg import decode, reduction
from vedette.contract.planes import full_luma
from vedette.contract.types import Float32Array, Jpeg, Picture, Planes, Tensor, UInt8Array
from vedette.follow.zones import Point, check_polygon

WIDTH: Final = 128  # pixels; the small picture is no wider
LEAST_NOISE: Final = 1.0  # grey levels; below it, quantisation is all the noise there is
DEVIATIONS: Final = 4.0  # times the noise, a mean absolute difference, that a change must pass
BACKGROUND_S: Final = (2.0, 10.0)  # time constants of its average: of a pixel as it was, and of one that has changed
NOISE_S: Final = (5.0, 60.0)  # the same of the noise: what moves all the time, as leaves do, becomes noise in the end
GLANCE_NS: Final = (
    100_000_000  # nanoseconds; a still scene is glanced at ten times a second, the frames between go unseen
)
MAX_STEP_S: Final = 1.0  # no picture weighs more than one of this many seconds
CLUSTER: Final = 5  # of the nine pixels around it, itself one of them, so many must have changed


class MotionOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.motion]"""

    min_change: Annotated[float, Meta(ge=1.0, le=255.0)] = 8.0
    """Grey levels that a pixel must change by, of 255, beyond what the noise explains."""
    min_area: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0005
    """Share of the picture that must have changed."""
    hold_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 2.0
    """How long every frame is looked at after a motion, seconds."""
    max_skip_s: Annotated[float, Meta(gt=0.0, le=86400.0)] = 10.0
    """A look at least so often, whatever does not move, seconds."""
    ignore: Annotated[tuple[Annotated[tuple[Point, ...], Meta(max_length=256)], ...], Meta(max_length=64)] = ()
    """Polygons in which motion means nothing: a tree, a screen, a clock."""

    def __post_init__(self) -> None:
        for polygon in self.ignore:
            check_polygon("ignore", polygon)


@dataclass(frozen=True, slots=True)
class MotionCounts:
    """Frames since the start: those that were asked about, and those of them that were skipped."""

    frames: int
    skipped: int


class MotionGate:
    """Says of each frame of one camera whether it may be skipped. Owned by one thread.

    A background and the mean absolute difference to it, each a moving average of every pixel, after Manzanera and
    Richefeu, "A robust and computationally efficient motion detection algorithm based on sigma-delta background
    estimation", ICVGIP 2004. A pixel has changed when it differs by more than both ``min_change`` and `DEVIATIONS` times
    its own noise, after the median of all differences, which is the light's, is taken off; and when most of its neighbours
    have changed with it.
    """

    def __init__(self, options: MotionOptions, least: tuple[int, int] = (0, 0)) -> None:
        """``least``: height and width of what is made of a frame that moves. A JPEG is decoded no smaller, and once."""
        self._options = options
        self._least_size = least
        self._background: Float32Array = np.empty((0, 0), np.float32)
        self._noise: Float32Array = self._background
        self._watched: UInt8Array = np.empty((0, 0), np.uint8)
        self._least = 0.0  # pixels that must have changed
        self._seen_ns = 0
        self._until_ns = 0
        self._looked_ns = 0
        self._frames = 0
        self._skipped = 0

    @property
    def counts(self) -> MotionCounts:
        """May be read by any thread."""
        return MotionCounts(self._frames, self._skipped)

    def skip(self, pixels: Picture, now_ns: int, *, busy: bool = False) -> bool:
        """Whether this frame may be skipped. ``busy``: what it showed last moves.

        Raises `UndecodableError` for a JPEG that cannot be decoded.
        """
        self._frames += 1
        due = now_ns - self._looked_ns >= int(self._options.max_skip_s * 1e9)
        still = not (busy or due) and now_ns >= self._until_ns
        if still and 0 <= now_ns - self._seen_ns < GLANCE_NS:
            self._skipped += 1
            return True
        moved = self._moved(shrink(pixels, self._least_size), now_ns)
        if moved or busy:
            self._until_ns = now_ns + int(self._options.hold_s * 1e9)
        if moved or busy or due or now_ns < self._until_ns:
            self._looked_ns = now_ns
            return False
        self._skipped += 1
        return True

    def _moved(self, grey: Float32Array, now_ns: int) -> bool:
        step_s = min(MAX_STEP_S, max(0.0, (now_ns - self._seen_ns) / 1e9))
        self._seen_ns = now_ns
        if grey.shape != self._background.shape:
            self._begin(grey)
            return True
        difference = grey - self._background
        # the light's: a few hundred pixels tell the median well enough
        difference -= np.median(difference[::6, ::6])
        np.abs(difference, out=difference)
        limit = np.maximum(self._noise * np.float32(DEVIATIONS), np.float32(self._options.min_change))
        changed: Tensor = cv2.compare(difference, limit, cv2.CMP_GT)
        cv2.bitwise_and(changed, self._watched, changed)
        anything = cv2.countNonZero(changed) > self._least
        mask = changed if anything else None
        _learn(self._background, grey, BACKGROUND_S, mask, step_s)
        _learn(self._noise, np.maximum(difference, LEAST_NOISE), NOISE_S, mask, step_s)
        return anything and _clustered(changed) > self._least

    def _begin(self, grey: Float32Array) -> None:
        height, width = grey.shape
        self._background = grey
        self._noise = np.full_like(grey, LEAST_NOISE)
        self._watched = np.full(grey.shape, 255, np.uint8)
        for polygon in self._options.ignore:
            corners = np.rint(np.array(polygon) * (width, height)).astype(np.int32)
            cv2.fillPoly(self._watched, [corners], 0)
        self._least = self._options.min_area * cv2.countNonZero(self._watched)


def _clustered(changed: Tensor) -> int:
    """How many pixels, of those that are 255, have most of their neighbours with them: single ones are noise."""
    around = cv2.boxFilter(changed & 1, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return int(np.count_nonzero((around >= CLUSTER) & (changed > 0)))


def _learn(
    average: Float32Array, new: Float32Array, constants_s: tuple[float, float], changed: Tensor | None, step_s: float
) -> None:
    """Moves the average to the new picture, more slowly where it has changed."""
    still, moving = (1.0 - exp(-step_s / constant) for constant in constants_s)
    if changed is None:
        cv2.accumulateWeighted(new, average, still)
    else:
        cv2.accumulateWeighted(new, average, still, mask=cv2.bitwise_not(changed))
        cv2.accumulateWeighted(new, average, moving, mask=changed)


def shrink(pixels: Picture, least: tuple[int, int] = (0, 0)) -> Float32Array:
    """The picture in grey, float32 0..255, about `WIDTH` wide: each pixel the mean of 16 samples of those it stands for.

    Bilinear to twice the size, then two by two: what it costs depends on the small size and hardly on the large one, but of
    a JPEG, which is decoded no smaller than ``least``, height and width. Raises `UndecodableError` where it cannot be.
    """
    height, width = pixels.shape[:2]
    half = min(WIDTH, (width + 1) // 2)
    size = (half, max(1, round(height * half / width)))
    if isinstance(pixels, Jpeg):
        pixels = decode(pixels, reduction(height, width, max(least[0], 2 * size[1]), max(least[1], 2 * size[0])))
    seen = pixels.luma if isinstance(pixels, Planes) else pixels
    samples = cv2.resize(seen, (2 * size[0], 2 * size[1]), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(samples, size, interpolation=cv2.INTER_AREA)
    grey = np.asarray(small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.float32)
    return full_luma(grey) if isinstance(pixels, Planes) and not pixels.full_range else grey
