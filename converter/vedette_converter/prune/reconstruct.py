"""What is left of a layer's inputs, made to do what all of them did: least squares, no training, no labels.

He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv 1707.06168, section 3.1: with the chosen
inputs x and the outputs y that the layer made before, its kernel becomes the one with the least ``|y - x W|^2`` over sampled
positions. Layers are gone through in order, and x is what reaches the layer now, so that each also makes up for what those
before it could not. A ridge pulls towards the kernel that was there (Hoerl and Kennard, "Ridge Regression: Biased Estimation
for Nonorthogonal Problems", 1970): what the samples do not show stays as it was. How strongly is decided by samples held
back, layer by layer: behind the last, smallest feature maps a kernel has more weights than some hundreds of pictures have
positions, and would learn those pictures by heart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..tensorflow import load_tensorflow
from .calls import Call, load_keras
from .channels import apply
from .graph import ChannelGraph, analyse
from .planning import Cut, Plan
from .rules import kind

POSITIONS: Final = 96  # of each sample, of each layer's outputs, at random
RIDGES: Final = (3e-4, 3e-3, 3e-2, 0.3, 3.0)  # of the mean square of an input
HELD_BACK: Final = 4  # one sample in so many decides on the ridge
MAX_INPUTS: Final = 6000  # of a kernel, height x width x channels; a handful of its squares are in memory, 290 MB each

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Refit:
    """What it came to for one layer, on the samples held back: the mean square error of its outputs, by their variance."""

    layer: str
    before: float
    after: float
    ridge: float
    """Of `RIDGES`; infinite where none was better than the kernel as it was."""


def reconstruct(
    model: Any, smaller: Any, plan: Plan, samples: Sequence[Any], *, seed: int = 0,
    on_layer: Callable[[int, int], None] = lambda done, total: None,
) -> list[Refit]:  # fmt: skip
    """Changes the weights of ``smaller`` in place, which is `apply` of ``plan`` to ``model``, untrained as yet.

    Refitted are convolutions (not grouped, not depthwise) and dense layers that lost inputs and are called once.
    ``samples``: batches as the network takes them, float32; some hundreds of pictures do, and no fewer than `HELD_BACK`.
    ``seed``: of the positions. ``on_layer``: told how many layers are done, and of how many.
    """
    graph = analyse(model)
    dead = graph.dead(plan.removed)
    whole = apply(model, Plan(tuple(Cut(cut.group, cut.layers, cut.size, ()) for cut in plan.cuts)))
    chosen = [call for call in graph.calls.calls if _fits(graph, call, dead)]
    refits = []
    for number, call in enumerate(chosen):
        on_layer(number, len(chosen))
        left = graph.alive(dead, call.outputs[0])
        refits.append(_refit(whole, smaller, call.name, left, samples, np.random.default_rng([seed, number])))
    on_layer(len(chosen), len(chosen))
    return refits


def _fits(graph: ChannelGraph, call: Call, dead: Any) -> bool:
    operation = call.operation
    if kind(operation) not in ("Conv2D", "Dense") or getattr(operation, "groups", 1) != 1:
        return False
    if sum(other.name == call.name for other in graph.calls.calls) > 1:
        return False
    channels = graph.channels[call.inputs[0]]
    taken = graph.alive(dead, call.inputs[0])
    inputs = int(np.prod(operation.kernel.shape[:-2])) * len(taken)
    return channels is not None and len(taken) < len(channels) and inputs <= MAX_INPUTS


@dataclass(slots=True)
class _Sums:
    """What a least-squares problem needs of its rows: ``x`` (n, inputs), and ``y`` (n, outputs), how far ``x W`` is off."""

    gram: Float64Array
    """``x'x``."""
    cross: Float64Array
    """``x'y``."""
    error: float = 0.0
    """``|y|^2``."""
    rows: int = 0

    def add(self, x: Float64Array, y: Float64Array) -> None:
        """More rows."""
        self.gram += x.T @ x
        self.cross += x.T @ y
        self.error += float((y**2).sum())
        self.rows += len(x)

    def change(self, ridge: float) -> Float64Array:
        """What to add to ``W``. ``ridge``: of the mean square of an input."""
        pulled = self.gram.copy()
        pulled[np.diag_indices_from(pulled)] += ridge * np.trace(self.gram) / len(self.gram) + np.finfo(np.float64).tiny
        return np.asarray(np.linalg.solve(pulled, self.cross))

    def error_after(self, change: Float64Array) -> float:
        """``|y - x change|^2`` over these rows."""
        return self.error - 2.0 * float((change * self.cross).sum()) + float((change * (self.gram @ change)).sum())


