"""An autoencoder: how far its reconstruction is from its input, over the whole window and for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np

from ..errors import ModelError
from ..manifest import AnomalyOutput
from ..types import Anomaly, Tensor, TensorSpec
from ._tensors import pick

FARTHEST: Final = float(np.finfo(np.float32).max)


class AnomalyDecoder:
    """See the module."""

    def __init__(
        self,
        spec: AnomalyOutput,
        tensors: Sequence[TensorSpec],
        inputs: Sequence[TensorSpec],
        *,
        channels: int,
        channels_last: bool,
        threshold: float,
    ) -> None:
        """``channels_last``: whether the channels of one moment lie side by side, as (..., channels)."""
        self._output = pick(tensors, spec.reconstruction, "reconstruction")
        if len(inputs) != 1:
            raise ModelError("network", expected="one input tensor, for its reconstruction", found=str(len(inputs)))
        self._input = inputs[0]
        size = prod(self._input.shape)
        if prod(self._output.shape) != size or size % channels:
            raise ModelError(
                f"output.reconstruction: tensor {self._output.name}",
                expected=f"as many values as the input, {channels} channels of them: {self._input}",
                found=str(self._output),
            )
        if not threshold > 0:
            raise ModelError("output.threshold", expected="a number above 0", found=f"{threshold:g}")
        self._index = spec.reconstruction
        self._shape = (-1, channels) if channels_last else (channels, -1)
        self._axis = 0 if channels_last else 1
        self._squared = spec.error == "mse"
        self._threshold = threshold
        self.classes = channels

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Anomaly:
        """The score of the window that ``inputs`` holds, raw as the network took it."""
        if len(inputs) != 1:
            raise ValueError(f"inputs must hold the one input tensor, but got {len(inputs)}")
        reconstruction = self._output.to_real(outputs[self._index]).reshape(self._shape)
        with np.errstate(over="ignore", invalid="ignore"):
            off = reconstruction - self._input.to_real(inputs[0]).reshape(self._shape)
            off = np.square(off) if self._squared else np.abs(off)
        # an overflow inside the network is as far off as can be; NaN would be above no threshold
        errors = np.nan_to_num(off.mean(axis=self._axis, dtype=np.float64), nan=FARTHEST, posinf=FARTHEST)
        np.minimum(errors, FARTHEST, out=errors)
        return Anomaly(float(errors.mean()), self._threshold, errors.astype(np.float32))
