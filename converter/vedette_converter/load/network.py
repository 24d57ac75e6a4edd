"""A float network with fixed shapes, as every loader hands it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vedette.contract.types import Tensor, TensorSpec

from ..tensorflow import load_tensorflow


@dataclass(frozen=True, slots=True)
class Network:
    """One input, batch 1, float32; any number of outputs, in the order in which they were asked for."""

    function: Any
    """A TensorFlow ``ConcreteFunction`` over one positional tensor, without variables of its own."""
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]

    def run(self, sample: Tensor) -> list[Tensor]:
        """The outputs for one input of `input`'s shape, float32, by TensorFlow itself: the reference."""
        tensorflow = load_tensorflow()
        results: Sequence[Any] = self.function(tensorflow.constant(np.asarray(sample, np.float32)))
        return [np.asarray(result.numpy()) for result in results]
