"""Rules for operations without weights: passing, merging, joining and reshaping channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .calls import Call, load_keras
from .rule import ELEMENTWISE, IntArray, Kept, Shapes, Shrunk, Ties, Weights, activation_name


def _pass(call: Call, inputs: Sequence[IntArray], shapes: Shapes) -> IntArray:
    if shapes.output[-1] != len(inputs[0]) or len(shapes.output) < 2:
        raise Kept("its output has another number of channels")
    return inputs[0]


@dataclass(frozen=True, slots=True)
class Through:
    """Each channel by itself, at the same place: activations, pooling, padding, resizing, dropout."""

    allows: Callable[[Call, Shapes], str] = lambda call, shapes: ""
    """Why a call is none of these, "" where it is one."""
    bound: bool = False
    makes: bool = False

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        if reason := self.allows(call, shapes):
            raise Kept(reason)
        if len(inputs) != 1:
            raise Kept(f"{len(inputs)} inputs where one is known")
        return _pass(call, inputs, shapes)

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        return Shrunk()


@dataclass(frozen=True, slots=True)
class Rescale:
    """Rescaling: ``x * scale + offset``, numbers or a vector of a value for each channel."""

    bound: bool = True
    makes: bool = False

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        for value in (call.operation.scale, call.operation.offset):
            if np.shape(value) not in ((), (1,), (len(inputs[0]),)):
                raise Kept(f"a scale of shape {np.shape(value)}")
        return _pass(call, inputs, shapes)

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        config = {}
        for name in ("scale", "offset"):
            value = np.asarray(getattr(operation, name))
            if value.size > 1:
                config[name] = [float(v) for v in value[left]]
        return Shrunk(config)


@dataclass(frozen=True, slots=True)
class Merge:
    """Add, Subtract, Multiply, Average, Maximum, Minimum: operands share channels; one of a single channel is spread."""

    bound: bool = False
    makes: bool = False

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        if any(np.size(value) > 1 for value in call.constants()):
            raise Kept("one operand is an array of constants")
        size = max(len(channels) for channels in inputs)
        if any(len(channels) not in (1, size) for channels in inputs) or shapes.output[-1] != size:
            raise Kept("its operands have other numbers of channels")
        wide = [channels for channels in inputs if len(channels) == size]
        for channels in inputs:
            if len(channels) != size:
                ties.keep(channels, f"its one channel is spread over {size} in {call.name}")
        for channels in wide[1:]:
            ties.tie(wide[0], channels)
        return wide[0]

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        return Shrunk()


@dataclass(frozen=True, slots=True)
class Concatenate:
    """Along the last axis one vector after the other; along any other the parts share their channels."""

    bound: bool = False
    makes: bool = False

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        if any(value is not None and not isinstance(value, int | str) for value in call.constants()):
            raise Kept("one part is an array of constants")
        if call.operation.axis in (-1, len(shapes.output) - 1):
            return np.concatenate(inputs)
        for channels in inputs[1:]:
            ties.tie(inputs[0], channels)
        return inputs[0]

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        return Shrunk()


def _period(channels: IntArray) -> int:
    """The smallest number of channels that, repeated, make them all."""
    size = len(channels)
    divisors = (n for n in range(1, size + 1) if size % n == 0)
    return next(n for n in divisors if np.array_equal(np.tile(channels[:n], size // n), channels))


def _unfold(channels: IntArray, shape: tuple[int | None, ...], last: int | None) -> IntArray:
    """Channels along a last axis of ``last`` elements, of a row-major tensor whose last axis was ``channels``.

    Element f of the flat tensor has channel f % C. It becomes place f % L of the new axis, which so holds channel p % C
    at place p as long as C divides L. C counts the channels of one pixel: ``channels`` may be those of several.
    """
    if last is not None and last % len(channels):
        channels = channels[: _period(channels)]
    if last is None or last % len(channels):
        raise Kept("it takes channels apart")
    if last != len(channels) and None in shape[1:]:
        raise Kept("its input has an open size")
    return np.tile(channels, last // len(channels))


@dataclass(frozen=True, slots=True)
class Flatten:
    """Flatten: (H, W, C) to H*W*C; each channel owns H*W rows of a Dense that follows."""

    bound: bool = False
    makes: bool = False

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        return _unfold(inputs[0], shapes.inputs[0], shapes.output[-1])

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        return Shrunk()


@dataclass(frozen=True, slots=True)
class Reshape:
    """Reshape that keeps channels together: C last before and after, or C into H*W*C."""

    bound: bool = True
    makes: bool = False

    def follow(self, call: Call, inputs: Sequence[IntArray], shapes: Shapes, ties: Ties) -> IntArray:
        return _unfold(inputs[0], shapes.inputs[0], shapes.output[-1])

    def shrink(self, operation: Any, weights: Weights, taken: IntArray, left: IntArray) -> Shrunk:
        shape = list(operation.target_shape)
        if shape[-1] != -1:
            shape[-1] = len(left)
        return Shrunk({"target_shape": shape})


def activation_mixes(call: Call, shapes: Shapes) -> str:
    """An Activation of a function that sees more than one channel."""
    name = activation_name(call.operation)
    return "" if name in ELEMENTWISE else f"activation {name or '(none of Keras)'} may mix channels"


def softmax_mixes(call: Call, shapes: Shapes) -> str:
    """A Softmax over the channels."""
    axes = call.operation.axis if isinstance(call.operation.axis, list | tuple) else [call.operation.axis]
    return "it mixes channels" if {-1, len(shapes.output) - 1} & set(axes) else ""


def reduction_mixes(call: Call, shapes: Shapes) -> str:
    """A mean, sum or maximum over axes of which one is the channels'."""
    axis, rank = call.operation.axis, len(shapes.inputs[0])
    axes = axis if isinstance(axis, list | tuple) else [axis]
    mixed = axis is None or {-1, rank - 1} & {int(a) for a in axes}
    return "it reduces the channels" if mixed else ""


def not_divided(call: Call, shapes: Shapes) -> str:
    """Anything but channels divided by a number: a channel at zero would be divided by."""
    if any(np.size(value) > 1 for value in call.constants()):
        return "one operand is an array of constants"
    first = call.arguments.args[0] if call.arguments.args else None
    return "" if isinstance(first, load_keras().KerasTensor) else "it divides by the channels"
