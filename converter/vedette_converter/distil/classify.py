"""Losses of classifiers: with labels, with a teacher, with both, or with a teacher alone.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531: the student learns the teacher's
probabilities at a temperature; the gradient shrinks by its square, so the loss is multiplied by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..tensorflow import load_tensorflow

_LEAST = 1e-7  # a probability below it says nothing in float32
Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Against labels. ``activation``: what the network leaves to be done; ``none`` where it ends in its own softmax."""

    activation: Activation
    smoothing: float = 0.0
    """Share of the truth that is spread over all classes (Szegedy et al., arXiv 1512.00567)."""

    def __call__(self, class_ids: Any, answers: Any, outputs: Any) -> Any:
        """See `vedette_converter.train.loop.Loss`."""
        tf = load_tensorflow()
        logs = log_probabilities(outputs, self.activation)
        classes = logs.shape[-1]
        truth = tf.one_hot(
            class_ids, classes, 1.0 - self.smoothing + self.smoothing / classes, self.smoothing / classes
        )
        return -tf.reduce_mean(tf.reduce_sum(truth * logs, axis=-1))


@dataclass(frozen=True, slots=True)
class Distillation:
    """Against a teacher's answers for the same classes, and labels where there are some."""

    activation: Activation
    """Of student and teacher alike."""
    temperature: float
    label_weight: float
    """0: the teacher alone, no labels needed; 1: labels alone."""

    def __call__(self, class_ids: Any, answers: Any, outputs: Any) -> Any:
        """See `vedette_converter.train.loop.Loss`."""
        tf = load_tensorflow()
        logs = log_probabilities(outputs, self.activation)
        taught = log_probabilities(answers, self.activation)
        t = self.temperature
        target = tf.nn.softmax(taught / t)
        softened = tf.nn.log_softmax(logs / t)
        loss = -tf.reduce_mean(tf.reduce_sum(target * softened, axis=-1)) * t * t
        if not self.label_weight:
            return loss
        hard = CrossEntropy("softmax")(class_ids, answers, logs)
        return (1.0 - self.label_weight) * loss + self.label_weight * hard


def log_probabilities(outputs: Any, activation: Activation) -> Any:
    """(n, classes) as a network gives them -> log of its probabilities, float32.

    A softmax's own outputs have lost the logits' common offset, which no softmax sees.
    """
    tf = load_tensorflow()
    outputs = tf.cast(outputs, tf.float32)
    if activation == "softmax":
        return tf.nn.log_softmax(outputs)
    if activation == "sigmoid":
        return tf.math.log_sigmoid(outputs)
    return tf.math.log(tf.maximum(outputs, _LEAST))
