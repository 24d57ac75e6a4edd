"""Latency a stage, in histograms that add up across intervals and devices.

The histogram is OpenTelemetry's base-2 exponential one (data model, "ExponentialHistogram"): bucket ``i`` counts values
in ``(base**i, base**(i + 1)]`` with ``base = 2**(2**-scale)``. At scale 4 a bucket is 4.4 % wide, so a quantile read
from it is off by at most 2.2 %; count, mean and max are exact. Histograms of a thousand devices are added bucket by
bucket, and the fleet's p99 is read from the sum.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

SCALE: Final = 4
_FACTOR: Final = 2**SCALE
_LOWEST: Final = math.floor(math.log2(1e-3) * _FACTOR)  # 1 microsecond, in milliseconds
_HIGHEST: Final = math.ceil(math.log2(1e6) * _FACTOR)  # 1,000 seconds
_LAST: Final = _HIGHEST - _LOWEST

STAGES: Final = ("capture", "queue", "preprocess", "infer", "decode", "total", "sent", "acknowledged")
"""What a frame goes through, in order.

``capture``: reading and decoding it (of a live stream: converting it, for nobody can tell waiting from decoding there).
``preprocess``: making the network's input of it, decoding what came as JPEG included.
``queue``: complete in memory until the pipeline takes it. ``total``: all of them up to the result, capture included.
``sent``: complete in memory until the message was handed to the MQTT client. ``acknowledged``: until the broker has said
that it has it.
"""


UNWANTED: Final = frozenset(
    {
        "rate_cap",
        "disabled",
        "no_motion",
        "undecodable",
        "unfit_frame",
        "unfit_window",
        "no_number",
        "no_score",
        "frozen",
        "stopped",
    }
)
"""Reasons to drop a sample that have nothing to do with how busy the machine is."""


class Buckets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exponential histogram as it is published. ``counts[k]`` belongs to bucket ``offset + k``."""

    scale: int
    zero_count: int
    offset: int
    counts: list[int]

    def merge(self, other: Buckets) -> Buckets:
        """The sum. Different scales meet at the coarser one, as the data model says."""
        scale = min(self.scale, other.scale)
        a, b = self._downscale(scale), other._downscale(scale)
        if not b.counts:
            return Buckets(scale, a.zero_count + b.zero_count, a.offset, a.counts)
        if not a.counts:
            return Buckets(scale, a.zero_count + b.zero_count, b.offset, b.counts)
        low = min(a.offset, b.offset)
        high = max(a.offset + len(a.counts), b.offset + len(b.counts))
        counts = [0] * (high - low)
        for part in (a, b):
            for k, count in enumerate(part.counts):
                counts[part.offset - low + k] += count
        return Buckets(scale, a.zero_count + b.zero_count, low, counts)

    def _downscale(self, scale: int) -> Buckets:
        shift = self.scale - scale
        if shift == 0 or not self.counts:
            return Buckets(scale, self.zero_count, self.offset >> shift, self.counts)
        low = self.offset >> shift
        high = (self.offset + len(self.counts) - 1) >> shift
        counts = [0] * (high - low + 1)
        for k, count in enumerate(self.counts):
            counts[((self.offset + k) >> shift) - low] += count
        return Buckets(scale, self.zero_count, low, counts)

    def quantile(self, q: float) -> float:
        """The value, milliseconds, that a share ``q`` (0..1) of all are at most; 0 of an empty histogram.

        The geometric middle of the bucket that holds the value of that rank.
        """
        total = self.zero_count + sum(self.counts)
        if total == 0:
            return 0.0
        rank = max(1, math.ceil(q * total))
        seen = self.zero_count
        if rank <= seen:
            return 0.0
        for k, count in enumerate(self.counts):
            seen += count
            if rank <= seen:
                return float(2 ** ((self.offset + k + 0.5) / 2**self.scale))
        raise AssertionError("rank beyond the count")


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage in one interval; milliseconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    histogram: Buckets

    def merge(self, other: Latency) -> Latency:
        """Both intervals, or both devices, as one."""
        count = self.count + other.count
        mean = (self.mean * self.count + other.mean * other.count) / count if count else 0.0
        return summary(count, mean, max(self.max, other.max), self.histogram.merge(other.histogram))


def summary(count: int, mean: float, maximum: float, histogram: Buckets) -> Latency:
    """Reads the usual quantiles; none of them above the exact maximum."""
    p50, p90, p95, p99 = (round(min(maximum, histogram.quantile(q)), 4) for q in (0.50, 0.90, 0.95, 0.99))
    return Latency(count, round(mean, 4), p50, p90, p95, p99, round(maximum, 4), histogram)


