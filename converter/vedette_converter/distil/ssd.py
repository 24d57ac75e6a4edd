"""What an SSD head learns from a teacher's answers on pictures without labels.

The teacher's raw outputs are the targets, anchor by anchor, so nothing is matched and nothing suppressed:

- logits: the Kullback-Leibler divergence between the teacher's and the student's sigmoid, class by class, summed over
  all anchors. Its gradient is the difference of the two probabilities, so the thousands of anchors of plain background
  that both agree on say nothing, and what the teacher doubts, the student learns to doubt. (Soft targets: Hinton et al.,
  arXiv 1503.02531; for a sigmoid head, as the quality focal loss has them without its focus, arXiv 2006.04388, eq. 3.)
- box encodings: the smooth L1 of SSD (arXiv 1512.02325, eq. 2; Girshick, arXiv 1504.08083, eq. 3), on the anchors where
  the teacher sees something, weighted by its score: where it sees nothing its boxes mean nothing.

Both are divided by the sum of the teacher's scores on those anchors: SSD's division by the number of matched ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..tensorflow import load_tensorflow

SURE: Final = 0.3  # teacher's score from which an anchor counts as one that sees something, for the division
SEEN: Final = 0.2  # teacher's score from which an anchor's box is learned


@dataclass(frozen=True, slots=True)
class SsdDistillation:
    """Scalar loss of a batch, against the teacher's raw outputs."""

    box_weight: float = 1.0
    """Of the boxes' part, beside the logits' with 1."""
    background: bool = True
    """Whether the first logit is the background's, whose score is no reason to learn a box."""

    def __call__(self, targets: tuple[Any, Any], outputs: tuple[Any, Any]) -> Any:
        """``targets``, ``outputs``: (encodings (n, anchors, 4), logits (n, anchors, classes)), any float dtype."""
        classes, boxes = self.parts(targets, outputs)
        return classes + self.box_weight * boxes

    def parts(self, targets: tuple[Any, Any], outputs: tuple[Any, Any]) -> tuple[Any, Any]:
        """The logits' and the boxes' part, each a scalar, 0 where student and teacher answer alike."""
        tf = load_tensorflow()
        taught_boxes, taught = (tf.cast(target, tf.float32) for target in targets)
        boxes, logits = (tf.cast(output, tf.float32) for output in outputs)
        probabilities = tf.sigmoid(taught)
        seen = tf.reduce_max(probabilities[..., int(self.background) :], axis=-1)
        count = tf.maximum(tf.reduce_sum(tf.where(seen >= SURE, seen, 0.0)), 1.0)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits
        divergence = tf.reduce_sum(entropy(probabilities, logits) - entropy(probabilities, taught)) / count
        weight = tf.where(seen >= SEEN, seen, 0.0)
        off = tf.abs(boxes - taught_boxes)
        smooth = tf.where(off < 1.0, 0.5 * off * off, off - 0.5)
        return divergence, tf.reduce_sum(weight[..., None] * smooth) / count


@dataclass(frozen=True, slots=True)
class SeenObjects:
    """What a network says of the objects that its teacher sees: a score for channels (`vedette_converter.prune.Taylor`).

    A distillation loss has no slope where student and teacher are still the same network, so it cannot tell which
    channels matter to it. This sum has one: the student's scores and box encodings on the anchors where the teacher
    sees something, weighted by the teacher's scores. Not to be minimised.
    """

    background: bool = True
    """See `SsdDistillation`."""

    def __call__(self, targets: tuple[Any, Any], outputs: tuple[Any, Any]) -> Any:
        """See `SsdDistillation`."""
        tf = load_tensorflow()
        start = int(self.background)
        boxes, logits = (tf.cast(output, tf.float32) for output in outputs)
        probabilities = tf.sigmoid(tf.cast(targets[1], tf.float32))[..., start:]
        seen = tf.where(probabilities >= SURE, probabilities, 0.0)
        told = tf.reduce_sum(seen * tf.sigmoid(logits[..., start:]))
        return told + tf.reduce_sum(tf.reduce_max(seen, axis=-1, keepdims=True) * boxes)
