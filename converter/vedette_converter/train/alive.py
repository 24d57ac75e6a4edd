"""Whether training left anything of a network: one step too large, and no unit answers to anything any more."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from vedette.contract.errors import UserError
from vedette.contract.types import Float32Array

from ..load import Network

SAMPLES: Final = 32  # that a living network never answers alike to the last bit


def expect_alive(network: Network, samples: Iterable[Float32Array], what: str) -> None:
    """Raises `UserError` where all samples, two at least, have the same outputs, bit by bit.

    Such a network has a finite loss, and quantised it does not load, or loses nothing. ``what``: the tables that trained it.
    """
    answers = [b"".join(output.tobytes() for output in network.run(sample)) for sample in islice(samples, SAMPLES)]
    if len(answers) > 1 and len({*answers}) == 1:
        raise UserError(
            "training left nothing of the network", where=what, expected="answers that differ",
            found=f"one and the same for {len(answers)} samples", fix="lower its learning_rate",
        )  # fmt: skip
