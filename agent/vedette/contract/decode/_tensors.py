"""What decoders share: checks of tensors, and the sigmoid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ModelError
from ..types import Float32Array, TensorSpec


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
