"""The training loop: resumable after every epoch, a cosine schedule, bfloat16 where the CPU has it.

A checkpoint holds the network's weights, the optimiser's state and the history. Killed at any moment, a training goes
on after the last whole epoch. Seeds make the data's order and the augmentation the same each time; the sums on several
threads are not, so two runs end with nearly, not exactly, the same weights.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np

from vedette.contract.errors import FaultError, UserError

from ..progress import Progress
from ..tensorflow import load_tensorflow
from .data import TrainingBatches
from .kept import save_arrays
from .normalise import fused_batch_norm
from .rounding import rounded_activations
from .sparsity import Masks, Sparsity

LEAST_SHARE: Final = 0.01  # of the highest learning rate, at the end of the cosine


class Loss(Protocol):
    """What a training brings down."""

    def __call__(self, class_ids: Any, answers: Any, outputs: Any) -> Any:
        """Scalar loss of a batch. ``class_ids`` (n,) int32 or empty, ``answers`` of a teacher (n, ...) float32 or
        empty, ``outputs`` as the network gives them in training."""
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast."""

    epochs: int
    learning_rate: float
    """At its highest: after the warm-up."""
    weight_decay: float
    """Decoupled (Loshchilov and Hutter, arXiv 1711.05101), on kernels alone."""
    warm_up: float = 0.1
    """Share of all steps over which the rate rises from 0, in a straight line; then it falls along a cosine
    (arXiv 1608.03983)."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD with Nesterov's momentum 0.9, or Adam (arXiv 1412.6980)."""
    rounded: float = 0.0
    """Share of the epochs, the last ones, with activations of eight bits: `vedette_converter.train.rounding`."""

    def rate(self, step: int, total: int) -> float:
        """The learning rate at a step, from 0."""
        rising = max(1, round(self.warm_up * total))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        turn = math.pi * (step - rising) / max(1, total - rising)
        return self.learning_rate * (LEAST_SHARE + (1 - LEAST_SHARE) * 0.5 * (1 + math.cos(turn)))


@dataclass(slots=True)
class History:
    """Mean loss of each epoch."""

    losses: list[float] = field(default_factory=list)


