"""Losses of classifiers: with labels, with a teacher, with both, or with a teacher alone.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531: the student learns the teacher's
probabilities at a temperature; the gradient shrinks by its square, so the loss is multiplied by it.

Behind a softmax classes are rivals, and the right one's probability says it all. Behind a sigmoid each has a probability
of its own, and each is learned: the sum of their binary cross-entropies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from ..tensorflow import load_tensorflow

_LEAST = 1e-7  # a probability below it says nothing in float32
Activation = Literal["softmax", "sigmoid", "none", "own sigmoid"]
"""What the network leaves to be done; ``none`` where it ends in its own softmax, ``own sigmoid`` where in that."""
_SIGMOIDS: Final = ("sigmoid", "own sigmoid")


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Against labels."""

    activation: Activation
    smoothing: float = 0.0
    """Share of the truth that is spread over all classes (Szegedy et al., arXiv 1512.00567)."""

    def __call__(self, class_ids: Any, answers: Any, outputs: Any) -> Any:
        """See `vedette_converter.train.loop.Loss`."""
        tf = load_tensorflow()
        classes = outputs.shape[-1]
        truth = tf.one_hot(
            class_ids, classes, 1.0 - self.smoothing + self.smoothing / classes, self.smoothing / classes
        )
        if self.activation in _SIGMOIDS:
            return _binary(truth, logits(outputs, self.activation))
        logs = log_probabilities(outputs, self.activation)
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
        t = self.temperature
        if self.activation in _SIGMOIDS:
            taught = logits(answers, self.activation)
            loss = _binary(tf.sigmoid(taught / t), logits(outputs, self.activation) / t) * t * t
        else:
            target = tf.nn.softmax(log_probabilities(answers, self.activation) / t)
            softened = tf.nn.log_softmax(log_probabilities(outputs, self.activation) / t)
            loss = -tf.reduce_mean(tf.reduce_sum(target * softened, axis=-1)) * t * t
        if not self.label_weight:
            return loss
        hard = CrossEntropy(self.activation)(class_ids, answers, outputs)
        return (1.0 - self.label_weight) * loss + self.label_weight * hard


def log_probabilities(outputs: Any, activation: Activation) -> Any:
    """(n, classes) as a network of rivals gives them -> log of its probabilities, float32.

    A softmax's own outputs have lost the logits' common offset, which no softmax sees.
    """
    tf = load_tensorflow()
    outputs = tf.cast(outputs, tf.float32)
    return tf.nn.log_softmax(outputs) if activation == "softmax" else tf.math.log(tf.maximum(outputs, _LEAST))


def logits(outputs: Any, activation: Activation) -> Any:
    """(n, classes) as a network with a sigmoid gives them -> what the sigmoid is taken of, float32."""
    tf = load_tensorflow()
    outputs = tf.cast(outputs, tf.float32)
    if activation == "sigmoid":
        return outputs
    sure = tf.clip_by_value(outputs, _LEAST, 1.0 - _LEAST)
    return tf.math.log(sure) - tf.math.log(1.0 - sure)


def _binary(truth: Any, values: Any) -> Any:
    """Cross-entropy of each class by itself: summed over classes, the mean over samples; ``values``: logits."""
    tf = load_tensorflow()
    each = tf.nn.sigmoid_cross_entropy_with_logits(labels=truth, logits=values)
    return tf.reduce_mean(tf.reduce_sum(each, axis=-1))
