"""Histograms: OpenTelemetry's own mapping as the reference, and what merging must keep."""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.logarithm_mapping import LogarithmMapping

from vedette.flow.stats import EMPTY, SCALE, STAGES, Buckets, Histogram, Latency, PipelineStats, merge_all, percentile

LOW, HIGH = 1e-3, 1e6  # milliseconds; what lies below is zero, what lies above falls into the last bucket
WIDTH = 0.022  # how far a quantile may be from the exact one

values = st.lists(st.floats(LOW, HIGH), min_size=1, max_size=200)


def record(samples: Sequence[float]) -> Latency:
    histogram = Histogram()
    for sample in samples:
        histogram.record(sample)
    return histogram.take()


def buckets(latency: Latency) -> dict[int, int]:
    histogram = latency.histogram
    return {histogram.offset + k: count for k, count in enumerate(histogram.counts) if count}


@given(st.floats(LOW * 1.01, HIGH * 0.99))
def test_each_value_falls_into_the_bucket_of_opentelemetrys_mapping(value: float) -> None:
    [index] = buckets(record([value]))
    expected = LogarithmMapping(SCALE).map_to_index(value)
    # on a bucket's very edge two roundings may differ
    edge = math.log2(value) * 2**SCALE
    assert index == expected or (abs(edge - round(edge)) < 1e-10 and abs(index - expected) == 1)


@pytest.mark.parametrize("exponent", range(-9, 20))
def test_powers_of_two_are_upper_bounds_of_their_bucket(exponent: int) -> None:
    value = 2.0**exponent
    assert list(buckets(record([value]))) == [exponent * 2**SCALE - 1]
    assert LogarithmMapping(SCALE).map_to_index(value) == exponent * 2**SCALE - 1


@given(st.floats(LOW * 1.01, HIGH * 0.99))
def test_the_bucket_holds_its_value(value: float) -> None:
    [index] = buckets(record([value]))
    base = 2 ** (2**-SCALE)
    assert base**index * (1 - 1e-12) <= value <= base ** (index + 1) * (1 + 1e-12)


@given(values)
@example([8.0, 8.0, 8.0])
def test_count_mean_and_max_are_exact(samples: list[float]) -> None:
    latency = record(samples)
    assert latency.count == len(samples) == latency.histogram.zero_count + sum(latency.histogram.counts)
    assert latency.mean == pytest.approx(math.fsum(samples) / len(samples), abs=1e-4, rel=1e-9)
    assert latency.max == pytest.approx(max(samples), abs=5e-5)


