"""What a network is calibrated with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from vedette.contract.types import Float32Array

Sample: TypeAlias = Float32Array | tuple[Float32Array, ...]
"""One float32 tensor an input of the network, of its shape, batch 1 included; a bare array where there is one input."""
Samples: TypeAlias = Callable[[], Iterator[Sample]]
"""Begins anew with each call: calibration goes over the samples more than once."""


def tensors(sample: Sample) -> tuple[Float32Array, ...]:
    """The sample's tensors, one an input."""
    return sample if isinstance(sample, tuple) else (sample,)
