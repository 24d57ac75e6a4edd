"""Key points as numbers: a row of points for each body, in an order that the manifest names."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import ModelError
from ..manifest import PoseOutput
from ..types import Float32Array, Poses, Tensor, TensorSpec
from ._tensors import MAX_COORDINATE, expect_shape, pick, picture_sides, to_score

_SIDES = ("x_min", "y_min", "x_max", "y_max")


class PoseDecoder:
    """See the module."""

    def __init__(
        self,
        spec: PoseOutput,
        tensors: Sequence[TensorSpec],
        score_threshold: float,
        labels: int,
        *,
        inputs: Sequence[TensorSpec] = (),
    ) -> None:
        """``labels``: how many points a body has. ``inputs``: the network's; needed for points in pixels."""
        self._spec = spec
        self._points = labels
        self._tensor = pick(tensors, spec.keypoints, "keypoints")
        row = labels * len(spec.point) + len(spec.tail)
        shape = self._tensor.shape
        if math.prod(shape) == row:
            self._bodies = 1
        elif len(shape) == 3 and shape[0] == 1 and shape[2] == row:
            self._bodies = shape[1]
        else:
            raise ModelError(
                f"output.keypoints: tensor {self._tensor.name}",
                expected=f"{row} numbers a body: {labels} points of {len(spec.point)} and a tail of {len(spec.tail)}",
                found=f"shape {list(shape)}", fix="give the labels file that names the points, one a line",
            )  # fmt: skip
        self._score_tensor: TensorSpec | None = None
        if spec.score >= 0:
            self._score_tensor = pick(tensors, spec.score, "score")
            if math.prod(self._score_tensor.shape) != self._bodies:
                expect_shape(self._score_tensor, "score", (1, self._bodies))
        self._threshold = score_threshold
        self._unit = np.ones(2, np.float32)
        if spec.units == "pixels":
            width, height = picture_sides(inputs)
            self._unit = np.array([1 / width, 1 / height], np.float32)

    @property
    def classes(self) -> int:
        """How many points a body has."""
        return self._points

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Poses:
        """Points and boxes as fractions of the input tensor."""
        spec = self._spec
        rows = self._tensor.to_real(outputs[spec.keypoints].reshape(self._bodies, -1))
        split = self._points * len(spec.point)
        points = rows[:, :split].reshape(self._bodies, self._points, len(spec.point))
        tail = rows[:, split:]
        places = points[:, :, [spec.point.index("x"), spec.point.index("y")]] * self._unit
        own = (
            to_score(points[:, :, spec.point.index("score")], spec.point_activation) if "score" in spec.point else None
        )
        if self._score_tensor is not None:
            number = self._score_tensor.to_real(outputs[spec.score].reshape(self._bodies))
            scores = to_score(number, spec.score_activation)
        elif "score" in spec.tail:
            scores = to_score(tail[:, spec.tail.index("score")], spec.score_activation)
        else:
            assert own is not None  # the manifest has checked
            scores = np.asarray(own.mean(axis=1), np.float32)
        each = own if own is not None else np.repeat(scores[:, None], self._points, axis=1)
        keypoints = np.concatenate([places, each[:, :, None]], axis=2).astype(np.float32)
        boxes: Float32Array | None = None
        if "x_min" in spec.tail:
            boxes = np.asarray(tail[:, [spec.tail.index(side) for side in _SIDES]] * np.tile(self._unit, 2), np.float32)
        with np.errstate(invalid="ignore"):  # False for NaN
            passing = (scores >= self._threshold) & (np.abs(keypoints) < MAX_COORDINATE).all(axis=(1, 2))
            if boxes is not None:
                passing &= (np.abs(boxes) < MAX_COORDINATE).all(axis=1)
        found = Poses(scores, keypoints, boxes).take(np.flatnonzero(passing))
        return found.take(np.argsort(-found.scores, kind="stable")[: spec.max_poses])
