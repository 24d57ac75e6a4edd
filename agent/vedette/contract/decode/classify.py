"""Classification: one score a class, the best ``top_k`` of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ModelError
from ..manifest import ClassifyOutput
from ..types import Classes, Tensor, TensorSpec
from ._tensors import expect_shape, pick, sigmoid


class ClassifyDecoder:
    """See the module."""

    def __init__(self, spec: ClassifyOutput, tensors: Sequence[TensorSpec], score_threshold: float) -> None:
        self._tensor = pick(tensors, spec.scores, "scores")
        expect_shape(self._tensor, "scores", (1, None))
        if spec.activation == "softmax" and self._tensor.shape[1] == 1:
            raise ModelError(
                "output.activation",
                expected='"sigmoid", or "none": a softmax of one number is always 1',
                found='"softmax"',
            )
        self._index = spec.scores
        self._activation = spec.activation
        self._top_k = min(spec.top_k, self._tensor.shape[1])
        self._threshold = score_threshold
        self.no_score: float | None = None
        """Of what the network said last, the number furthest outside 0..1, where it was taken for a score as it is and no
        rounding explains it; None for none."""

    @property
    def classes(self) -> int:
        """How many classes the network tells apart."""
        return self._tensor.shape[1]

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Classes:
        """The best classes, best first; equal scores in the order of their ids."""
        scores = self._tensor.to_real(outputs[self._index].reshape(-1))
        if self._activation == "softmax":
            with np.errstate(over="ignore", invalid="ignore"):  # infinity less itself: NaN, which passes no threshold
                exp = np.exp(scores - scores.max())
            scores = exp / exp.sum()
        elif self._activation == "sigmoid":
            scores = sigmoid(scores)
        else:
            # minus infinity is what cannot be
            low, high = float(scores.min(where=scores > -np.inf, initial=0.0)), float(scores.max())
            furthest = high if high - 1.0 > -low else low
            self.no_score = furthest if abs(furthest - 0.5) > 1.0 else None
        best = np.argsort(-scores, kind="stable")[: self._top_k]
        best = best[scores[best] >= self._threshold]
        return Classes(scores[best].astype(np.float32), best.astype(np.int32))
