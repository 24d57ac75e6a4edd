"""Readings -> windows -> input tensor.

`SeriesPreprocessor` puts a window into the tensor. The arithmetic, for a value ``v`` of channel ``c``, in float64::

    real = (v - mean[c]) / std[c]                            what the network was trained on
    raw  = round half to even (real / scale) + zero_point    where the tensor is quantised, saturated to its dtype

`WindowBuilder` makes the windows. Samples stand at ``t0 + k / rate_hz``, ``t0`` the time of the first reading after the
start or a gap. Resampling picks or interpolates and filters nothing: readings much faster than ``rate_hz`` must be free
of what lies above half of it. What is done with a reading, by the time of the sensor's own clock (``timed``):

- later than the one before by at most ``max_gap / rate_hz``: it continues the window;
- later by more: a gap, and the window begins anew with it. Without ``rate_hz`` nothing is a gap;
- not later: late (out of order, or repeated), and left out;
- earlier by more than `CLOCK_BACK_NS`, and by more than a gap: the clock was set back, and the window begins anew.

Readings without times of their own count as evenly spaced, whenever they arrive, so they are not resampled. They come in
bursts (a buffer that a driver reads, a message with a second of readings), and after a burst of n a source may be silent
until it has the next n: a gap is a silence of more than ``(max_gap + n) / rate_hz``, n at most a window or `MAX_BURST_S`.
A silence that ends in all that was buffered meanwhile is taken for a gap, too: nothing proves that nothing was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from .errors import ModelError, ReadingsError
from .manifest import SeriesInput
from .resample import Resampler, Samples
from .time_unit import DOUBT_FROM, DOUBT_SHARE, doubted_order, doubted_step
from .types import Float32Array, Int64Array, Readings, Tensor, TensorSpec, Window

CLOCK_BACK_NS: Final = 1_000_000_000
BURST: Final = 0.5  # of 1 / rate_hz: what arrives within so little after another is of the same burst
INTERVALS: Final = 512  # what the cadence is measured over
MAX_BURST_S: Final = 10.0
FEW: Final = 16  # readings of which Python looks at each faster than numpy at all


class SeriesPreprocessor:
    """Puts windows into an input tensor as one manifest says. Owned by one thread: it keeps scratch buffers."""

    def __init__(self, spec: SeriesInput, tensor: TensorSpec) -> None:
        """Raises `ModelError` when the tensor is not what the manifest says."""
        channels = len(spec.channels)
        by_time = spec.layout == "time-channel"
        expected = (spec.length, channels) if by_time else (channels, spec.length)
        wide = tuple(n for n in tensor.shape if n != 1)
        if tensor.shape[:1] != (1,) or wide not in (tuple(n for n in expected if n != 1), (prod(expected),)):
            raise ModelError(
                f"input tensor {tensor.name}",
                expected=f"shape {[1, *expected]}, with further axes of 1 or as one axis",
                found=f"{list(tensor.shape)}",
            )
        dtypes = [np.dtype(name) for name in ("uint8", "int8", "int16", "float32")]
        if tensor.dtype not in dtypes:
            raise ModelError(
                f"input tensor {tensor.name}", expected="dtype uint8, int8, int16 or float32", found=tensor.dtype.name
            )
        self.spec = spec
        self.tensor = tensor
        self._shape = (spec.length, channels)
        self._turned = None if by_time else expected
        self._mean = np.asarray(spec.mean, np.float64)
        # real / scale in one division, where the tensor is quantised
        self._divisor = np.asarray(spec.std, np.float64) * (tensor.scale if tensor.quantised else 1.0)
        self._zero_point = float(tensor.zero_point)
        self._limits = None if tensor.dtype == np.float32 else np.iinfo(tensor.dtype.name)
        self._real = np.empty(self._shape, np.float64)

    def __call__(self, values: Float32Array, out: Tensor) -> None:
        """Writes a window, (length, channels) float32 in the sensor's units, into ``out``, a C-contiguous array of the
        tensor's shape and dtype. Raises `ReadingsError` for another shape, and for numbers that are not finite.
        """
        if values.shape != self._shape:
            raise ReadingsError(
                "window does not fit the model", expected=f"shape {self._shape}", found=f"{values.shape}"
            )
        if out.shape != self.tensor.shape or out.dtype != self.tensor.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"out must be {self.tensor.dtype} with shape {self.tensor.shape}, C-contiguous, but got {out.dtype} "
                f"{out.shape}"
            )
        if not np.isfinite(values).all():
            raise ReadingsError("window", expected="finite numbers", found="NaN or infinity")
        real = np.subtract(values, self._mean, out=self._real)
        real /= self._divisor
        if self._limits is not None:
            np.rint(real, out=real)
            real += self._zero_point
            np.clip(real, self._limits.min, self._limits.max, out=real)
        if self._turned is None:
            np.copyto(out.reshape(self._shape), real, casting="unsafe")
        else:
            np.copyto(out.reshape(self._turned), real.T, casting="unsafe")


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """What a builder has seen since it was made.

    ``readings``: all of them, those left out included. ``windows``: complete ones. ``gaps``: how often a gap began a
    window anew. ``late``: readings left out, for they were not later than the one before. ``clock_back``: how often the
    sensor's clock was set back, which began a window anew.
    """

    readings: int = 0
    windows: int = 0
    gaps: int = 0
    late: int = 0
    clock_back: int = 0


@dataclass(frozen=True, slots=True)
class Cadence:
    """How readings really come, over the last `INTERVALS` since the last gap, by the sensor's clock or their arrival.

    ``rate_hz``: readings a second. ``jitter_ms``: root mean square distance of the intervals from their median.
    """

    rate_hz: float
    jitter_ms: float


class WindowBuilder:
    """Readings of one source -> windows. Owned by one thread; its counts and cadence may be read by any.

    The windows do not depend on how readings are split into batches. What it keeps is bounded by two windows and
    `vedette.contract.resample.PENDING` readings.
    """

    def __init__(self, spec: SeriesInput, *, stride: int | None = None) -> None:
        """``stride``: samples from the beginning of one window to that of the next, in the place of the manifest's."""
        self.spec = spec
        self._channels = len(spec.channels)
        period_ns = 1e9 / spec.rate_hz if spec.rate_hz else 0.0
        self._gap_ns = int(spec.max_gap * period_ns)  # 0: nothing is a gap
        self._back_ns = max(CLOCK_BACK_NS, self._gap_ns)
        self._period_ns = period_ns
        self._max_burst = max(spec.length, MAX_BURST_S * (spec.rate_hz or 0.0))
        self._samples = Samples(spec.length, self._channels, stride or spec.stride)
        self._resampler = Resampler(spec, period_ns, self._samples) if spec.rate_hz else None
        self._recent = _Recent()
        self._timed: bool | None = None  # None: nothing has come since the start
        self._last_ns = 0  # of the last reading that was not left out
        self._burst = 0  # how many readings have arrived with it
        self._readings = self._gaps = self._late = self._back = 0
        self._timed_gaps = 0  # those by the sensor's own times, and how long the last of them was
        self._gap_step_ns = 0

    @property
    def counts(self) -> WindowCounts:
        """Since the builder was made."""
        return WindowCounts(self._readings, self._samples.windows, self._gaps, self._late, self._back)

    @property
    def doubt(self) -> tuple[str, str] | None:
        """What to ask and what to do where nearly every step is a gap, or goes back in time."""
        if order := doubted_order(self._readings, self._late + self._back):
            return order
        steps = self._readings - self._late - 1
        if steps < DOUBT_FROM or self._timed_gaps < DOUBT_SHARE * steps:
            return None
        return doubted_step(self._gap_step_ns / 1e9, self._period_ns / 1e9)

    @property
    def cadence(self) -> Cadence | None:
        """None until two readings have come since the last gap."""
        return self._recent.cadence()

    def reset(self) -> None:
        """Forgets the window under way and the last time, as for a source opened anew. The counts go on."""
        self._begin_anew()
        self._timed = None

    def push(self, readings: Readings) -> list[Window]:
        """The windows that these readings complete, oldest first, mostly none; their values cannot be written to.

        Raises `ReadingsError` for another number of channels.
        """
        values, times_ns = readings.values, readings.times_ns
        n = len(values)
        if values.shape[1] != self._channels:
            raise ReadingsError(
                "readings do not fit the model", expected=f"{self._channels} channels", found=f"{values.shape[1]}"
            )
        windows: list[Window] = []
        if not n:
            return windows
        if readings.anew:
            self.reset()
        self._readings += n
        resampler = self._resampler if readings.timed else None
        for begin, end, anew in self._runs(times_ns, readings.timed):
            if anew:
                self._begin_anew()
            part, part_ns = (values, times_ns) if end - begin == n else (values[begin:end], times_ns[begin:end])
            self._recent.add(part_ns)
            if resampler is not None:
                resampler.add(part, part_ns, readings.arrived_ns, windows)
            else:
                self._samples.add(part, part_ns, readings.arrived_ns, windows)
        return windows

    def _begin_anew(self) -> None:
        self._samples.begin_anew()
        self._recent.begin_anew()
        if self._resampler is not None:
            self._resampler.begin_anew()

    def _runs(self, times_ns: Int64Array, timed: bool) -> list[tuple[int, int, bool]]:
        """What goes into windows: stretches from..to of readings, and whether a window begins anew with each.

        Counts what it leaves out, and why it begins anew.
        """
        anew = self._timed != timed
        if anew:
            if self._timed is not None:
                self._gaps += 1  # the times before and after are not by one clock
            self._timed = timed
            self._last_ns = int(times_ns[0]) - 1
            self._burst = 0
        if len(times_ns) > FEW and self._smooth(times_ns, timed):
            return [(0, len(times_ns), anew)]
        return self._timed_runs(times_ns, anew) if timed else self._untimed_runs(times_ns, anew)

    def _smooth(self, times_ns: Int64Array, timed: bool) -> bool:
        """Whether all readings continue the window; they are taken note of then."""
        first = int(times_ns[0]) - self._last_ns
        steps = np.diff(times_ns)
        longest = max(first, int(steps.max()))
        if self._gap_ns and longest > self._gap_ns:
            return False
        if timed:
            # both: a step of more than 292 years would overflow
            if first <= 0 or steps.min() <= 0 or (times_ns[1:] <= times_ns[:-1]).any():
                return False
        else:
            apart = np.flatnonzero(steps >= self._period_ns * BURST)
            before = self._burst if first < self._period_ns * BURST else 0
            self._burst = len(times_ns) - 1 - int(apart[-1]) if len(apart) else before + len(times_ns)
        self._last_ns = int(times_ns[-1])
        return True

    def _timed_runs(self, times_ns: Int64Array, anew: bool) -> list[tuple[int, int, bool]]:
        runs = []
        last, longest, begin = self._last_ns, self._gap_ns, 0
        for index, time_ns in enumerate(times_ns.tolist()):
            step = time_ns - last
            if step > 0 and (step <= longest or not longest):
                last = time_ns
                continue
            if index > begin:
                runs.append((begin, index, anew))
            if step > 0 or -step > self._back_ns:
                if step > 0:
                    self._gaps += 1
                    self._timed_gaps += 1
                    self._gap_step_ns = step
                self._back += step < 0
                begin, anew, last = index, True, time_ns
            else:
                self._late += 1
                begin, anew = index + 1, False
        if len(times_ns) > begin:
            runs.append((begin, len(times_ns), anew))
        self._last_ns = last
        return runs

    def _untimed_runs(self, times_ns: Int64Array, anew: bool) -> list[tuple[int, int, bool]]:
        runs = []
        last, begin = self._last_ns, 0
        for index, time_ns in enumerate(times_ns.tolist()):
            step = time_ns - last
            last = time_ns
            if step < self._period_ns * BURST:
                self._burst += 1
                continue
            allowed = self._gap_ns + min(self._burst, self._max_burst) * self._period_ns
            self._burst = 1
            if self._gap_ns and step > allowed:
                self._gaps += 1
                if index > begin:
                    runs.append((begin, index, anew))
                begin, anew = index, True
        runs.append((begin, len(times_ns), anew))
        self._last_ns = last
        return runs


