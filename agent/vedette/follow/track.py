"""Boxes over time: which detection is the object that was seen before.

ByteTrack's two stages (Zhang et al., arXiv 2110.06864): first the good detections are given to tracks, then what is left
of the tracks may have the poor ones, for an object half hidden scores less but is still there; only good detections begin
tracks. A third look, with boxes made larger (C-BIoU, Yang et al., arXiv 2211.14317), finds what moved further than its
size between two frames, as happens at the few frames a second of a small board; it alone asks how likely the distance is,
for where boxes overlap, what a network errs (half of somebody cut off, say) is more than any such gate lets pass. Between
frames each track is predicted by a Kalman filter of constant velocity (SORT, Bewley et al., arXiv 1602.00763) whose noise
grows with the time that passed, in seconds and not in frames, and with the object's size (DeepSORT, Wojke et al., arXiv
1703.07402). What the network has several names for is one object (names.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from vedette.contract.types import Detections, Float32Array, Int32Array, Int64Array

from .assign import assign
from .names import Names, twins

Float64Array: TypeAlias = NDArray[np.float64]
_Rows: TypeAlias = NDArray[np.intp]
_Bools: TypeAlias = NDArray[np.bool_]

MAX_TRACKS: Final = 1000  # a detector that goes wild must not take the memory; those unseen for longest go first
MIN_SIDE: Final = 1e-4  # of the frame; a box without an area has no overlap with anything, itself included
UNCONFIRMED: Final = 0.5  # weight of a track that is none yet, against one that is
LOW_IOU: Final = 0.3  # a poor detection must lie well upon the prediction
NEAR_SCALE: Final = np.array([1.0, 1.0, 2.0, 2.0])  # for the third look, boxes of twice the size
NEAR_IOU: Final = 0.3  # of boxes so enlarged
GATE: Final = 18.47  # squared Mahalanobis distance in the third look: chi-square, four degrees of freedom, 99.9 %
TENTATIVE_MISSES: Final = 1  # frames that may miss what is no track yet
# a poor detection goes on with a track that so many frames, this one included, have not confirmed
POOR_MISSES: Final = 3
UPON_IOU: Final = 0.75  # later it must lie right upon the prediction: somebody who stands there, and is hardly seen
KEEP_LOOKS: Final = 2  # a track outlives at least so many frames without it, however long they took
FAST: Final = 0.5  # object sizes a second from which on a track counts as moving
OTHER_IOU: Final = 0.5  # a detection of another name than the track's class must lie well upon the prediction
OTHER_NAME: Final = 0.75  # and weighs so much
RENAMED_IOU: Final = 0.8  # one of a new name must lie right upon a track that was seen until now
OTHER_NS: Final = 10_000_000_000  # a track lives by other names alone no longer: who rose from a seat is not the seat
NAMING_NS: Final = 1_000_000_000  # after it began, a track's class is settled
POOR_NAME: Final = 1e-3  # weight of a poor detection's score in that

# Noise, in squares of the object's size: of the centre's x and y, and of width and height, which have no velocity
MEASURED: Final = np.array([0.05, 0.05, 0.08, 0.08]) ** 2  # of one detection
WALK: Final = np.array([0.01, 0.01, 0.04, 0.04])  # a second: what no velocity explains
ACCELERATION: Final = np.array([1.0, 1.0, 0.0, 0.0])  # density of white noise, 1 / s^3
FIRST_SPEED: Final = np.array([2.0, 2.0, 0.0, 0.0]) ** 2  # of an object that was seen once, 1 / s^2


class TrackOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.track]"""

    low_score: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.2
    """Detections from this score up to the threshold may go on with a track, and never begin one."""
    min_hits: Annotated[int, Meta(ge=1, le=100)] = 2
    """In how many frames an object must be found, missed in no two in a row, before it is a track; the first time by a good
    detection."""
    min_iou: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.2
    """Overlap of a detection with where its track was expected."""
    keep_s: Annotated[float, Meta(gt=0.0, le=3600.0)] = 2.0
    """How long a track outlives its last detection, seconds."""


