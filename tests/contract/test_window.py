"""Windows against a slow, obvious implementation; any split into batches; what becomes of odd times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.contract.errors import ModelError, ReadingsError
from vedette.contract.manifest import Channel, SeriesInput
from vedette.contract.resample import PENDING
from vedette.contract.types import Readings, TensorSpec, Window
from vedette.contract.window import (
    CLOCK_BACK_NS,
    SeriesPreprocessor,
    WindowBuilder,
    WindowCounts,
    cut_windows,
)

MS = 1_000_000


def series(channels: int = 2, length: int = 4, stride: int = 4, **options: Any) -> SeriesInput:
    names = tuple(Channel(name=f"c{i}") for i in range(channels))
    return SeriesInput(channels=names, length=length, stride=stride, **options)


def numbers(n: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 10, (n, channels)).astype(np.float32)


def readings(values: np.ndarray, times_ns: Sequence[int], *, timed: bool = True, arrived_ns: int = 0) -> Readings:
    return Readings(values, np.array(times_ns, np.int64), arrived_ns, timed)


# --- The slow, obvious implementation ---


@dataclass
class Obvious:
    """One reading at a time, everything remembered since the last gap."""

    spec: SeriesInput
    timed: bool
    windows: list[tuple[int, int, np.ndarray]] = field(default_factory=list)
    gaps: int = 0
    late: int = 0
    back: int = 0
    samples: list[tuple[int, list[float]]] = field(default_factory=list)
    previous: tuple[int, list[float]] | None = None
    origin: int = 0
    number: int = 0
    burst: int = 0

    def push(self, time_ns: int, values: list[float]) -> None:
        spec = self.spec
        period = 1e9 / spec.rate_hz if spec.rate_hz else 0.0
        gap = int(spec.max_gap * period)
        if self.previous is not None:
            step = time_ns - self.previous[0]
            if self.timed:
                if gap and step > gap:
                    self.gaps += 1
                    self.begin_anew()
                elif step < 0 and -step > max(gap, CLOCK_BACK_NS):
                    self.back += 1
                    self.begin_anew()
                elif step <= 0:
                    self.late += 1
                    return
            elif step >= period / 2:
                if gap and step > gap + min(self.burst, max(spec.length, 10 * (spec.rate_hz or 0))) * period:
                    self.gaps += 1
                    self.begin_anew()
                self.burst = 0
        self.burst += 1
        if not (self.timed and period):
            self.sample(time_ns, values)
        elif self.previous is None:
            self.origin, self.number = time_ns, 1
            self.sample(time_ns, values)
        else:
            while (at := self.origin + round(self.number * period)) <= time_ns:
                before, old = self.previous
                share = (at - before) / (time_ns - before)
                if spec.interpolation == "linear":
                    between = [a * (1 - share) + b * share for a, b in zip(old, values, strict=True)]
                else:
                    between = values if at == time_ns else old
                self.sample(at, between)
                self.number += 1
        self.previous = (time_ns, values)

    def sample(self, time_ns: int, values: list[float]) -> None:
        self.samples.append((time_ns, values))
        begin = len(self.samples) - self.spec.length
        if begin >= 0 and begin % self.spec.stride == 0:
            window = self.samples[begin:]
            array = np.array([v for _, v in window], np.float64).astype(np.float32)
            self.windows.append((window[0][0], window[-1][0], array))

    def begin_anew(self) -> None:
        self.samples = []
        self.previous = None


def expect_same(found: Sequence[Window], obvious: Obvious, counts: WindowCounts) -> None:
    assert [(w.first_ns, w.last_ns) for w in found] == [(a, b) for a, b, _ in obvious.windows]
    for window, (_, _, values) in zip(found, obvious.windows, strict=True):
        np.testing.assert_array_equal(window.values, values)
    assert [w.seq for w in found] == list(range(1, len(found) + 1))
    assert (counts.windows, counts.gaps, counts.late, counts.clock_back) == (
        len(found), obvious.gaps, obvious.late, obvious.back,
    )  # fmt: skip


# Mostly about 10 ms, some gaps, repetitions, steps back, and a clock that is set
steps = st.one_of(
    st.integers(5 * MS, 15 * MS),
    st.just(10 * MS),
    st.integers(0, 3),
    st.integers(15 * MS, 200 * MS),
    st.integers(-30 * MS, 0),
    st.sampled_from([-CLOCK_BACK_NS, -CLOCK_BACK_NS - 1, -(10**15), 10**15, 10**18]),
)


@st.composite
def runs(draw: st.DrawFn) -> tuple[SeriesInput, np.ndarray, list[int], list[int]]:
    """A spec, readings with their times, and how many readings come in each batch."""
    length = draw(st.integers(1, 9))
    spec = series(
        draw(st.integers(1, 3)),
        length,
        draw(st.integers(1, 2 * length + 3)),
        rate_hz=draw(st.sampled_from([None, 100.0, 60.0, 333.0, 20.0])),
        max_gap=draw(st.sampled_from([1.0, 1.5, 5.0, 100.0])),
        interpolation=draw(st.sampled_from(["linear", "previous"])),
    )
    # smooth stretches, so that both ways of looking at a batch are taken, and oddities between them
    times = [draw(st.integers(-(10**18), 10**18))]
    for _ in range(draw(st.integers(0, 6))):
        times += [times[-1] + (i + 1) * 10 * MS for i in range(draw(st.integers(0, 40)))]
        for step in draw(st.lists(steps, max_size=8)):
            times.append(times[-1] + step)
    values = numbers(len(times), len(spec.channels), seed=draw(st.integers(0, 9)))
    batches = []
    while sum(batches) < len(times):
        batches.append(draw(st.integers(1, 60)))
    return spec, values, times, batches


@given(runs(), st.booleans())
def test_any_split_gives_the_obvious_windows(run: Any, timed: bool) -> None:
    spec, values, times, batches = run
    obvious = Obvious(spec, timed)
    for time_ns, row in zip(times, values, strict=True):
        obvious.push(time_ns, [float(v) for v in row])
    builder = WindowBuilder(spec)
    found: list[Window] = []
    begin = 0
    for size in batches:
        part = slice(begin, begin + size)
        found += builder.push(readings(values[part], times[part], timed=timed))
        begin += size
    expect_same(found, obvious, builder.counts)
    assert builder.counts.readings == len(times)
    whole = WindowBuilder(spec)
    at_once = whole.push(readings(values, times, timed=timed))
    assert whole.counts == builder.counts
    assert whole.cadence == builder.cadence
    for one, other in zip(at_once, found, strict=True):
        assert (one.first_ns, one.last_ns, one.seq) == (other.first_ns, other.last_ns, other.seq)
        np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.parametrize("rate_hz", [None, 1000.0, 700.0, 20.0])
@pytest.mark.parametrize("batch", [1, 7, 100, PENDING, 5000])
def test_long_recordings_go_through_many_buffers(batch: int, rate_hz: float | None) -> None:
    spec = series(3, 50, 20, rate_hz=rate_hz, max_gap=30.0)
    values = numbers(7000, 3)
    times = np.cumsum(np.random.default_rng(1).integers(MS // 2, 2 * MS, 7000))
    obvious = Obvious(spec, True)
    for time_ns, row in zip(times.tolist(), values.tolist(), strict=True):
        obvious.push(time_ns, row)
    builder = WindowBuilder(spec)
    found = [
        w for i in range(0, 7000, batch) for w in builder.push(readings(values[i : i + batch], times[i : i + batch]))
    ]
    assert len(found) > 5
    expect_same(found, obvious, builder.counts)


# --- One thing at a time ---


def test_a_line_stays_a_line() -> None:
    spec = series(1, 5, 5, rate_hz=100.0)
    times = np.cumsum(np.random.default_rng(2).integers(2 * MS, 8 * MS, 100))
    values = (times / 1e9)[:, None].astype(np.float32)
    windows = WindowBuilder(spec).push(readings(values, times))
    assert len(windows) > 5
    for window in windows:
        at = np.linspace(window.first_ns, window.last_ns, 5) / 1e9
        np.testing.assert_allclose(window.values[:, 0], at, rtol=1e-6)
        assert window.last_ns - window.first_ns == 40 * MS


def test_no_window_spans_a_gap() -> None:
    spec = series(1, 4, 1, rate_hz=100.0, max_gap=5.0)
    times = [i * 10 * MS for i in range(7)] + [60 * MS + 50 * MS + 1 + i * 10 * MS for i in range(5)]
    builder = WindowBuilder(spec)
    windows = builder.push(readings(numbers(12, 1), times))
    assert [(w.first_ns, w.last_ns) for w in windows] == [
        *((i * 10 * MS, (i + 3) * 10 * MS) for i in range(4)),
        *((110 * MS + 1 + i * 10 * MS, 140 * MS + 1 + i * 10 * MS) for i in range(2)),
    ]
    assert builder.counts == WindowCounts(12, 6, gaps=1)
    # as far apart as may be is no gap, and is filled between its ends
    times[7:] = [t - 1 for t in times[7:]]
    builder = WindowBuilder(spec)
    assert len(builder.push(readings(numbers(12, 1), times))) == 13
    assert builder.counts.gaps == 0


def test_late_readings_are_left_out_and_counted() -> None:
    spec = series(1, 3, 3)
    values = np.arange(6, dtype=np.float32)[:, None]
    builder = WindowBuilder(spec)
    windows = builder.push(readings(values, [10, 20, 20, 15, 30, 40]))
    assert [w.values[:, 0].tolist() for w in windows] == [[0, 1, 4]]
    assert builder.counts == WindowCounts(6, 1, late=2)


def test_a_clock_that_is_set_back_begins_anew() -> None:
    spec = series(1, 3, 3, rate_hz=10.0)
    step = 100 * MS
    before, after = [i * step + 10**15 for i in range(5)], [i * step for i in range(4)]
    builder = WindowBuilder(spec)
    windows = builder.push(readings(np.arange(9, dtype=np.float32)[:, None], before + after))
    assert [w.values[:, 0].tolist() for w in windows] == [[0, 1, 2], [5, 6, 7]]
    assert builder.counts == WindowCounts(9, 2, clock_back=1)
    # within the bound, readings are late until the old time has come again
    builder = WindowBuilder(spec)
    back = [before[-1] - CLOCK_BACK_NS + i * step for i in range(12)]
    windows = builder.push(readings(np.arange(17, dtype=np.float32)[:, None], before + back))
    assert [w.values[:, 0].tolist() for w in windows] == [[0, 1, 2], [3, 4, 16]]
    assert builder.counts == WindowCounts(17, 2, late=11)


def test_times_at_the_ends_of_their_range() -> None:
    low, high = -(2**63), 2**63 - 1
    for rate_hz in (None, 100.0):
        builder = WindowBuilder(series(1, 2, 1, rate_hz=rate_hz))
        times = [high - 20 * MS, high - 10 * MS, high, low, low + 10 * MS, high - 10 * MS, high, *range(low, low + 20)]
        builder.push(readings(numbers(len(times), 1), times))
        assert builder.counts.clock_back == 2
        assert builder.counts.gaps == (1 if rate_hz else 0)


def test_readings_without_times_are_taken_as_evenly_spaced() -> None:
    spec = series(1, 4, 4, rate_hz=100.0, max_gap=5.0)
    values = np.arange(40, dtype=np.float32)[:, None]
    # a burst of ten each 100 ms, longer than max_gap: the source is silent while it collects the next
    arrivals = [burst * 100 * MS + i for burst in range(4) for i in range(10)]
    builder = WindowBuilder(spec)
    windows = builder.push(readings(values, arrivals, timed=False))
    assert [w.values[0, 0] for w in windows] == list(range(0, 40, 4))
    assert builder.counts == WindowCounts(40, 10)


def test_silence_is_a_gap_for_readings_without_times() -> None:
    spec = series(1, 20, 20, rate_hz=100.0, max_gap=5.0)
    for burst, quiet_ms, gaps in (
        (1, 60, 0),
        (1, 61, 1),
        (10, 150, 0),
        (10, 151, 1),
        (3000, 10050, 0),
        (3000, 10051, 1),
    ):
        times = [0] * burst + [quiet_ms * MS] * 3
        builder = WindowBuilder(spec)
        builder.push(readings(numbers(len(times), 1), times, timed=False))
        assert builder.counts.gaps == gaps, (burst, quiet_ms)


def test_another_kind_of_time_begins_anew() -> None:
    builder = WindowBuilder(series(1, 4, 4, rate_hz=100.0))
    assert builder.push(readings(numbers(3, 1), [0, 10 * MS, 20 * MS])) == []
    assert builder.push(readings(numbers(3, 1), [30 * MS, 40 * MS, 50 * MS], timed=False)) == []
    assert len(builder.push(readings(numbers(1, 1), [60 * MS], timed=False))) == 1
    assert builder.counts == WindowCounts(7, 1, gaps=1)


def test_a_reset_begins_anew_and_counts_go_on() -> None:
    builder = WindowBuilder(series(1, 4, 4, rate_hz=100.0))
    times = [i * 10 * MS for i in range(6)]
    assert len(builder.push(readings(numbers(6, 1), times))) == 1
    builder.reset()
    assert builder.cadence is None
    windows = builder.push(readings(numbers(4, 1, seed=1), times[:4]))
    assert [w.seq for w in windows] == [2]
    np.testing.assert_array_equal(windows[0].values, numbers(4, 1, seed=1))
    assert builder.counts == WindowCounts(10, 2)


def test_a_window_says_when_its_last_reading_had_come() -> None:
    builder = WindowBuilder(series(1, 2, 2, rate_hz=100.0))
    found = [
        builder.push(readings(numbers(1, 1), [time_ms * MS], arrived_ns=arrived))
        for time_ms, arrived in ((0, 100), (9, 200), (12, 300), (21, 400), (30, 500))
    ]
    assert [[w.captured_ns for w in windows] for windows in found] == [[], [], [300], [], [500]]


def test_windows_stay_as_they_were() -> None:
    builder = WindowBuilder(series(2, 8, 3))
    kept: list[tuple[Window, np.ndarray]] = []
    for i in range(0, 2000, 5):
        values = numbers(5, seed=i)
        for window in builder.push(readings(values, range(i, i + 5))):
            kept.append((window, window.values.copy()))
        values[...] = np.nan  # a source may use its buffer again
    assert len(kept) > 600
    for window, copy in kept:
        np.testing.assert_array_equal(window.values, copy)
        with pytest.raises(ValueError, match="read-only"):
            window.values[0, 0] = 1.0


def test_the_cadence_is_measured() -> None:
    spec = series(1, 4, 4, rate_hz=100.0, max_gap=10.0)
    builder = WindowBuilder(spec)
    assert builder.cadence is None
    builder.push(readings(numbers(1, 1), [0]))
    assert builder.cadence is None
    # every 10 ms, by turns 1 ms early and 1 ms late
    times = [i * 10 * MS + (i % 2) * 2 * MS for i in range(1, 3001)]
    for i in range(0, 3000, 50):
        builder.push(readings(numbers(50, 1), times[i : i + 50]))
    cadence = builder.cadence
    assert cadence is not None
    assert cadence.rate_hz == pytest.approx(100.0, rel=1e-3)
    assert cadence.jitter_ms in (
        pytest.approx(2.0),
        pytest.approx(math.sqrt(8.0)),
    )  # the median is 8 or 12 ms, or between
    builder.push(readings(numbers(2, 1), [10**12, 10**12 + 20 * MS]))
    assert builder.cadence is not None
    assert builder.cadence.rate_hz == pytest.approx(50.0)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(ReadingsError, match="expected 2 channels, found 3"):
        WindowBuilder(series(2)).push(readings(numbers(1, 3), [0]))


def test_a_whole_recording() -> None:
    values = numbers(11)
    windows = cut_windows(series(2, 4, 3, rate_hz=50.0), values)
    assert windows.dtype == np.float32
    np.testing.assert_array_equal(windows, np.stack([values[i : i + 4] for i in (0, 3, 6)]))
    times = np.arange(11) * 20 * MS
    np.testing.assert_array_equal(cut_windows(series(2, 4, 3, rate_hz=50.0), values, times), windows)
    assert len(cut_windows(series(2, 4, 4), values, times, stride=1)) == 8
    assert cut_windows(series(2, 12), values).shape == (0, 12, 2)
    values[3, 1] = np.inf
    with pytest.raises(ReadingsError, match="finite"):
        cut_windows(series(2), values)


# --- Into the tensor ---


def tensor(*shape: int, dtype: str = "float32", scale: float = 0.0, zero_point: int = 0) -> TensorSpec:
    return TensorSpec("in", shape, np.dtype(dtype), scale, zero_point)


SCALES = {"uint8": (0.037, 120), "int8": (0.05, -3), "int16": (1 / 2048, 0), "float32": (0.0, 0)}


@given(
    st.sampled_from(list(SCALES)),
    st.sampled_from(["time-channel", "channel-time"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_values_are_normalised_and_quantised(dtype: str, layout: Any, single: bool, seed: int) -> None:
    length, channels = 5, 3
    mean, std = ((2.5,), (3.0,)) if single else ((2.5, -1.0, 0.0), (3.0, 0.1, 40.0))
    spec = series(channels, length, layout=layout, mean=mean, std=std)
    values = numbers(length, channels, seed)
    scale, zero_point = SCALES[dtype]
    by_time = layout == "time-channel"
    for shape in ((1, length, channels), (1, length, channels, 1), (1, 1, length, channels), (1, length * channels)):
        if not by_time and len(shape) > 2:
            shape = tuple({length: channels, channels: length}.get(n, n) for n in shape)
        spec_in = tensor(*shape, dtype=dtype, scale=scale, zero_point=zero_point)
        out = spec_in.allocate()
        SeriesPreprocessor(spec, spec_in)(values, out)
        flat = out.reshape(-1)
        for t in range(length):
            for c in range(channels):
                real = (float(values[t, c]) - mean[c % len(mean)]) / std[c % len(std)]
                found = flat[t * channels + c if by_time else c * length + t]
                if dtype == "float32":
                    assert found == pytest.approx(real, rel=1e-6)
                else:
                    limits = np.iinfo(dtype)
                    assert found == min(max(round(real / scale) + zero_point, limits.min), limits.max)


def test_halves_go_to_the_even_and_far_values_saturate() -> None:
    spec = series(1, 6, mean=(0.0,), std=(1.0,))
    out = np.empty((1, 6, 1), np.int8)
    SeriesPreprocessor(spec, tensor(1, 6, 1, dtype="int8", scale=0.5))(
        np.array([[0.25], [0.75], [-0.25], [1.25], [1e30], [-1e30]], np.float32), out
    )
    assert out[0, :, 0].tolist() == [0, 2, 0, 2, 127, -128]


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 2, 4), "time-channel"),
        ((1, 4, 2), "channel-time"),
        ((2, 4, 2), "time-channel"),
        ((4, 2), "time-channel"),
        ((1, 9), "time-channel"),
        ((), "time-channel"),
    ],
)
def test_another_tensor_is_refused(shape: tuple[int, ...], layout: Any) -> None:
    with pytest.raises(ModelError, match=r"input tensor in: expected shape \[1, "):
        SeriesPreprocessor(series(2, 4, layout=layout), tensor(*shape))


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ModelError, match=r"expected dtype .* found float64"):
        SeriesPreprocessor(series(), tensor(1, 4, 2, dtype="float64"))


def test_another_window_or_buffer_is_refused() -> None:
    preprocess = SeriesPreprocessor(series(), tensor(1, 4, 2))
    out = np.empty((1, 4, 2), np.float32)
    with pytest.raises(ReadingsError, match=r"expected shape \(4, 2\), found \(5, 2\)"):
        preprocess(numbers(5), out)
    with pytest.raises(ReadingsError, match="finite"):
        preprocess(np.full((4, 2), np.nan, np.float32), out)
    for bad in (out.astype(np.float64), out[0], np.empty((1, 2, 4), np.float32).transpose(0, 2, 1)):
        with pytest.raises(ValueError, match="out must be"):
            preprocess(numbers(4), bad)
