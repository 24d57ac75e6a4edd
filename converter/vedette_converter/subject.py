"""Runs a flatbuffer over pictures or windows with the agent's own preprocessing, engine and decoder: what is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from vedette.contract.boxes import with_area
from vedette.contract.decode import ClassifyDecoder, make_decoder
from vedette.contract.errors import FaultError, UserError
from vedette.contract.image import ImagePreprocessor, Placement
from vedette.contract.labels import is_used
from vedette.contract.manifest import ImageInput, InputSpec, OutputSpec
from vedette.contract.types import Classes, Detections, Float32Array, Result, Tensor, UInt8Array
from vedette.contract.window import SeriesPreprocessor
from vedette.engine import Engine

from .pictures import read_picture

Raw: TypeAlias = UInt8Array | Float32Array
"""What a source gives: a picture, (height, width, 3) uint8 BGR, or a window, (length, channels) float32."""


class Subject:
    """One network, as the agent would run it. Owned by one thread: it keeps the engine's buffers."""

    def __init__(
        self, engine: Engine, input_spec: InputSpec, output_spec: OutputSpec, labels: Sequence[str],
        *, score_threshold: float | None,
    ) -> None:  # fmt: skip
        """``score_threshold``: in the place of the manifest's; None for that one.

        Raises `ModelError` where network, manifest and labels do not fit together."""
        self.engine = engine
        self._inputs, self._outputs = engine.allocate()
        self._preprocess: Callable[[Any, Tensor], Placement | None]
        if isinstance(input_spec, ImageInput):
            self._preprocess = ImagePreprocessor(input_spec, engine.inputs[0])
        else:
            self._preprocess = SeriesPreprocessor(input_spec, engine.inputs[0])
        self._decode = make_decoder(
            output_spec, engine.outputs, len(labels), inputs=engine.inputs, input_spec=input_spec,
            score_threshold=score_threshold,
        )  # fmt: skip
        self._used = np.array([is_used(label) for label in labels])

    def __call__(self, sample: Raw) -> Result:
        """Results in a picture or a window; boxes as fractions of the picture, ids without a label left out,
        and what lies wholly beside the picture."""
        placement = self._preprocess(sample, self._inputs[0])
        found = self.on_tensor()
        if isinstance(found, Detections) and placement is not None:
            boxes = placement.to_frame(found.boxes)
            found = Detections(boxes, found.scores, found.class_ids)
            return found if (on_frame := with_area(boxes)) is None else found.take(on_frame)
        return found

    def preprocess(self, sample: Raw) -> Tensor:
        """The input tensor for a picture or a window, without its batch dimension: a copy."""
        self._preprocess(sample, self._inputs[0])
        return np.array(self._inputs[0][0])

    def on_tensor(self, tensor: Tensor | None = None) -> Result:
        """Results for an input already preprocessed, or for what is in the buffer; boxes as fractions of the input.

        Raises `UserError` where a classifier's numbers are no scores: the agent would report none of them.
        """
        if tensor is not None:
            np.copyto(self._inputs[0][0], tensor)
        self.engine.invoke(self._inputs, self._outputs)
        found = self._decode(self._outputs, self._inputs)
        if isinstance(self._decode, ClassifyDecoder) and self._decode.no_score is not None:
            raise UserError(
                "the network leaves an activation to be done", where="output.activation", expected="scores from 0 to 1",
                found=f"{self._decode.no_score:.3g}", fix='activation = "softmax", or "sigmoid" (--activation)',
            )  # fmt: skip
        return found.take(self._used[found.class_ids]) if isinstance(found, Detections | Classes) else found

    def raw(self) -> list[Tensor]:
        """Copies of the output tensors of the last run."""
        return [np.array(output[0]) for output in self._outputs]


class Detector(Subject):
    """A subject that finds boxes."""

    def __call__(self, sample: Raw) -> Detections:
        """See `Subject`. Raises `FaultError` where the decoder finds no boxes."""
        found = super().__call__(sample)
        if not isinstance(found, Detections):
            raise FaultError("the recipe's decoder finds no boxes", found=type(found).__name__)
        return found


class Classifier(Subject):
    """A subject that names classes."""

    def __call__(self, sample: Raw) -> Classes:
        """See `Subject`. Raises `FaultError` where the decoder names no classes."""
        found = super().__call__(sample)
        if not isinstance(found, Classes):
            raise FaultError("the recipe's decoder names no classes", found=type(found).__name__)
        return found


Seen = TypeVar("Seen", Detections, Classes)


def look(
    subjects: Sequence[Callable[[UInt8Array], Seen]],
    pictures: Sequence[Path],
    on_picture: Callable[[], None] = lambda: None,
) -> list[list[Seen]]:
    """For each subject, what it sees picture by picture; every picture is decoded once."""
    found: list[list[Seen]] = [[] for _ in subjects]
    for path in pictures:
        pixels = read_picture(path)
        for number, subject in enumerate(subjects):
            found[number].append(subject(pixels))
        on_picture()
    return found