@given(values, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@example([2.0**-7], 0.5)  # the end of a bucket, where rounding adds the most
def test_quantiles_are_within_their_promise_of_the_exact_nearest_rank(samples: list[float], q: float) -> None:
    latency = record(samples)
    exact = percentile(samples, q)
    read = {0.5: latency.p50, 0.9: latency.p90, 0.95: latency.p95, 0.99: latency.p99}[q]
    assert abs(read - exact) <= WIDTH * exact + 5e-5  # and rounded to 0.1 us on top


@given(values, st.lists(st.integers(0, 200), max_size=4))
def test_merged_parts_are_the_histogram_of_all(samples: list[float], cuts: list[int]) -> None:
    edges = [0, *sorted(min(c, len(samples)) for c in cuts), len(samples)]
    parts = [record(samples[a:b]) for a, b in itertools.pairwise(edges)]
    merged, whole = merge_all(parts), record(samples)
    assert buckets(merged) == buckets(whole)
    assert merged.histogram.zero_count == whole.histogram.zero_count
    assert (merged.count, merged.max) == (whole.count, whole.max)
    assert merged.mean == pytest.approx(whole.mean, abs=1e-3, rel=1e-9)
    assert (merged.p50, merged.p90, merged.p95, merged.p99) == (whole.p50, whole.p90, whole.p95, whole.p99)


def at_scale(samples: Sequence[float], scale: int) -> Buckets:
    """The reference's histogram at any scale."""
    counts = Counter(LogarithmMapping(scale).map_to_index(sample) for sample in samples)
    low, high = min(counts), max(counts)
    return Buckets(scale, 0, low, [counts[k] for k in range(low, high + 1)])


def content(histogram: Buckets) -> dict[int, int]:
    return {histogram.offset + k: n for k, n in enumerate(histogram.counts) if n}


@given(values, values, st.integers(1, 8), st.integers(1, 8))
def test_different_scales_meet_at_the_coarser_one(a: list[float], b: list[float], one: int, other: int) -> None:
    merged = at_scale(a, one).merge(at_scale(b, other))
    assert merged.scale == min(one, other)
    assert content(merged) == content(at_scale([*a, *b], min(one, other)))


@given(values, values, values)
def test_merging_is_associative_and_commutative(a: list[float], b: list[float], c: list[float]) -> None:
    x, y, z = at_scale(a, 4), at_scale(b, 3), at_scale(c, 5)
    assert content(x.merge(y).merge(z)) == content(x.merge(y.merge(z))) == content(z.merge(y).merge(x))


def test_nothing_recorded_is_nothing() -> None:
    empty = Histogram().take()
    assert (empty.count, empty.mean, empty.p99, empty.max, empty.histogram.counts) == (0, 0.0, 0.0, 0.0, [])
    assert EMPTY.merge(empty).count == 0
    one = record([5.0])
    assert EMPTY.merge(one) == one.merge(EMPTY) == one


def test_under_a_microsecond_is_zero_and_beyond_the_range_is_the_last_bucket() -> None:
    latency = record([0.0, 0.0005, 1e9])
    assert latency.histogram.zero_count == 2
    assert latency.max == 1e9
    assert sum(latency.histogram.counts) == 1
    assert latency.p50 == 0.0


def test_taking_begins_anew() -> None:
    histogram = Histogram()
    histogram.record(3.0)
    assert histogram.take().count == 1
    assert histogram.take().count == 0


def test_a_quantile_is_never_above_the_maximum() -> None:
    assert record([10.0]).p99 == 10.0


def test_intervals_of_a_pipeline_add_up() -> None:
    stats = PipelineStats(0)
    for number in range(10):
        stats.inferred(dict.fromkeys(("capture", "queue", "preprocess", "infer", "decode", "total"), 1.0 + number))
    stats.sent(6.0)
    stats.acknowledged(7.0)
    stats.drop("rate_cap", 3)
    stats.drop("rate_cap")
    stats.drop("unfit_frame", 0)
    interval = stats.take(2_000_000_000, 25)
    assert (interval.seconds, interval.frames_in, interval.inferred) == (2.0, 25, 10)
    assert list(interval.stages) == list(STAGES)
    assert interval.stages["infer"].count == 10
    assert (interval.stages["sent"].max, interval.stages["acknowledged"].max) == (6.0, 7.0)
    after = stats.take(3_000_000_000, 30)
    assert (after.seconds, after.frames_in, after.inferred) == (1.0, 5, 0)
    assert after.stages["infer"].count == 0
    assert stats.dropped() == {"rate_cap": 4}, "what was dropped counts since the start"


def test_threads_that_record_lose_nothing() -> None:
    stats = PipelineStats(0)
    threads = [threading.Thread(target=lambda: [stats.acknowledged(1.0) for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    taken = 0
    while any(thread.is_alive() for thread in threads):
        taken += stats.take(1, 0).stages["acknowledged"].count
    for thread in threads:
        thread.join()
    taken += stats.take(2, 0).stages["acknowledged"].count
    assert taken == 8000


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1.0), (0.2, 1.0), (0.21, 2.0), (0.5, 3.0), (0.99, 5.0), (1.0, 5.0)])
def test_percentile_is_nearest_rank(q: float, expected: float) -> None:
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], q) == expected
