"""Whether a classifier's numbers are scores, or a softmax is left to be done: by what the network says of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from vedette.contract.manifest import ImageInput

from .calibrate import choose
from .load import Network

PICTURES: Final = 16
_ROUNDING: Final = 1e-3  # by which a score in float32 may leave 0..1


def logit_of(network: Network, image: ImageInput, data: Path, seed: int) -> float | None:
    """Of what the network says of some of ``data``'s pictures, the number furthest outside 0..1; None where all are scores.

    Raises `PictureError`.
    """
    said = np.concatenate([network.run(sample)[0].ravel() for sample in choose(data, PICTURES, seed).samples(image)])
    furthest = float(said[np.argmax(np.abs(said - 0.5))])
    return None if abs(furthest - 0.5) <= 0.5 + _ROUNDING else furthest