def fit(
    model: Any,
    batches: TrainingBatches,
    loss: Loss,
    schedule: Schedule,
    *,
    name: str,
    progress: Progress,
    checkpoint: Path | None = None,
    bfloat16: bool | None = None,
    sparsity: Sparsity | None = None,
    on_epoch: Callable[[int], str] = lambda epoch: "",
) -> History:
    """Trains a Keras 3 network in place, by the schedule's optimiser.

    ``name``: of the step, for `progress`. ``checkpoint``: a file that is written after every epoch, and from which the
    training goes on where it is there. ``bfloat16``: layers compute in bfloat16, weights stay float32; where the CPU has
    instructions for it without one. ``sparsity``: weights that become and stay zero. ``on_epoch`` is told each epoch's
    number, from 1; a few words it returns are shown.

    Raises `UserError` for a checkpoint of another network, `FaultError` where the loss is no number any more.
    """
    tf = load_tensorflow()
    import keras

    optimizer: Any
    if schedule.optimizer == "adam":
        optimizer = keras.optimizers.Adam(learning_rate=0.0)
    else:
        optimizer = keras.optimizers.SGD(learning_rate=0.0, momentum=0.9, nesterov=True)
    variables = list(model.trainable_variables)
    optimizer.build(variables)
    decayed = [v for v in variables if v.name in ("kernel", "depthwise_kernel", "pointwise_kernel")]
    history = History()
    if checkpoint is not None and checkpoint.exists():
        history = _restore(checkpoint, model, optimizer)
    total = schedule.epochs * batches.steps
    rate = tf.Variable(0.0, trainable=False)
    masks = Masks(model, sparsity, total) if sparsity is not None else None

    def step(inputs: Any, class_ids: Any, answers: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(class_ids, answers, model(inputs, training=True))
        optimizer.apply(tape.gradient(value, variables), variables)
        for variable in decayed:
            variable.assign(variable * (1.0 - rate * schedule.weight_decay))
        return value

    advance = progress.begin(name, total)
    for _ in range(len(history.losses) * batches.steps):
        advance()
    with fused_batch_norm(model), computing_in_bfloat16(model, bfloat16):
        compiled = tf.function(step, reduce_retracing=True)
        as_int8 = tf.function(step, reduce_retracing=True)
        for epoch in range(len(history.losses), schedule.epochs):
            losses = []
            rounded = epoch >= round((1.0 - schedule.rounded) * schedule.epochs)
            with rounded_activations(model) if rounded else contextlib.nullcontext():
                for number, batch in enumerate(batches.epoch(epoch)):
                    now = schedule.rate(epoch * batches.steps + number, total)
                    rate.assign(now)
                    optimizer.learning_rate.assign(now)
                    losses.append((as_int8 if rounded else compiled)(*(tf.constant(array) for array in batch)))
                    if masks is not None:
                        masks.update(epoch * batches.steps + number)
                    advance()
            mean = float(np.mean([float(value) for value in losses]))
            if not math.isfinite(mean):
                raise FaultError(
                    f"{name}: the loss is no number any more", where=f"epoch {epoch + 1}", found=f"{mean}",
                    fix="lower the learning rate",
                )  # fmt: skip
            history.losses.append(mean)
            said = on_epoch(epoch + 1)
            progress.note(f"epoch {epoch + 1}/{schedule.epochs}  loss {mean:.4f}  {said}")
            if checkpoint is not None:
                _save(checkpoint, model, optimizer, history)
    return history


def _save(path: Path, model: Any, optimizer: Any, history: History) -> None:
    arrays = {f"weight_{n}": np.asarray(v) for n, v in enumerate(model.weights)}
    arrays.update({f"state_{n}": np.asarray(v) for n, v in enumerate(optimizer.variables)})
    arrays["losses"] = np.array(history.losses, np.float64)
    save_arrays(path, arrays, "the training's state")


def _restore(path: Path, model: Any, optimizer: Any) -> History:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for prefix, variables in (("weight", model.weights), ("state", optimizer.variables)):
                for number, variable in enumerate(variables):
                    found = arrays[f"{prefix}_{number}"]
                    if found.shape != tuple(variable.shape):
                        raise ValueError(f"{variable.path}: {found.shape}")
                    variable.assign(found)
            return History([float(value) for value in arrays["losses"]])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            "the kept state is not of this training", where=path, found=str(error), fix="delete the file to start anew"
        ) from None


def _has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextlib.contextmanager
def computing_in_bfloat16(model: Any, wanted: bool | None = None) -> Iterator[None]:
    """Layers but the classifier's own compute in bfloat16 inside the block; variables stay float32.

    ``wanted``: whether at all; where the CPU has instructions for it without one. Strided depthwise convolutions of less
    than their window stay float32, too: oneDNN in TensorFlow 2.21 leaves places of their kernel's gradient unwritten.
    """
    import keras

    before: list[tuple[Any, Any]] = []
    if _has_bfloat16() if wanted is None else wanted:
        policy = keras.DTypePolicy("mixed_bfloat16")
        for layer in model.layers:
            if layer.__class__.__name__ in ("Dense", "Softmax", "InputLayer") or _is_softmax(layer):
                continue
            if _is_wider_than_its_input(layer):
                continue
            before.append((layer, layer.dtype_policy))
            layer.dtype_policy = policy
    try:
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


def _is_wider_than_its_input(layer: Any) -> bool:
    """Whether it is a strided depthwise convolution that sees less than one whole window."""
    if not hasattr(layer, "depth_multiplier") or max(layer.strides) == 1:
        return False
    sides = layer.input.shape[1:-1] if layer.data_format == "channels_last" else layer.input.shape[2:]
    return all(side is not None and side < window for side, window in zip(sides, layer.kernel_size, strict=True))


def _is_softmax(layer: Any) -> bool:
    return getattr(getattr(layer, "activation", None), "__name__", "") in ("softmax", "sigmoid")
