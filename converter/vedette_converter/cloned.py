"""Keras networks again: with the same weights, or with fresh ones.

What a layer has adapted to its data (the mean and the variance of a ``Normalization``) is no learned weight: every clone
has it. Such a layer computes with what it derived from its variables, and derives that anew when it is told to.
"""

from __future__ import annotations

import warnings
from typing import Any

from .tensorflow import load_tensorflow


def copied(model: Any, inputs: Any = None) -> Any:
    """The same network and weights, a variable each of its own. ``inputs``: new ones in place of its own."""
    load_tensorflow()
    import keras

    copy = keras.models.clone_model(model, input_tensors=inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Keras's own way to NumPy 2
        copy.set_weights(model.get_weights())
    _adapt(copy, model)
    return copy


def renewed(model: Any, seed: int) -> Any:
    """The same architecture with fresh random weights."""
    load_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    fresh = keras.models.clone_model(model)
    _adapt(fresh, model)
    return fresh


def _adapt(clone: Any, model: Any) -> None:
    """Gives each layer of ``clone`` what that of ``model`` adapted to."""
    for layer, original in zip(clone._flatten_layers(), model._flatten_layers(), strict=True):
        if hasattr(layer, "finalize_state"):
            layer.set_weights(original.get_weights())
            layer.finalize_state()
