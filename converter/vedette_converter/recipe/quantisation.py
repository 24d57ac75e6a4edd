"""How float becomes integer, as a recipe says it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from vedette.contract.manifest import Positive

Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class Quantise(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How float becomes integer: full int8, weights per channel, activations per tensor (TFLite's quantisation spec)."""

    precision: Literal["int8"] = "int8"
    input: Literal["int8", "uint8"] = "int8"
    """The input tensor's dtype. Float would cost a conversion of the whole picture on the device."""
    output: Literal["int8", "uint8"] = "int8"
    """The output tensors' dtype."""
    pictures: Positive = 160
    """How many calibration pictures are drawn; fewer where the folder has fewer."""
    seed: Seed = 1
    """Of the draw."""
