"""Magnitude pruning of single weights, along a cubic schedule (Zhu and Gupta, arXiv 1710.01878, section 3).

What it gives is a flatbuffer that compresses better. TFLite's kernels multiply by zero like by anything else, so it gives
no speed, and nothing here says it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

EVERY: Final = 20  # steps between two looks at the magnitudes; sorting a large kernel at each step would cost too much
_KERNELS: Final = ("kernel", "depthwise_kernel", "pointwise_kernel")


@dataclass(frozen=True, slots=True)
class Sparsity:
    """How many weights of each kernel are zero, and when. Biases and batch norms stay whole."""

    final: float
    """Share, in the end."""
    begin: float
    """Share of all steps before the first weights go."""
    end: float
    """Share of all steps after which the share stays."""

    def share(self, step: int, total: int) -> float:
        """The share of zeros at a step, from 0: ``final * (1 - (1 - t) ** 3)``, t rising from 0 to 1."""
        t = (step / max(1, total) - self.begin) / (self.end - self.begin)
        return self.final * (1.0 - (1.0 - min(1.0, max(0.0, t))) ** 3)


class Masks:
    """Keeps a network's smallest weights at zero while it trains."""

    def __init__(self, model: Any, sparsity: Sparsity, total: int) -> None:
        self._sparsity = sparsity
        self._total = total
        self._kernels = [v for v in model.trainable_variables if v.name in _KERNELS]
        self._masks: list[Any] = [None] * len(self._kernels)

    def update(self, step: int) -> None:
        """Chooses anew where it is time, and zeroes what is chosen; called after each step of the optimiser."""
        if step % EVERY == 0 or step + 1 == self._total or self._masks[0] is None:
            share = self._sparsity.share(step + 1, self._total)
            self._masks = [magnitude_mask(np.asarray(kernel), share) for kernel in self._kernels]
        for kernel, mask in zip(self._kernels, self._masks, strict=True):
            kernel.assign(kernel * mask)


def magnitude_mask(kernel: Any, share: float) -> Any:
    """float32 of the kernel's shape: 0 for the ``share`` of weights closest to zero, else 1."""
    flat = np.abs(kernel).ravel()
    count = round(share * flat.size)
    mask = np.ones(flat.size, np.float32)
    if count:
        mask[np.argpartition(flat, count - 1)[:count]] = 0.0
    return mask.reshape(kernel.shape)


def zeros(model: Any) -> float:
    """The share of zeros among a network's kernels' weights."""
    kernels = [np.asarray(v) for v in model.trainable_variables if v.name in _KERNELS]
    total = sum(kernel.size for kernel in kernels)
    return sum(int((kernel == 0).sum()) for kernel in kernels) / total if total else 0.0