EMPTY: Final = summary(0, 0.0, 0.0, Buckets(SCALE, 0, 0, []))


class Histogram:
    """Records values without allocating. Not thread-safe: its owner's lock guards it."""

    __slots__ = ("_counts", "_max", "_sum", "_total", "_zero")

    def __init__(self) -> None:
        self._counts = [0] * (_LAST + 1)
        self._zero = 0
        self._total = 0
        self._sum = 0.0
        self._max = 0.0

    def record(self, value_ms: float) -> None:
        """Milliseconds. Under a microsecond counts as zero; over 1,000 seconds falls into the last bucket."""
        self._total += 1
        self._sum += value_ms
        if value_ms > self._max:
            self._max = value_ms
        if value_ms < 1e-3:
            self._zero += 1
            return
        # the bucket (base**i, base**(i + 1)] that holds the value: i = ceil(log_base(value)) - 1; log2 is exact where
        # the value is a power of two, as log(value) / log(2) is not
        index = math.ceil(math.log2(value_ms) * _FACTOR) - 1 - _LOWEST
        if index > _LAST:
            index = _LAST
        self._counts[index if index > 0 else 0] += 1

    def take(self) -> Latency:
        """What was recorded, and begins again with nothing."""
        used = [k for k, count in enumerate(self._counts) if count]
        low, high = (used[0], used[-1] + 1) if used else (0, 0)
        histogram = Buckets(SCALE, self._zero, _LOWEST + low if used else 0, self._counts[low:high])
        mean = self._sum / self._total if self._total else 0.0
        latency = summary(self._total, mean, self._max, histogram)
        self.__init__()  # type: ignore[misc]
        return latency


def merge_all(latencies: Iterable[Latency]) -> Latency:
    """The sum of any number of intervals or devices."""
    merged = EMPTY
    for latency in latencies:
        merged = merged.merge(latency)
    return merged


class Interval(msgspec.Struct, frozen=True):
    """What one pipeline did in one interval."""

    seconds: float
    frames_in: int
    inferred: int
    unwanted: int
    """Of ``frames_in``: those that the pipeline did not want, see `UNWANTED`."""
    stages: dict[str, Latency]


class PipelineStats:
    """Gathers one pipeline's figures. Any thread may record, any thread may take."""

    def __init__(self, now_ns: int, deadline_ms: float = 0.0) -> None:
        """``deadline_ms``: from capture to result; 0 for none."""
        self.deadline_ms = deadline_ms
        self.results = 0
        """Since the start; written by the pipeline's last thread, read by any. So is ``late``."""
        self.late = 0
        """Of these, the ones that came later than the deadline."""
        self._lock = threading.Lock()
        self._histograms = {stage: Histogram() for stage in STAGES}
        self._since_ns = now_ns
        self._inferred = 0
        self._frames_seen = 0
        self._dropped: dict[str, int] = {}
        self._unwanted = 0  # in this interval

    def inferred(self, latency_ms: Mapping[str, float]) -> None:
        """One frame went the whole way; its stages, milliseconds."""
        self.results += 1
        self.late += 0.0 < self.deadline_ms < latency_ms["total"]
        with self._lock:
            self._inferred += 1
            for stage, value in latency_ms.items():
                self._histograms[stage].record(value)

    def sent(self, value_ms: float) -> None:
        """One message has been handed to the MQTT client; again, where a connection broke before it was acknowledged."""
        with self._lock:
            self._histograms["sent"].record(value_ms)

    def acknowledged(self, value_ms: float) -> None:
        """The broker has acknowledged one message."""
        with self._lock:
            self._histograms["acknowledged"].record(value_ms)

    def drop(self, reason: str, count: int = 1) -> None:
        """Something was given up, and why; published as a count since the start."""
        if count:
            with self._lock:
                self._dropped[reason] = self._dropped.get(reason, 0) + count
                self._unwanted += count if reason in UNWANTED else 0

    def dropped(self) -> dict[str, int]:
        """Since the start, by reason."""
        with self._lock:
            return dict(self._dropped)

    def take(self, now_ns: int, frames_total: int) -> Interval:
        """The interval since the last call. ``frames_total``: what the source gave since the start."""
        with self._lock:
            interval = Interval(
                seconds=(now_ns - self._since_ns) / 1e9,
                frames_in=frames_total - self._frames_seen,
                inferred=self._inferred,
                unwanted=self._unwanted,
                stages={stage: histogram.take() for stage, histogram in self._histograms.items()},
            )
            self._since_ns = now_ns
            self._frames_seen = frames_total
            self._inferred = self._unwanted = 0
            return interval


def percentile(values: Sequence[float], q: float) -> float:
    """Exact, by nearest rank: what benchmarks and tests compare a histogram's quantile with."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]
