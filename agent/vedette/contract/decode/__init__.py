"""Output tensors -> results. One file a head, named in the manifest; a registry of three lines.

A decoder is built once for one network, checks shapes then, and keeps what it can precompute. Boxes come out as
fractions of the input tensor; `vedette.contract.image.Placement` takes them to the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import ModelError
from ..manifest import ClassifyOutput, OutputSpec, PostprocessOutput, SsdOutput
from ..types import Result, Tensor, TensorSpec
from .classify import ClassifyDecoder
from .postprocess import PostprocessDecoder
from .ssd import SsdDecoder


class Decoder(Protocol):
    """Reads raw output tensors. Stateless between calls, so threads may share one."""

    @property
    def classes(self) -> int | None:
        """How many classes the network tells apart; None where its tensors do not say."""
        ...

    def __call__(self, outputs: Sequence[Tensor]) -> Result:
        """``outputs``: every output tensor of the network, raw, in the network's order."""
        ...


def make_decoder(
    spec: OutputSpec, tensors: Sequence[TensorSpec], labels: int, *, score_threshold: float | None = None
) -> Decoder:
    """The decoder that a manifest names, for a network with these outputs and this many labels.

    ``score_threshold`` takes the place of the manifest's. Raises `ModelError` when the tensors do not fit.
    """
    threshold = spec.score_threshold if score_threshold is None else score_threshold
    decoder: Decoder
    if isinstance(spec, SsdOutput):
        decoder = SsdDecoder(spec, tensors, threshold)
    elif isinstance(spec, PostprocessOutput):
        decoder = PostprocessDecoder(spec, tensors, threshold, labels)
    elif isinstance(spec, ClassifyOutput):
        decoder = ClassifyDecoder(spec, tensors, threshold)
    if decoder.classes is not None and labels != decoder.classes:
        raise ModelError(
            "labels do not fit the network",
            expected=f"{decoder.classes} labels, one a class",
            found=f"{labels}",
            fix="give the labels file that belongs to this model",
        )
    return decoder


__all__ = ["Decoder", "make_decoder"]
