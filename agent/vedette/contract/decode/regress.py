"""Regression: numbers, each in the unit that the manifest states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..manifest import RegressOutput
from ..types import Tensor, TensorSpec, Values
from ._tensors import expect_shape, pick


class RegressDecoder:
    """See the module."""

    def __init__(self, spec: RegressOutput, tensors: Sequence[TensorSpec]) -> None:
        self.classes = len(spec.quantities)
        self._tensor = pick(tensors, spec.values, "values")
        expect_shape(self._tensor, "values", (1, self.classes))
        self._index = spec.values
        self._scale = np.asarray(spec.scale, np.float64)
        self._offset = np.asarray(spec.offset, np.float64)

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Values:
        """The values, in the manifest's order."""
        real = self._tensor.to_real(outputs[self._index].reshape(-1)).astype(np.float64)
        return Values((real * self._scale + self._offset).astype(np.float32))
