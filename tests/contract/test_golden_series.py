"""Golden vectors of windows: what is in them, what is refused, and how results are judged."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vedette.contract import golden
from vedette.contract.errors import BundleError
from vedette.contract.golden import Golden, from_windows
from vedette.contract.manifest import Tolerance
from vedette.contract.types import Anomaly, Classes, Poses, Result, Values
from vedette.contract.verdict import judge

EMPTY = np.empty(0, np.float32)


def anomaly(score: float, threshold: float = 1.0) -> Anomaly:
    return Anomaly(score, threshold, EMPTY)


def values(*numbers: float) -> Values:
    return Values(np.array(numbers, np.float32))


def classes(class_id: int, score: float) -> Classes:
    return Classes(np.array([score], np.float32), np.array([class_id], np.int32))


def vectors(*results: Result, **options: Any) -> Golden:
    return from_windows(
        np.arange(len(results) * 8, dtype=np.int8).reshape(-1, 4, 2), results, [np.zeros((1, 4), np.int8)],
        np.ones((9, 2), np.float32), np.arange(9) * 1000, np.zeros((4, 2), np.int8), **options,
    )  # fmt: skip


KINDS: dict[str, Golden] = {
    "classes": vectors(classes(1, 0.9), classes(2, 0.8)),
    "anomaly": vectors(anomaly(0.2), anomaly(3.5), anomaly(1.0)),
    "values": vectors(values(1.0, 20.0), values(2.0, -3.0), value_scale=np.array([1.0, 10.0], np.float32)),
}


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **{name: array for name, array in arrays.items() if array is not None})
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_again(kind: str) -> None:
    data = golden.encode(KINDS[kind])
    assert data == golden.encode(KINDS[kind])
    again = golden.decode(data, "golden.npz")
    for name in Golden.__dataclass_fields__:
        one, other = getattr(KINDS[kind], name), getattr(again, name)
        if name == "raw":
            np.testing.assert_array_equal(one[0], other[0])
        else:
            assert (one is None) == (other is None), name
            np.testing.assert_array_equal(one, other)
    assert again.picture is None and again.recording is not None
    for index in range(len(again.inputs)):
        assert type(again.reference(index)) is type(KINDS[kind].reference(index))


def test_references_come_back() -> None:
    found = KINDS["anomaly"].reference(1)
    assert isinstance(found, Anomaly) and (found.score, found.threshold, found.anomalous) == (3.5, 1.0, True)
    assert KINDS["anomaly"].class_ids.tolist() == [0, 1, 0]
    estimated = KINDS["values"].reference(1)
    assert isinstance(estimated, Values) and estimated.values.tolist() == [2.0, -3.0]


@pytest.mark.parametrize(
    ("kind", "changes", "problem"),
    [
        ("classes", {"recording": None}, "expected a picture and its tensor, or a recording"),
        ("classes", {"recording_times_ns": None}, "recording_times_ns beside it"),
        ("classes", {"recording_times_ns": np.arange(8)}, "recording_times_ns: expected shape"),
        ("classes", {"recording_times_ns": np.arange(9.0)}, "recording_times_ns: expected shape"),
        ("classes", {"window_tensor": None}, "window_tensor: expected the shape and dtype of one input"),
        ("classes", {"window_tensor": np.zeros((2, 4), np.int8)}, "window_tensor: expected the shape"),
        ("classes", {"recording": np.full((9, 2), np.nan, np.float32)}, "recording: expected finite"),
        ("classes", {"recording": np.ones(9, np.float32)}, "recording: expected shape"),
        ("classes", {"picture": np.zeros((8, 8, 3), np.uint8)}, "expected a picture and its tensor, or a recording"),
        ("classes", {"picture_tensor": np.zeros((4, 2), np.int8)}, "expected a picture and its tensor, or a recording"),
        ("classes", {"threshold": np.array(0.5, np.float32)}, "class_ids: expected 1 where"),
        ("anomaly", {"threshold": np.array([1.0], np.float32)}, "threshold: expected shape"),
        ("anomaly", {"threshold": np.array(0.0, np.float32)}, "threshold: expected numbers above 0"),
        ("anomaly", {"threshold": np.array(np.nan, np.float32)}, "threshold: expected finite"),
        ("anomaly", {"threshold": np.array("x")}, "threshold: expected shape"),
        ("anomaly", {"offsets": np.array([0, 2, 2, 3], np.int32)}, "one row an input"),
        ("anomaly", {"class_ids": np.array([0, 2, 0], np.int32)}, "class_ids: expected 1 where"),
        ("anomaly", {"values": np.zeros((3, 1), np.float32)}, "values and value_scale: expected both"),
        ("values", {"value_scale": None}, "values and value_scale: expected both"),
        ("values", {"value_scale": np.array([1.0, 0.0], np.float32)}, "value_scale: expected numbers above 0"),
        ("values", {"value_scale": np.array([1.0], np.float32)}, "value_scale: expected shape"),
        ("values", {"values": np.zeros((3, 2), np.float32)}, "values: expected shape"),
        ("values", {"values": np.full((2, 2), np.inf, np.float32)}, "values: expected finite"),
        ("values", {"surprise": np.zeros(1)}, "surprise"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, changes: dict[str, Any], problem: str) -> None:
    arrays = {name: getattr(KINDS[kind], name) for name in Golden.__dataclass_fields__ if name != "raw"}
    with pytest.raises(BundleError, match="bad golden vectors") as caught:
        golden.decode(npz(**{**arrays, **changes}), "golden.npz")
    assert problem in caught.value.found


def test_results_of_several_thresholds_are_none_of_one_network() -> None:
    with pytest.raises(ValueError, match="one threshold"):
        vectors(anomaly(0.5), anomaly(0.5, threshold=2.0))


def test_results_of_several_kinds_or_of_none_are_refused() -> None:
    with pytest.raises(ValueError, match="all of one kind"):
        vectors(anomaly(0.5), classes(1, 0.9))
    poses = Poses(np.ones(1, np.float32), np.zeros((1, 2, 3), np.float32))
    with pytest.raises(ValueError, match="golden vectors hold no Poses"):
        vectors(poses)


def test_anomalies_are_judged_by_their_side() -> None:
    reference = vectors(*(anomaly(s) for s in (0.2, 0.949, 0.96, 1.04, 1.06, 10.0)))
    good = judge(reference, [anomaly(s) for s in (0.2, 0.949, 1.04, 0.96, 1.06, 10.0)])
    assert (good.judged, good.agreement) == (4, 1.0)  # two are too near to the threshold
    assert good.mean_score_error == pytest.approx((0.08 / 1.0 + 0.08 / 1.04) / 6, rel=1e-4)
    bad = judge(reference, [anomaly(s) for s in (1.1, 0.9, 0.9, 0.9, 0.9, 12.0)])
    assert (bad.judged, bad.agreement) == (4, 0.5)
    # each by its own threshold
    moved = judge(reference, [anomaly(2 * s, threshold=2.0) for s in (0.2, 0.949, 1.04, 0.96, 1.06, 10.0)])
    assert moved.agreement == 1.0


def test_values_are_judged_by_their_scale() -> None:
    reference = KINDS["values"]
    good = judge(reference, [values(1.05, 20.9), values(2.0, -3.0)])
    assert (good.judged, good.agreement) == (4, 1.0)
    assert good.mean_score_error == pytest.approx((0.05 + 0.09) / 4, rel=1e-4)
    bad = judge(reference, [values(1.2, 20.0), values(2.0, 7.0)])
    assert (bad.judged, bad.agreement) == (4, 0.5)
    assert bad.mean_score_error == pytest.approx((0.2 + 1.0) / 4, rel=1e-4)
    lost = judge(reference, [values(np.nan, 20.0), values(2.0, -3.0)])
    assert lost.agreement == 0.75
    assert not lost.holds(Tolerance(min_agreement=0.0, max_mean_score_error=1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_result_is_not_found_again(kind: str) -> None:
    reference = KINDS[kind]
    other: Result = values(1.0) if kind == "anomaly" else anomaly(0.1)
    verdict = judge(reference, [other] * len(reference.inputs))
    assert verdict.judged > 0
    assert verdict.agreement == 0.0


def test_vectors_of_pictures_are_as_they_were() -> None:
    old = golden.from_results(
        np.zeros((1, 4, 4, 3), np.uint8), [classes(1, 0.9)], [], np.zeros((8, 8, 3), np.uint8),
        np.zeros((4, 4, 3), np.uint8),
    )  # fmt: skip
    with np.load(io.BytesIO(golden.encode(old))) as arrays:
        assert set(arrays.files) == {
            "inputs", "offsets", "boxes", "scores", "class_ids", "picture", "picture_tensor",
        }  # fmt: skip
    with pytest.raises(ValueError, match="expected a picture and its tensor"):
        replace(old, picture=None)