class _Recent:
    """The times of the last readings. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._times_ns = np.empty(4 * INTERVALS, np.int64)
        self._written = (self._times_ns, 0)  # changed at once, so that a reader sees both or neither

    def begin_anew(self) -> None:
        """After a gap."""
        self._times_ns = np.empty_like(self._times_ns)
        self._written = (self._times_ns, 0)

    def add(self, times_ns: Int64Array) -> None:
        """Takes note of readings."""
        count = len(times_ns)
        end = self._written[1]
        if end + count > len(self._times_ns):
            kept = np.concatenate([self._times_ns[max(0, end - INTERVALS) : end], times_ns])[-INTERVALS - 1 :]
            self._times_ns = np.empty_like(self._times_ns)
            end, times_ns, count = 0, kept, len(kept)
        self._times_ns[end : end + count] = times_ns
        self._written = (self._times_ns, end + count)

    def cadence(self) -> Cadence | None:
        """See `Cadence`."""
        times_ns, end = self._written
        times_ns = times_ns[max(0, end - INTERVALS - 1) : end]
        if len(times_ns) < 2 or times_ns[-1] <= times_ns[0]:
            return None
        steps = np.diff(times_ns).astype(np.float64)
        off = steps - np.median(steps)
        rate_hz = len(steps) * 1e9 / float(times_ns[-1] - times_ns[0])
        return Cadence(rate_hz, float(np.sqrt(np.mean(off**2))) / 1e6)


def cut_windows(
    spec: SeriesInput, values: Float32Array, times_ns: Int64Array | None = None, *, stride: int | None = None
) -> Float32Array:
    """The windows of a whole recording, (n, length, channels) float32, through `WindowBuilder` itself.

    ``values``: (readings, channels) float32; ``times_ns``: (readings,) int64, or None: evenly spaced, without gaps.
    Raises `ReadingsError` for another number of channels, and for numbers that are not finite.
    """
    if not np.isfinite(values).all():
        raise ReadingsError("recording", expected="finite numbers", found="NaN or infinity")
    timed = times_ns is not None
    times = np.zeros(len(values), np.int64) if times_ns is None else times_ns
    windows = WindowBuilder(spec, stride=stride).push(Readings(values, times, 0, timed))
    if not windows:
        return np.empty((0, spec.length, len(spec.channels)), np.float32)
    return np.stack([window.values for window in windows])
