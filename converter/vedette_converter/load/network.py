"""A float network with fixed shapes, as every loader hands it on."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vedette.contract.types import Tensor, TensorSpec
from vedette.engine import TfliteEngine, load_runtime

from ..tensorflow import load_tensorflow


@dataclass(frozen=True, slots=True)
class Network:
    """Batch 1, float32 inputs and outputs, in the order in which they were asked for."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    function: Any
    """A TensorFlow ``ConcreteFunction`` over one positional tensor an input, without variables of its own."""
    model: Any = None
    """The Keras 3 functional model, where there is one: what can be trained and whose channels can be pruned."""
    flatbuffer: bytes | None = None
    """The network as a float32 TFLite flatbuffer, where it came as one; ``function`` is None then."""

    @property
    def input(self) -> TensorSpec:
        """The only input. Raises `ValueError` where there are several."""
        (spec,) = self.inputs
        return spec

    def run(self, *samples: Tensor) -> list[Tensor]:
        """The outputs for one tensor an input, float32: the reference.

        By TensorFlow itself; by the TFLite interpreter for a network that came as a flatbuffer.
        """
        if self.flatbuffer is not None:
            engine = _engine(self.flatbuffer)
            inputs, outputs = engine.allocate()
            for buffer, sample in zip(inputs, samples, strict=True):
                np.copyto(buffer, sample)
            engine.invoke(inputs, outputs)
            return outputs
        tensorflow = load_tensorflow()
        results: Sequence[Any] = self.function(*(tensorflow.constant(np.asarray(s, np.float32)) for s in samples))
        return [np.asarray(result.numpy()) for result in results]


@functools.lru_cache(maxsize=2)
def _engine(flatbuffer: bytes) -> TfliteEngine:
    with tempfile.NamedTemporaryFile(prefix="vedette-", suffix=".tflite") as file:  # mapped, so it may go afterwards
        file.write(flatbuffer)
        file.flush()
        return TfliteEngine(Path(file.name), load_runtime())
