"""Output tensors -> results. One file a head, named in the manifest; a registry of three lines.

A decoder is built once for one network, checks shapes then, and keeps what it can precompute. Boxes come out as
fractions of the input tensor; `vedette.contract.image.Placement` takes them to the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from ..errors import ModelError
from ..manifest import (
    AnomalyOutput,
    BoxesOutput,
    ClassifyOutput,
    HeatmapOutput,
    InputSpec,
    OutputSpec,
    PoseOutput,
    PostprocessOutput,
    RegressOutput,
    SeriesInput,
    SsdOutput,
    YoloOutput,
    task_of,
)
from ..types import Result, Tensor, TensorSpec
from .anomaly import AnomalyDecoder
from .boxes import BoxesDecoder
from .classify import ClassifyDecoder
from .heatmap import HeatmapDecoder
from .pose import PoseDecoder
from .postprocess import PostprocessDecoder
from .regress import RegressDecoder
from .segment import SegmentDecoder
from .ssd import SsdDecoder
from .yolo import YoloDecoder


class Decoder(Protocol):
    """Reads raw tensors. Owned by one thread at a time: it may keep scratch buffers."""

    @property
    def classes(self) -> int | None:
        """How many labels the network needs; None where its tensors do not say."""
        ...

    def __call__(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> Result:
        """``outputs``: every output tensor of the network, raw, in the network's order. ``inputs``: what it was run on,
        for decoders that compare the two; the others do not look at it.
        """
        ...


def make_decoder(
    spec: OutputSpec,
    tensors: Sequence[TensorSpec],
    labels: int,
    *,
    inputs: Sequence[TensorSpec] = (),
    input_spec: InputSpec | None = None,
    score_threshold: float | None = None,
) -> Decoder:
    """The decoder that a manifest names, for a network with these outputs and this many labels.

    ``inputs``, ``input_spec``: the network's input tensors and the manifest's input; decoders that compare with the input,
    or measure in its pixels, raise `ValueError` without. ``score_threshold`` takes the place of the manifest's, the
    anomaly's own included. Raises `ModelError` when the tensors do not fit.
    """
    decoder: Decoder
    if isinstance(spec, RegressOutput):
        decoder = RegressDecoder(spec, tensors)
    elif isinstance(spec, AnomalyOutput):
        if input_spec is None:
            raise ValueError("input_spec must be given for the decoder anomaly")
        decoder = AnomalyDecoder(
            spec,
            tensors,
            inputs,
            channels=len(input_spec.channels) if isinstance(input_spec, SeriesInput) else input_spec.channels,
            channels_last=not isinstance(input_spec, SeriesInput) or input_spec.layout == "time-channel",
            threshold=spec.threshold if score_threshold is None else score_threshold,
        )
    else:
        threshold = spec.score_threshold if score_threshold is None else score_threshold
        if isinstance(spec, SsdOutput):
            decoder = SsdDecoder(spec, tensors, threshold, inputs=inputs)
        elif isinstance(spec, PostprocessOutput):
            decoder = PostprocessDecoder(spec, tensors, threshold, labels)
        elif isinstance(spec, YoloOutput):
            decoder = YoloDecoder(spec, tensors, threshold, inputs=inputs)
        elif isinstance(spec, BoxesOutput):
            decoder = BoxesDecoder(spec, tensors, threshold, inputs=inputs)
        elif isinstance(spec, PoseOutput):
            decoder = PoseDecoder(spec, tensors, threshold, labels, inputs=inputs)
        elif isinstance(spec, HeatmapOutput):
            decoder = HeatmapDecoder(spec, tensors, threshold, inputs=inputs)
        elif isinstance(spec, ClassifyOutput):
            decoder = ClassifyDecoder(spec, tensors, threshold)
        else:
            decoder = SegmentDecoder(spec, tensors, threshold, labels)
    if decoder.classes is not None and labels != decoder.classes:
        fix = "give the labels file that belongs to this model"
        if isinstance(spec, BoxesOutput) and spec.background == "none" and labels == decoder.classes - 1:
            fix += ', or say which score is the background\'s: background = "first" or "last"'
        if isinstance(spec, ClassifyOutput) and labels == decoder.classes - 1:
            fix += "; where class 0 is the background, a line ??? comes first"
        raise ModelError(
            "labels do not fit the network",
            expected=f"{decoder.classes} labels, one {_LABELLED[task_of(spec)]}",
            found=f"{labels}",
            fix=fix,
        )
    return decoder


_LABELLED: Final = {
    "detect": "a class", "classify": "a class", "pose": "a key point", "segment": "a class", "anomaly": "a channel",
    "regress": "a value",
}  # fmt: skip

__all__ = ["ClassifyDecoder", "Decoder", "PostprocessDecoder", "SegmentDecoder", "make_decoder"]
