"""The loss of networks whose outputs are numbers: regression, autoencoders, feature vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..tensorflow import load_tensorflow


@dataclass(frozen=True, slots=True)
class Imitation:
    """Mean squared difference to a teacher's answers: no labels needed.

    An autoencoder's student learns the teacher's reconstruction, not its input: what the teacher leaves out as noise, and
    by which it tells the unusual, the student shall leave out too.
    """

    def __call__(self, class_ids: Any, answers: Any, outputs: Any) -> Any:
        """See `vedette_converter.train.loop.Loss`."""
        tf = load_tensorflow()
        return tf.reduce_mean(tf.square(tf.cast(outputs, tf.float32) - answers))
