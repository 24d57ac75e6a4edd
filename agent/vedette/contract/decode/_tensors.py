"""What decoders share: checks of tensors, bounds, and the sigmoid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..types import Float32Array, TensorSpec

CANDIDATES: Final = 5000  # before NMS; bounds the time of one decode, and is only reached at thresholds near 0
MAX_ENCODED_SIDE: Final = 10.0  # exp() of more is a box 22,000 times its anchor; keeps rubbish finite
MAX_COORDINATE: Final = 1e6  # a float network that overflowed; such a box, or one of NaN, is no detection


def pick(tensors: Sequence[TensorSpec], index: int, role: str) -> TensorSpec:
    """The output tensor number ``index``; raises `ModelError` naming its role when there is none."""
    if index >= len(tensors):
        raise ModelError(f"output.{role}", expected=f"an output tensor from 0 to {len(tensors) - 1}", found=str(index))
    return tensors[index]


def expect_shape(tensor: TensorSpec, role: str, shape: tuple[int | None, ...]) -> None:
    """Raises `ModelError` unless the tensor has this shape; None stands for any size."""
    fits = len(tensor.shape) == len(shape) and all(
        want is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ModelError(
            f"output.{role}: tensor {tensor.name}", expected=f"shape [{wanted}]", found=f"{list(tensor.shape)}"
        )


def sigmoid(real: Float32Array) -> Float32Array:
    """``1 / (1 + exp(-x))`` as float32; 0 where ``exp`` overflows, silently."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-real)), np.float32)


def to_score(real: Float32Array, activation: str) -> Float32Array:
    """A score in 0..1 after ``activation``, "sigmoid" or "none"; what lies beyond counts as 0 or 1, NaN stays."""
    return np.asarray(sigmoid(real) if activation == "sigmoid" else np.clip(real, 0.0, 1.0), np.float32)


def picture_sides(inputs: Sequence[TensorSpec]) -> tuple[int, int]:
    """Width and height of the network's input. Raises `ModelError` where that is no picture, `ValueError` for no input."""
    if not inputs:
        raise ValueError("inputs must be given for this decoder")
    shape = inputs[0].shape
    if len(shape) != 4:
        raise ModelError(
            f"input tensor {inputs[0].name}", expected="shape [1, height, width, channels]", found=f"{list(shape)}"
        )
    return shape[2], shape[1]


def per_pixel(inputs: Sequence[TensorSpec]) -> Float32Array:
    """(4,) what makes fractions of x, y, x, y, or x, y, width, height, in the input's pixels. Raises as `picture_sides`."""
    width, height = picture_sides(inputs)
    return np.array([1 / width, 1 / height] * 2, np.float32)


def best_candidates(scores: Float32Array) -> NDArray[np.intp] | slice:
    """The `CANDIDATES` with the best scores, in their own order; all where there are no more."""
    if len(scores) <= CANDIDATES:
        return slice(None)
    return np.sort(np.argpartition(-scores, CANDIDATES)[:CANDIDATES])
