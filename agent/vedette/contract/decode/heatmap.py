"""Key points as heatmaps: the highest cell of each point's map, and by the offsets where in it.

Papandreou et al., arXiv 1701.01779, section 3.1, for one person; PoseNet's single-person decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..manifest import HeatmapOutput
from ..types import Float32Array, Poses, Tensor, TensorSpec
from ._tensors import MAX_COORDINATE, expect_shape, pick, picture_sides, to_score


class HeatmapDecoder:
    """See the module."""

    def __init__(
        self,
        spec: HeatmapOutput,
        tensors: Sequence[TensorSpec],
        score_threshold: float,
        *,
        inputs: Sequence[TensorSpec] = (),
    ) -> None:
        """``inputs``: the network's, whose sides the offsets are measured in."""
        self._spec = spec
        self._tensor = pick(tensors, spec.heatmaps, "heatmaps")
        expect_shape(self._tensor, "heatmaps", (1, None, None, None))
        _, self._rows, self._columns, self._points = self._tensor.shape
        self._offsets: TensorSpec | None = None
        if spec.offsets >= 0:
            self._offsets = pick(tensors, spec.offsets, "offsets")
            expect_shape(self._offsets, "offsets", (1, self._rows, self._columns, 2 * self._points))
        self._threshold = score_threshold
        self._width, self._height = picture_sides(inputs)
        self._x = self._places(self._columns, self._width)
        self._y = self._places(self._rows, self._height)

    @property
    def classes(self) -> int:
        """How many points a body has."""
        return self._points

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Poses:
        """At most one, its points as fractions of the input tensor."""
        maps = outputs[self._spec.heatmaps].reshape(-1, self._points)
        cells = maps.argmax(axis=0)
        point = np.arange(self._points)
        scores = to_score(self._tensor.to_real(maps[cells, point]), self._spec.activation)
        rows, columns = np.divmod(cells, self._columns)
        x, y = self._x[columns], self._y[rows]
        if self._offsets is not None:
            offsets = outputs[self._spec.offsets].reshape(-1, 2 * self._points)
            y = y + self._offsets.to_real(offsets[cells, point]) / np.float32(self._height)
            x = x + self._offsets.to_real(offsets[cells, point + self._points]) / np.float32(self._width)
        keypoints = np.stack([x, y, scores], axis=1).astype(np.float32)[None]
        score = np.asarray(scores.mean(), np.float32).reshape(1)
        sane = bool((np.abs(keypoints) < MAX_COORDINATE).all())  # False for NaN
        found = Poses(score, keypoints)
        return found if sane and score[0] >= self._threshold else found.take(np.empty(0, np.intp))

    def _places(self, cells: int, side: int) -> Float32Array:
        """Where each cell of a row or column lies, as a fraction of the input's side."""
        if self._spec.cells == "centers":
            return ((np.arange(cells) + 0.5) / cells).astype(np.float32)
        # PoseNet's output stride: pixel = cell * stride, from pixel 0 to pixel side - 1
        return (np.arange(cells) * (side - 1) / max(1, cells - 1) / side).astype(np.float32)