def _refit(
    whole: Any, smaller: Any, name: str, left: Any, samples: Sequence[Any], rng: np.random.Generator
) -> Refit:  # fmt: skip
    before, layer = whole.get_layer(name), smaller.get_layer(name)
    kernel, bias = _flat(before)
    kernel, bias = kernel[:, left], bias[left]
    own, own_bias = _flat(layer)
    has_bias = layer.bias is not None
    if has_bias:
        own = np.vstack([own, own_bias[None]])
    seen, shown = _columns(whole, before), _columns(smaller, layer)
    learned, held = (_Sums(np.zeros((len(own), len(own))), np.zeros(own.shape)) for _ in range(2))
    total, squares = np.zeros(len(left)), np.zeros(len(left))
    number = 0
    for batch in samples:
        draw = int(rng.integers(0, 2**31))
        wanted = _sampled(seen(batch), draw) @ kernel + bias
        given = _sampled(shown(batch), draw)
        if has_bias:
            given = np.concatenate([given, np.ones((*given.shape[:2], 1))], axis=2)
        off = wanted - given @ own
        apart = (number + np.arange(len(given))) % HELD_BACK == HELD_BACK - 1
        number += len(given)
        for sums, which in ((learned, ~apart), (held, apart)):
            sums.add(given[which].reshape(-1, given.shape[2]), off[which].reshape(-1, off.shape[2]))
        total += wanted[apart].sum(axis=(0, 1))
        squares += (wanted[apart] ** 2).sum(axis=(0, 1))
    if not held.rows:
        raise ValueError(f"{name}: expected at least {HELD_BACK} samples, found {number}")
    after, ridge = min((held.error_after(learned.change(ridge)), ridge) for ridge in RIDGES)
    if after < held.error:
        both = _Sums(learned.gram + held.gram, learned.cross + held.cross)
        fitted = own + both.change(ridge)
        values = [fitted[:-1] if has_bias else fitted, *([fitted[-1]] if has_bias else [])]
        weights = [layer.kernel, *([layer.bias] if has_bias else [])]
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value.reshape(weight.shape).astype(np.float32))
    else:
        after, ridge = held.error, math.inf
    variance = float((squares - total**2 / held.rows).sum()) or 1.0
    return Refit(name, held.error / variance, after / variance, ridge)


def _flat(layer: Any) -> tuple[Float64Array, Float64Array]:
    """The kernel as (inputs, outputs), and the bias, zeros without one."""
    kernel = np.asarray(layer.kernel, np.float64)
    bias = np.zeros(kernel.shape[-1]) if layer.bias is None else np.asarray(layer.bias, np.float64)
    return kernel.reshape(-1, kernel.shape[-1]), bias


def _columns(model: Any, layer: Any) -> Callable[[Any], Any]:
    """A batch -> what the layer multiplies its flat kernel with: (samples, positions, inputs)."""
    tf = load_tensorflow()
    inputs = load_keras().Model(model.inputs, layer.input)

    def run(batch: Any) -> Any:
        reached = tf.cast(inputs(batch, training=False), tf.float32)
        if kind(layer) == "Conv2D":
            ones = [1, *layer.kernel_size, 1]
            strides, rates = [1, *layer.strides, 1], [1, *layer.dilation_rate, 1]
            reached = tf.image.extract_patches(reached, ones, strides, rates, layer.padding.upper())
        return tf.reshape(reached, (tf.shape(reached)[0], -1, reached.shape[-1]))

    return tf.function(run, reduce_retracing=True)  # type: ignore[no-any-return]


def _sampled(columns: Any, draw: int) -> Float64Array:
    """(samples, positions, inputs) at the same random positions for the same ``draw`` and as many positions."""
    array = np.asarray(columns)
    rng = np.random.default_rng(draw)
    positions = array.shape[1]
    index = rng.choice(positions, POSITIONS, replace=False) if positions > POSITIONS else np.arange(positions)
    return np.asarray(array[:, index], np.float64)
