"""What is said of calibration samples that do not look like the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vedette.contract.manifest import ImageInput
from vedette.contract.types import TensorSpec
from vedette_converter.quantise import Peaks, calibration_findings, limits_of

LIMITS = (-1.0, 1.0)


def noise(count: int, low: float = -1.0, high: float = 1.0) -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.uniform(low, high, (1, 8, 8, 3)).astype(np.float32) for _ in range(count)]


def with_nan() -> list[Any]:
    made = noise(40)
    made[3][0, 0, 0, 0] = np.nan
    made[7][0, 0, 0, 0] = np.inf
    return made


def test_parts_of_an_output_that_others_drown_are_named() -> None:
    """A YOLO's boxes in pixels and its scores, in one tensor: (1, numbers, candidates)."""
    numbers = np.zeros((1, 6, 40), np.float32)
    numbers[0, :4], numbers[0, 4:] = 320, 0.9
    alone = np.full((1, 40, 2), 0.9, np.float32)
    f32, int8 = np.dtype(np.float32), np.dtype(np.int8)
    peaks = Peaks(
        [TensorSpec("all", numbers.shape, f32), TensorSpec("alone", alone.shape, f32), TensorSpec("n", (1, 5), f32)]
    )
    for share in (0.1, 1.0, -0.5):
        peaks.add([numbers * share, alone * share, np.ones((1, 5), np.float32)])
    coarse, fine = (
        TensorSpec("all", numbers.shape, int8, 1.25, -128),
        TensorSpec("alone", alone.shape, int8, 1 / 256, -128),
    )
    last = TensorSpec("n", (1, 5), int8, 9.0, 0)
    (found,) = peaks.findings([coarse, fine, last])
    assert found.startswith("output all: 2 of the 6 along axis 1 never exceed its step of 1.2")
    assert peaks.findings([TensorSpec(spec.name, spec.shape, f32) for spec in (coarse, fine, last)]) == []


def test_good_samples_are_passed_over_in_silence() -> None:
    assert calibration_findings(iter(noise(40)), [LIMITS]) == []


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], "no calibration samples"),
        (noise(5), "5 calibration samples are few: activations' ranges need 32 or more"),
        (noise(1) * 40, "all 40 calibration samples are the same"),
        (noise(10) * 4, "of 40 calibration samples only 10 differ"),
        (
            [*noise(30), *(np.full((1, 8, 8, 3), v, np.float32) for v in np.linspace(-1, 1, 10))],
            "10 of 40 calibration samples are constant: they show the network nothing",
        ),
        (noise(40, -0.2, 0.2), "the calibration samples reach -0.1999"),
        (
            noise(40, 0.0, 255.0),
            "40 of 40 calibration samples have values outside -1 to 1, which is all that the input",
        ),
        (with_nan(), "2 of 40 calibration samples have values that are NaN or infinite"),
    ],
)
def test_each_thing_that_looks_wrong_is_one_line(samples: list[Any], expected: str) -> None:
    findings = calibration_findings(samples, [LIMITS])
    assert len(findings) == 1
    assert findings[0].startswith(expected)
    assert "\n" not in findings[0]


def test_rounding_at_the_ends_is_no_finding() -> None:
    made = noise(40)
    made[0][0, 0, 0, 0] = np.nextafter(np.float32(1), np.float32(2))
    assert calibration_findings(made, [LIMITS]) == []


def test_inputs_are_told_apart_and_one_without_limits_is_not_judged_by_any() -> None:
    pairs = [(a, 1000 * b) for a, b in zip(noise(40), noise(40, 5, 6), strict=True)]
    assert calibration_findings(pairs, [LIMITS, None]) == []
    found = calibration_findings([(b, a) for a, b in pairs], [LIMITS, LIMITS])
    assert len(found) == 1
    assert found[0].startswith("input 0: 40 of 40 calibration samples have values outside")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ImageInput(height=8, width=8, mean=(127.5,), std=(127.5,)), (-1.0, 1.0)),
        (ImageInput(height=8, width=8), (0.0, 255.0)),
        (ImageInput(height=8, width=8, mean=(0.0, 100.0, 51.0), std=(255.0,)), (-100 / 255, 1.0)),
        (ImageInput(height=8, width=8, mean=(51.0,), std=(102.0, 51.0, 204.0)), (-1.0, 4.0)),
    ],
)
def test_limits_are_what_the_preprocessing_can_give(spec: ImageInput, expected: tuple[float, float]) -> None:
    assert limits_of(spec) == pytest.approx(expected)