@dataclass(frozen=True, slots=True)
class Tracks:
    """Tracks, each a row: ``ids`` (k,) int32 from 1; ``class_ids`` (k,) int32; ``boxes`` (k, 4) float32, filtered, as
    fractions of the frame, and as predicted where the track was not seen; ``firsts`` (k, 4) float32, the box of the first
    detection; ``velocities`` (k, 2) float32, of the centre,
    frames' widths and heights a second; ``scores`` (k,) float32, the best of its detections; ``began_ns``, ``seen_ns`` (k,)
    int64, CLOCK_BOOTTIME of the first and the last detection, the latter later by what was held (`Tracker.hold`);
    ``seen`` (k,) bool, whether this very frame showed it."""

    ids: Int32Array
    class_ids: Int32Array
    boxes: Float32Array
    firsts: Float32Array
    velocities: Float32Array
    scores: Float32Array
    began_ns: Int64Array
    seen_ns: Int64Array
    seen: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Tracked:
    """What one frame meant for the tracks.

    ``ids``: (n,) int32, the track of each detection, 0 where it is none (yet). ``live``: all tracks there are now, those
    included that were not seen in this frame. ``began``: (b,) int32, which of them are new. ``ended``: those given up.
    """

    ids: Int32Array
    live: Tracks
    began: Int32Array
    ended: Tracks


# columns of the integers, and planes of the reals: mean and velocity, then the three covariances of the two
_ID, _CLASS, _BEGAN, _SEEN, _NAMED, _HITS, _MISSES = range(7)  # _NAMED: when it was last seen as of its class
_AT, _SPEED, _VAR, _COVAR, _SPEED_VAR = range(5)


