"""Anomalies and values against arithmetic written again in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedette.contract.decode import make_decoder
from vedette.contract.errors import ModelError
from vedette.contract.manifest import AnomalyOutput, Channel, ImageInput, RegressOutput, SeriesInput
from vedette.contract.types import Anomaly, TensorSpec, Values

LENGTH, CHANNELS = 5, 3


def series(layout: Any = "time-channel") -> SeriesInput:
    names = tuple(Channel(name=f"c{i}") for i in range(CHANNELS))
    return SeriesInput(channels=names, length=LENGTH, stride=LENGTH, layout=layout)


def tensor(*shape: int, dtype: str = "float32", scale: float = 0.0, zero_point: int = 0) -> TensorSpec:
    return TensorSpec("t", shape, np.dtype(dtype), scale, zero_point)


def anomaly(output: AnomalyOutput, out: TensorSpec, source: TensorSpec, spec: Any = None, **options: Any) -> Any:
    return make_decoder(output, [out], CHANNELS, inputs=[source], input_spec=spec or series(), **options)


@given(
    st.sampled_from(["mse", "mae"]),
    st.sampled_from(["float32", "int8"]),
    st.sampled_from(["time-channel", "channel-time"]),
    st.booleans(),
    st.integers(0, 999),
)
def test_the_score_is_the_error_of_the_reconstruction(
    error: Any, dtype: str, layout: Any, flat: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    by_time = layout == "time-channel"
    shape = (1, LENGTH, CHANNELS) if by_time else (1, CHANNELS, LENGTH)
    if flat:
        shape = (1, LENGTH * CHANNELS)
    quantised = dtype == "int8"
    source = tensor(*shape, dtype=dtype, scale=0.05 if quantised else 0.0, zero_point=-7 if quantised else 0)
    out = tensor(*shape, dtype=dtype, scale=0.07 if quantised else 0.0, zero_point=5 if quantised else 0)
    draw = (lambda: rng.integers(-128, 128, shape).astype(np.int8)) if quantised else (
        lambda: rng.normal(0, 2, shape).astype(np.float32)
    )  # fmt: skip
    taken, given_back = draw(), draw()
    found = anomaly(AnomalyOutput(error=error, threshold=2.5), out, source, series(layout))([given_back], [taken])
    assert isinstance(found, Anomaly)
    per_channel = []
    for c in range(CHANNELS):
        offs = []
        for t in range(LENGTH):
            at = t * CHANNELS + c if by_time else c * LENGTH + t
            a, b = float(taken.reshape(-1)[at]), float(given_back.reshape(-1)[at])
            if quantised:
                a, b = (a + 7) * 0.05, (b - 5) * 0.07
            offs.append((a - b) ** 2 if error == "mse" else abs(a - b))
        per_channel.append(sum(offs) / LENGTH)
    assert found.errors.tolist() == pytest.approx(per_channel, rel=1e-5)
    assert found.score == pytest.approx(sum(per_channel) / CHANNELS, rel=1e-5)
    assert found.threshold == 2.5
    assert found.anomalous == (found.score > 2.5)


def test_a_threshold_can_take_the_place_of_the_manifests() -> None:
    flat = tensor(1, LENGTH * CHANNELS)
    decode = anomaly(AnomalyOutput(threshold=2.0), flat, flat, score_threshold=0.5)
    found = decode([np.ones(flat.shape, np.float32)], [np.zeros(flat.shape, np.float32)])
    assert (found.score, found.threshold, found.anomalous) == (1.0, 0.5, True)
    with pytest.raises(ModelError, match="expected a number above 0, found 0"):
        anomaly(AnomalyOutput(threshold=2.0), flat, flat, score_threshold=0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_what_overflows_in_the_network_is_an_anomaly(bad: float) -> None:
    flat = tensor(1, LENGTH * CHANNELS)
    out = np.zeros(flat.shape, np.float32)
    out[0, 4] = bad
    found = anomaly(AnomalyOutput(threshold=1e12), flat, flat)([out], [np.zeros(flat.shape, np.float32)])
    assert found.anomalous
    assert np.isfinite(found.score) and np.isfinite(found.errors).all()
    assert np.flatnonzero(found.errors).tolist() == [1]


def test_pictures_can_be_reconstructed_too() -> None:
    pixels = tensor(1, 4, 6, 3)
    decode = make_decoder(
        AnomalyOutput(threshold=1.0), [pixels], 3, inputs=[pixels], input_spec=ImageInput(height=4, width=6)
    )
    out = np.zeros(pixels.shape, np.float32)
    out[..., 2] = 3.0
    found = decode([out], [np.zeros(pixels.shape, np.float32)])
    assert isinstance(found, Anomaly)
    assert found.errors.tolist() == [0.0, 0.0, 9.0]


def test_tensors_that_do_not_fit_an_anomaly() -> None:
    right, output = tensor(1, LENGTH, CHANNELS), AnomalyOutput(threshold=1.0)
    with pytest.raises(ModelError, match=r"output.reconstruction: tensor t: expected as many values as the input"):
        anomaly(output, tensor(1, LENGTH, CHANNELS + 1), right)
    with pytest.raises(ModelError, match="expected as many values as the input, 3 channels"):
        anomaly(output, tensor(1, 7), tensor(1, 7))
    with pytest.raises(ModelError, match=r"output\.reconstruction: expected an output tensor from 0 to 0, found 1"):
        anomaly(AnomalyOutput(reconstruction=1, threshold=1.0), right, right)
    with pytest.raises(ModelError, match="one input tensor"):
        make_decoder(output, [right], CHANNELS, inputs=[right, right], input_spec=series())
    with pytest.raises(ModelError, match="expected 3 labels, one a channel, found 4"):
        make_decoder(output, [right], 4, inputs=[right], input_spec=series())
    with pytest.raises(ValueError, match="input_spec"):
        make_decoder(output, [right], CHANNELS)
    with pytest.raises(ValueError, match="inputs must hold"):
        anomaly(output, right, right)([right.allocate()])


def quantities(*names: str) -> tuple[Channel, ...]:
    return tuple(Channel(name=name) for name in names)


def test_values_are_scaled() -> None:
    output = RegressOutput(quantities=quantities("a", "b"), scale=(2.0, -10.0), offset=(0.5, 100.0), values=1)
    decode = make_decoder(output, [tensor(1, 9), tensor(1, 2, dtype="int8", scale=0.5, zero_point=10)], 2)
    found = decode([np.zeros((1, 9), np.float32), np.array([[14, -10]], np.int8)])
    assert isinstance(found, Values)
    assert found.values.dtype == np.float32
    assert found.values.tolist() == [2.0 * 2.0 + 0.5, -10.0 * -10.0 + 100.0]
    one = RegressOutput(quantities=quantities("a", "b"), scale=(3.0,), offset=(1.0,))
    assert make_decoder(one, [tensor(1, 2)], 2)([np.array([[1.0, 2.0]], np.float32)]).values.tolist() == [4.0, 7.0]


def test_tensors_that_do_not_fit_values() -> None:
    output = RegressOutput(quantities=quantities("a", "b"))
    with pytest.raises(ModelError, match=r"output.values: tensor t: expected shape \[1, 2\], found \[1, 3\]"):
        make_decoder(output, [tensor(1, 3)], 2)
    with pytest.raises(ModelError, match="expected 2 labels, one a value, found 3"):
        make_decoder(output, [tensor(1, 2)], 3)
