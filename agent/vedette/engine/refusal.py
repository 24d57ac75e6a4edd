"""What a runtime says of a file that it will not have, and the way out where the reason is an operation."""

from __future__ import annotations

import re
from typing import Final

from vedette.contract.errors import ModelError

_SAID: Final = re.compile(r"unresolved custom op: (\S+?)\.?\s|Node number \d+ \((Flex\w+)\)")
_EDGETPU_OP: Final = "edgetpu-custom-op"
COMPILED: Final = "is compiled for the Edge TPU, and no CPU runs it"
LACKING: Final = "needs an operation that the runtime has no kernel for"
"""The problems of the errors that `refusal` makes of a lack."""


def lacking(said: str) -> str:
    """The operation that a runtime has no kernel for, by what it says; "" where it says something else."""
    found = _SAID.search(said + " ")
    return (found[1] or found[2]) if found else ""


def refusal(problem: str, where: object, said: str) -> ModelError:
    """``problem``: what is wrong where it is no lack of an operation."""
    op = lacking(said)
    if op == _EDGETPU_OP:
        return ModelError(
            COMPILED, where=where, expected="the file that it was compiled from",
            fix="give that one; a bundle can carry both (docs/accelerators.md)",
        )  # fmt: skip
    if op:
        flex = op.startswith("Flex")
        return ModelError(
            LACKING, where=where,
            expected="TFLite's built-in ones", found=op, fix="convert the network with TFLITE_BUILTINS alone" if flex
            else "export the network without it: what it does to the outputs may be a decoder's work (docs/DECODERS.md)",
        )  # fmt: skip
    return ModelError(problem, where=where, found=" ".join(said.split()))
