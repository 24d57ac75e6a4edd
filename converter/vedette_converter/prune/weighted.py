"""Rules for layers with weights: what they read and make, and the slices of their weights that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .calls import Call
from .rule import IntArray, Kept, Shapes, Shrunk, Ties, Weights, keep_mixed


def _expect_weights(call: Call, known: frozenset[str]) -> None:
    names = [weight.name for weight in call.operation.weights]
    if unknown := [name for name in names if name not in known]:
        raise Kept(f"unknown weight {unknown[0]}")
    if getattr(call.operation, "quantization_mode", None) is not None:
        raise Kept("already quantised")


@dataclass(frozen=True, slots=True)
class Convolution:
    """Conv1D to 3D, their transposes, Dense: a kernel with an axis of inputs and one of outputs, and a bias."""

    size: str
    """The config's name for the number of outputs."""
    in_axis: int = -2
    out_axis: int = -1
    bound: bool = True
    makes: bool = True

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        _expect_weights(call, frozenset({"kernel", "bias"}))
        groups = getattr(call.operation, "groups", 1)
        if groups != 1:
            raise Kept(f"a convolution of {groups} groups")
        channels = ties.new(call.name, int(getattr(call.operation, self.size)))
        keep_mixed(call, channels, ties)
        return channels

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        kernel = np.take(np.take(weights["kernel"], taken, self.in_axis), left, self.out_axis)
        sliced = {"kernel": kernel}
        if "bias" in weights:
            sliced["bias"] = weights["bias"][left]
        return Shrunk({self.size: len(left)}, sliced)


@dataclass(frozen=True, slots=True)
class Depthwise:
    """DepthwiseConv1D and 2D: input channel c makes the outputs c*m to c*m+m-1, m the depth multiplier."""

    bound: bool = True
    makes: bool = False

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        _expect_weights(call, frozenset({"kernel", "bias"}))
        channels = np.repeat(inputs[0], int(call.operation.depth_multiplier))
        keep_mixed(call, channels, ties)
        return channels

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        sliced = {"kernel": weights["kernel"][..., taken, :]}
        if "bias" in weights:
            sliced["bias"] = weights["bias"][left]
        return Shrunk({}, sliced)


@dataclass(frozen=True, slots=True)
class Separable:
    """SeparableConv1D and 2D: a depthwise kernel, then a pointwise one over its in*m outputs."""

    bound: bool = True
    makes: bool = True

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        _expect_weights(call, frozenset({"depthwise_kernel", "pointwise_kernel", "bias"}))
        channels = ties.new(call.name, int(call.operation.filters))
        keep_mixed(call, channels, ties)
        return channels

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        multiplier = int(operation.depth_multiplier)
        between = (taken[:, None] * multiplier + np.arange(multiplier)).reshape(-1)
        sliced = {
            "depthwise_kernel": weights["depthwise_kernel"][..., taken, :],
            "pointwise_kernel": weights["pointwise_kernel"][..., between, :][..., left],
        }
        if "bias" in weights:
            sliced["bias"] = weights["bias"][left]
        return Shrunk({"filters": len(left)}, sliced)


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """BatchNormalization over the last axis: a vector of each weight."""

    bound: bool = True
    makes: bool = False

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        _expect_weights(call, frozenset({"gamma", "beta", "moving_mean", "moving_variance"}))
        axis, rank = call.operation.axis, len(shapes.output)
        if axis not in (-1, rank - 1):
            raise Kept(f"it normalises axis {axis}")
        return inputs[0]

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        return Shrunk({}, {name: value[left] for name, value in weights.items()})


@dataclass(frozen=True, slots=True)
class Prelu:
    """PReLU: alpha of shape (..., C), 1 where axes are shared."""

    bound: bool = True
    makes: bool = False

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        _expect_weights(call, frozenset({"alpha"}))
        return inputs[0]

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        alpha = weights["alpha"]
        shared = operation.shared_axes is not None and alpha.ndim in operation.shared_axes
        return Shrunk({}, {"alpha": alpha if shared else alpha[..., left]})
