"""Readings -> windows -> input tensor.

`WindowBuilder` cuts readings, as they come, into windows of one length; `SeriesPreprocessor` puts a window into the
input tensor. The arithmetic, for a value ``v`` of channel ``c``, in float64::

    real = (v - mean[c]) / std[c]                                what the network was trained on
    raw  = round half to even (real / scale) + zero_point        where the tensor is quantised, saturated to its dtype

Resampling puts samples at ``t0 + k / rate_hz``, ``t0`` the time of the first reading after the start or a gap. It picks
or interpolates and filters nothing: readings much faster than ``rate_hz`` must be free of what lies above half of it.

What the builder does with times, by the sensor's own clock (``timed``):

- later than the one before by at most ``max_gap / rate_hz``: it continues the window;
- by more: a gap, and the window begins anew with it. Without ``rate_hz`` nothing is a gap;
- not later: late (out of order, or repeated), and left out;
- earlier by more than `CLOCK_BACK_NS`, and by more than a gap: the clock was set back, and the window begins anew.

Readings without times of their own count as evenly spaced, whatever their times of arrival, so they are not resampled.
They come in bursts (a buffer that a driver reads, a message with a second of readings), and after a burst of n a source
may be quiet until it has the next n: a gap is a silence of more than ``(max_gap + n) / rate_hz``, n at most a window.
A silence that ends in what was buffered meanwhile is taken for a gap, too: nothing proves that nothing was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .manifest import SeriesInput
from .types import Float32Array, Int64Array, Readings, Tensor, TensorSpec, Window

CLOCK_BACK_NS: Final = 1_000_000_000
PENDING: Final = 1024  # readings that wait to be resampled at once, at most
PIECE_CELLS: Final = 1 << 18  # values that are resampled at once: 2 MB a temporary array
INTERVALS: Final = 512  # what the cadence is measured over


class SeriesPreprocessor:
    """Puts windows into an input tensor as one manifest says. Owned by one thread: it keeps scratch buffers."""

    def __init__(self, spec: SeriesInput, tensor: TensorSpec) -> None:
        """Raises `ModelError` when the tensor is not what the manifest says."""
        raise NotImplementedError

    def __call__(self, values: Float32Array, out: Tensor) -> None:
        """Writes a window, (length, channels) float32 in the sensor's units, into ``out``, an array of the tensor's shape
        and dtype. Raises `ReadingsError` for another shape and for numbers that are not finite.
        """
        raise NotImplementedError


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
    """How readings really come, over the last `INTERVALS` of them without gaps.

    ``rate_hz``: readings a second. ``jitter_ms``: root mean square distance of the intervals from their median.
    """

    rate_hz: float
    jitter_ms: float


class WindowBuilder:
    """Readings of one source -> windows. Owned by one thread, but its counts and cadence may be read by any.

    The windows do not depend on how readings are split into batches.
    """

    def __init__(self, spec: SeriesInput, *, stride: int | None = None) -> None:
        """``stride``: samples from window to window, in the place of the manifest's."""
        raise NotImplementedError

    @property
    def counts(self) -> WindowCounts:
        """Since the start."""
        raise NotImplementedError

    @property
    def cadence(self) -> Cadence | None:
        """None until two readings have come."""
        raise NotImplementedError

    def push(self, readings: Readings) -> list[Window]:
        """The windows that these readings complete, oldest first, mostly none. Their values are read-only."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forgets the window under way and the last time, as for a source opened anew. Counts go on."""
        raise NotImplementedError


def cut_windows(
    spec: SeriesInput, values: Float32Array, times_ns: Int64Array | None = None, *, stride: int | None = None
) -> Float32Array:
    """The windows of a whole recording, (n, length, channels) float32, through `WindowBuilder` itself.

    ``values``: (readings, channels); ``times_ns``: (readings,), or None: evenly spaced at ``rate_hz``, without gaps.
    Raises `ReadingsError` for another number of channels and for numbers that are not finite.
    """
    raise NotImplementedError