class Tracker:
    """The tracks of one camera in one epoch: ids count from 1. Owned by one thread.

    All tracks are rows of three arrays, the real ones (5, k, 4) float64. Centre x, centre y, width and height are filtered
    each for itself: with noise that is independent between them the filter of all four falls apart into four of two
    states, exactly.
    """

    def __init__(self, options: TrackOptions, thresholds: Float32Array | float = 0.5, *, last_id: int = 0) -> None:
        """``thresholds``: the score from which on a detection is good, one for all or (labels,), one a class; of a class
        above 1, nothing is tracked. ``last_id``: that of the tracker in whose place this one comes."""
        self._options = options
        self.retune(thresholds)
        self._keep_ns = int(options.keep_s * 1e9)
        self._last_id = last_id
        self._now_ns = 0
        self._ints: Int64Array = np.empty((0, 7), np.int64)
        self._names = Names()
        self._reals: Float64Array = np.empty((5, 0, 4))
        self._scores: Float32Array = np.empty(0, np.float32)
        self._firsts: Float32Array = np.empty((0, 4), np.float32)

    @property
    def busy(self) -> bool:
        """Whether a track that was seen in the last frame moves: no time to look away."""
        moving = np.abs(self._reals[_SPEED, :, :2]) > FAST * self._reals[_AT, :, 2:]
        seen = (self._ints[:, _MISSES] == 0) & (self._ints[:, _ID] > 0)
        return bool(moving[seen].any())

    @property
    def watches(self) -> bool:
        """Whether there is a track, or what may become one."""
        return len(self._ints) > 0

    @property
    def last_id(self) -> int:
        """The newest id that was given; 0 for none."""
        return self._last_id

    def retune(self, thresholds: Float32Array | float) -> None:
        """Other thresholds, as of the constructor, from the next frame on."""
        self._thresholds = np.asarray(thresholds, np.float32)

    def hold(self, until_ns: int) -> None:
        """Nothing moved until then, and nobody looked: none is carried on, and no track ages but those that were unseen
        in the last frame already, for whoever had gone by then must not stay."""
        passed = max(0, until_ns - self._now_ns)
        if self._now_ns:
            self._now_ns += passed
            self._ints[np.ix_(self._ints[:, _MISSES] == 0, (_SEEN, _NAMED))] += passed

    def update(self, found: Detections, captured_ns: int) -> Tracked:
        """Takes a frame's detections, those from ``low_score`` on. A frame from before the last one counts as of the
        same moment."""
        now_ns = max(captured_ns, self._now_ns)
        self._predict((now_ns - self._now_ns) / 1e9 if self._now_ns else 0.0)
        self._now_ns = now_ns
        thresholds = self._thresholds[found.class_ids] if self._thresholds.ndim else self._thresholds
        good = found.scores >= thresholds
        poor = ~good & (found.scores >= self._options.low_score) & (thresholds <= 1.0)
        measured = _centred(found.boxes)
        heads = twins(found, good, good | poor)
        apart = np.ones(len(found), np.bool_)
        apart[list(heads)] = False
        track_of = self._associate(found, measured, heads, good & apart, poor & apart)
        new = np.flatnonzero(good & apart & (track_of < 0))
        track_of[new] = np.arange(len(self._ints), len(self._ints) + len(new))
        self._begin(new, found, measured)
        self._name(found, track_of, heads, good)
        began = self._confirm()
        ids = np.zeros(len(found), np.int32)
        matched = track_of >= 0
        ids[matched] = self._ints[track_of[matched], _ID]
        ended = self._drop()
        return Tracked(ids, self._rows(self._ints[:, _ID] > 0), began, ended)

    def end(self) -> Tracks:
        """Gives all tracks up, and says which they were. Ids go on where they were."""
        ended = self._rows(self._ints[:, _ID] > 0)
        self._keep(np.zeros(len(self._ints), np.bool_))
        return ended

    def _predict(self, dt: float) -> None:
        """Carries all tracks on by ``dt`` seconds: constant velocity, disturbed by white noise in acceleration.

        The discretised noise: Bar-Shalom, Li, Kirubarajan, Estimation with Applications to Tracking and Navigation,
        2001, section 6.2.2.
        """
        if dt == 0.0 or not len(self._ints):
            return
        at, speed, var, covar, speed_var = self._reals
        size = _size(at)
        shake = ACCELERATION * size
        at += speed * dt
        var += dt * (2.0 * covar + dt * speed_var) + shake * (dt**3 / 3.0) + WALK * size * dt
        covar += dt * speed_var + shake * (dt**2 / 2.0)
        speed_var += shake * dt

    def _associate(
        self, found: Detections, measured: Float64Array, heads: dict[int, int], good: _Bools, poor: _Bools
    ) -> _Rows:
        """(n,) the row of the track that each detection goes on with, or -1. Those tracks are corrected by them.

        ``heads``: of `twins`, which are neither ``good`` nor ``poor``.
        """
        track_of = np.full(len(found), -1, np.intp)
        ints, at = self._ints, self._reals[_AT]
        ints[:, _MISSES] += 1
        if not len(ints) or not len(found):
            return track_of
        overlap = _iou(at, measured)
        same = ints[:, _CLASS, None] == found.class_ids
        fresh = self._now_ns - ints[:, _NAMED, None] <= OTHER_NS
        called = same
        if heads or self._names.several:
            called = self._names.known(found.class_ids)
            for twin, head in heads.items():
                same[:, head] |= same[:, twin]
                called[:, head] |= called[:, twin]
            called &= (overlap >= OTHER_IOU) & fresh
            called |= same
        confirmed = ints[:, _ID] > 0
        free = np.ones(len(at), np.bool_)
        left = good.copy()

        def pair(gains: Float64Array, rows: _Bools, columns: _Bools) -> None:
            row, column = rows.nonzero()[0], columns.nonzero()[0]
            if len(row) and len(column):
                i, j = assign(gains[row[:, None], column])
                track_of[column[j]] = row[i]
                free[row[i]] = left[column[j]] = False

        # of two that lie as well: the better detection (ByteTrack's fused score), and the older track
        gains = overlap * found.scores * np.where(confirmed, 1.0, UNCONFIRMED)[:, None]
        if called is not same:
            gains[~same] *= OTHER_NAME
        pair(np.where(called & (overlap >= self._options.min_iou), gains, 0.0), free, left)
        if poor.any():
            least = np.where(ints[:, _MISSES] <= POOR_MISSES, LOW_IOU, UPON_IOU)[:, None]
            pair(np.where(called & (overlap >= least), overlap, 0.0), free, poor)
        if left.any() and free.any():
            near = _iou(at * NEAR_SCALE, measured * NEAR_SCALE)
            distance = measured - at[:, None]
            spread = self._reals[_VAR] + MEASURED * _size(at)
            likely = np.einsum("tdk,tdk,tk->td", distance, distance, 1.0 / spread) < GATE
            pair(np.where(same & likely & (near >= NEAR_IOU), near, 0.0), free, left)
        if left.any() and free.any() and not same.all():
            upon = fresh & (overlap >= RENAMED_IOU) & (ints[:, _MISSES, None] <= POOR_MISSES)
            pair(np.where(upon, overlap, 0.0), free, left)
        column = (track_of >= 0).nonzero()[0]
        self._correct(track_of[column], column, found, measured)
        return track_of

    def _correct(self, rows: _Rows, columns: _Rows, found: Detections, measured: Float64Array) -> None:
        """The Kalman filter's second half, for the tracks ``rows`` with the detections ``columns``."""
        at, speed, var, covar, speed_var = self._reals[:, rows]
        total = var + MEASURED * _size(at)
        gain, speed_gain = var / total, covar / total
        off = measured[columns] - at
        self._reals[:, rows] = (
            at + gain * off,
            speed + speed_gain * off,
            (1.0 - gain) * var,
            (1.0 - gain) * covar,
            speed_var - speed_gain * covar,
        )
        self._ints[rows, _SEEN] = self._now_ns
        self._ints[rows, _MISSES] = 0
        self._ints[rows, _HITS] += 1
        self._scores[rows] = np.maximum(self._scores[rows], found.scores[columns])

    def _begin(self, new: _Rows, found: Detections, measured: Float64Array) -> None:
        """Rows for detections that nothing explains."""
        if not len(new):
            return
        ints = np.zeros((len(new), 7), np.int64)
        ints[:, _CLASS] = found.class_ids[new]
        ints[:, _BEGAN] = ints[:, _SEEN] = ints[:, _NAMED] = self._now_ns
        ints[:, _HITS] = 1
        at = measured[new]
        size = _size(at)
        zeros = np.zeros_like(at)
        reals = np.stack((at, zeros, MEASURED * size, zeros, FIRST_SPEED * size))
        self._ints = np.concatenate((self._ints, ints))
        self._reals = np.concatenate((self._reals, reals), axis=1)
        self._scores = np.concatenate((self._scores, found.scores[new]))
        self._firsts = np.concatenate((self._firsts, found.boxes[new]))
        self._names.begin(len(new))

    def _name(self, found: Detections, track_of: _Rows, heads: dict[int, int], good: _Bools) -> None:
        """Remembers what tracks were called, and settles the class of the young.

        ``track_of``: (n,) as of `_associate`; changed so that of twins a good one of the track's class has the track.
        """
        ints = self._ints
        all_of = track_of.copy()
        for twin, head in heads.items():
            all_of[twin] = track_of[head]
        columns = (all_of >= 0).nonzero()[0]
        if not len(columns):
            return
        rows, class_ids = all_of[columns], found.class_ids[columns]
        weights = np.where(good[columns], np.float32(1.0), np.float32(POOR_NAME))
        several = bool((ints[rows, _CLASS] != class_ids).any())
        self._names.add(rows, class_ids, found.scores[columns] * weights, several=several)
        if not self._names.several:
            ints[rows, _NAMED] = self._now_ns
            return
        young = rows[self._now_ns - ints[rows, _BEGAN] <= NAMING_NS]
        ints[young, _CLASS] = self._names.best(young)
        named = ints[rows, _CLASS] == class_ids
        ints[rows[named], _NAMED] = self._now_ns
        for column in columns[named & good[columns]].tolist():
            if column in heads:
                track_of[heads[column]], track_of[column] = -1, all_of[column]

    def _confirm(self) -> Int32Array:
        """Gives ids to those seen often enough; which."""
        ints = self._ints
        rows = ((ints[:, _ID] == 0) & (ints[:, _HITS] >= self._options.min_hits)).nonzero()[0]
        ids = np.arange(self._last_id + 1, self._last_id + 1 + len(rows))
        self._last_id += len(rows)
        ints[rows, _ID] = ids
        return ids.astype(np.int32)

    def _drop(self) -> Tracks:
        """Gives up those unseen for too long, those that left the frame, and unconfirmed ones that are missed again."""
        ints, at = self._ints, self._reals[_AT]
        missing = ints[:, _MISSES] > 0
        if not missing.any() and len(ints) <= MAX_TRACKS:
            return self._rows(missing)
        late = (self._now_ns - ints[:, _SEEN] > self._keep_ns) & (ints[:, _MISSES] > KEEP_LOOKS)
        outside = (np.abs(at[:, :2] - 0.5) > 0.5 + at[:, 2:] / 2).any(axis=1)
        over = missing & (late | outside | ((ints[:, _ID] == 0) & (ints[:, _MISSES] > TENTATIVE_MISSES)))
        if len(ints) > MAX_TRACKS:
            oldest = np.argsort(ints[:, _SEEN], kind="stable")[: len(ints) - MAX_TRACKS]
            over[oldest] = True
        ended = self._rows(over & (ints[:, _ID] > 0))
        if over.any():
            self._keep(~over)
        return ended

    def _keep(self, rows: _Bools) -> None:
        self._ints = self._ints[rows]
        self._reals = self._reals[:, rows]
        self._scores = self._scores[rows]
        self._firsts = self._firsts[rows]
        self._names.keep(rows)

    def _rows(self, rows: _Bools) -> Tracks:
        ints, reals = self._ints[rows], self._reals[:, rows]
        centre, half = reals[_AT, :, :2], reals[_AT, :, 2:] / 2
        return Tracks(
            ids=ints[:, _ID].astype(np.int32),
            class_ids=ints[:, _CLASS].astype(np.int32),
            boxes=np.concatenate((centre - half, centre + half), axis=1).astype(np.float32),
            firsts=self._firsts[rows],
            velocities=reals[_SPEED, :, :2].astype(np.float32),
            scores=self._scores[rows],
            began_ns=ints[:, _BEGAN],
            seen_ns=ints[:, _SEEN],
            seen=ints[:, _MISSES] == 0,
        )


def _centred(boxes: Float32Array) -> Float64Array:
    """Corners -> centre x, centre y, width, height; no side is less than `MIN_SIDE`."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:]
    return np.concatenate(((low + high) / 2, np.maximum(high - low, MIN_SIDE)), axis=1)


def _size(at: Float64Array) -> Float64Array:
    """(k, 4) the square of what noise is measured in: of the object's own width and height, and something of both."""
    sides = np.maximum(at[:, 2:], MIN_SIDE)
    size = (sides + sides.mean(axis=1, keepdims=True)) / 2
    return np.concatenate((size, size), axis=1) ** 2


def _iou(tracks: Float64Array, found: Float64Array) -> Float64Array:
    """(t, d) intersection over union of boxes as `_centred` makes them."""
    distance = np.abs(tracks[:, None, :2] - found[None, :, :2])
    sides, others = tracks[:, None, 2:], found[None, :, 2:]
    common = np.minimum(np.minimum(sides, others), (sides + others) / 2 - distance)
    inter = np.maximum(common, 0.0).prod(axis=2)
    union = sides.prod(axis=2) + others.prod(axis=2) - inter
    return np.asarray(inter / np.maximum(union, MIN_SIDE**2), np.float64)
