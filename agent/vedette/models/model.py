"""A network in an engine: frames, or windows of readings, into results. What is known of it: `vedette.models.spec`."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from vedette.contract import golden
from vedette.contract.bgr import in_bgr
from vedette.contract.boxes import with_area
from vedette.contract.decode import ClassifyDecoder, Decoder, PostprocessDecoder, SegmentDecoder, make_decoder
from vedette.contract.errors import ModelError, SelfTestError, VedetteError
from vedette.contract.image import ImagePreprocessor, Placement
from vedette.contract.labels import is_used
from vedette.contract.manifest import InputSpec, SeriesInput
from vedette.contract.types import (
    Classes,
    Detections,
    Float32Array,
    Frame,
    Jpeg,
    Picture,
    Planes,
    Poses,
    Result,
    Segments,
    Tensor,
    TensorSpec,
    Window,
)
from vedette.contract.window import SeriesPreprocessor
from vedette.engine import Engine, SelfTest, TfliteEngine, load_runtime, probe, run_self_test

from .spec import ModelSpec as ModelSpec
from .spec import PlainModel as PlainModel
from .spec import find_model as find_model
from .spec import input_from
from .spec import model_folders as model_folders
from .spec import read_model as read_model
from .spec import read_network as read_network
from .spec import share_folder as share_folder

WHOLE: Final = Placement(0.0, 0.0, 1.0, 1.0)  # a sample that fills the input tensor


def to_frame(result: Result, placement: Placement) -> Result:
    """Boxes, key points and centroids in fractions of the input tensor -> fractions of the frame.

    An object or a body whose box lies wholly beside the frame is none: it was seen on the bars of a letterbox, or nowhere.
    """
    if isinstance(result, Detections):
        boxes = placement.to_frame(result.boxes)
        found = Detections(boxes, result.scores, result.class_ids)
        return found if (on_frame := with_area(boxes)) is None else found.take(on_frame)
    if isinstance(result, Poses):
        keypoints = result.keypoints.copy()
        keypoints[:, :, :2] = placement.points_to_frame(keypoints[:, :, :2])
        if result.boxes is None:
            return Poses(result.scores, keypoints)
        boxes = placement.to_frame(result.boxes)
        poses = Poses(result.scores, keypoints, boxes)
        return poses if (on_frame := with_area(boxes)) is None else poses.take(on_frame)
    if isinstance(result, Segments):
        centroids = placement.points_to_frame(result.centroids)
        return Segments(result.class_ids, result.shares, placement.to_frame(result.boxes), centroids)
    return result


_LABELLED = (Detections, Classes, Segments)  # whose rows each have a class
_COUNTABLE = (Detections, Classes, Poses, Segments)  # of any number of things, none included


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a result says less than the network gave.

    ``no_number``: it is empty, and not because nothing is there; ``no_score``: its scores are none; ``no_label``: ``count``
    things are left out of it.
    """

    reason: Literal["no_number", "no_score", "no_label"]
    count: int
    why: str

    @property
    def broken(self) -> bool:
        """Whether there is no result at all."""
        return self.reason != "no_label"


class Model:
    """A network in an engine, with what goes before and after it. Owned by one thread."""

    def __init__(self, spec: ModelSpec, engine: Engine, *, score_threshold: float | None = None) -> None:
        """Raises `ModelError` where the engine's tensors are not what the spec says."""
        if len(engine.inputs) != 1:
            raise ModelError(
                "network", where=spec.path, expected="one input tensor, for a picture or a window of readings",
                found=f"{len(engine.inputs)}: {', '.join(map(str, engine.inputs))}",
                fix="nothing feeds the others: export the network without them",
            )  # fmt: skip
        self.spec = spec
        self.engine = engine
        self.input: InputSpec = input_from(engine.inputs[0], spec)
        """How samples become the input tensor; of a plain model completed by what its file says."""
        try:
            self._preprocess = _preprocessor(self.input, engine.inputs[0])
            self._decode = self._decoder(score_threshold)
        except ModelError as error:
            raise ModelError(
                error.problem, where=f"{spec.path}: {error.where}" if error.where else spec.path,
                expected=error.expected, found=error.found, fix=error.fix,
            ) from None  # fmt: skip
        self._inputs, self._outputs = engine.allocate()
        self.doubt: Doubt | None = None
        """Of the last result; None for none."""
        self._floats = [n for n, tensor in enumerate(engine.outputs) if tensor.dtype.kind == "f"]
        self._unused = frozenset(class_id for class_id, label in enumerate(spec.labels) if not is_used(label))

    def _decoder(self, score_threshold: float | None) -> Decoder:
        return make_decoder(
            self.spec.output, self.engine.outputs, len(self.spec.labels), inputs=self.engine.inputs,
            input_spec=self.input, score_threshold=score_threshold,
        )  # fmt: skip

    def sibling(self) -> Model:
        """The same engine and decoder with buffers of its own: one is prepared while the other is inferred or decoded.

        An engine runs one inference at a time, and a decoder reads one's outputs: whoever shares them sees to that.
        """
        twin = copy(self)
        twin._preprocess = _preprocessor(self.input, self.engine.inputs[0])
        twin._inputs, twin._outputs = self.engine.allocate()
        return twin

    def decide_from(self, score_threshold: float) -> None:
        """From which score on results are decoded from now on, or windows are anomalous. Any thread may call it.

        Raises `ModelError` for a threshold that cannot be.
        """
        self._decode = self._decoder(score_threshold)

    def decide_as(self, sibling: Model) -> None:
        """As that one, whose decoder it shares from now on, as when it was made."""
        self._decode = sibling._decode

    def preprocess(self, sample: Frame | Window | Picture | Float32Array) -> Placement:
        """Puts a sample into the input buffer: a frame, or its picture, (height, width, 3) uint8 BGR, planes or JPEG; or a
        window, or its values, (length, channels) float32 in the sensor's units.

        Raises `PictureError` or `ReadingsError` for one that cannot be used.
        """
        data = _data(sample)
        if isinstance(self._preprocess, SeriesPreprocessor):
            values: Tensor = in_bgr(data)
            self._preprocess(values, self._inputs[0])
            return WHOLE
        return self._preprocess(data, self._inputs[0])

    def infer(self, engine: Engine | None = None) -> None:
        """Runs the network on the input buffer; ``engine``: in the place of its own, another one of the same file."""
        (engine or self.engine).invoke(self._inputs, self._outputs)

    def decode(self, placement: Placement | None = None) -> Result:
        """What the last inference found, places as fractions of the frame; classes without a label left out.

        ``placement``: what `preprocess` said; None: the frame fills the input tensor.
        """
        placement = placement or WHOLE
        decoder = self._decode
        if isinstance(decoder, SegmentDecoder):
            result: Result = decoder(self._outputs, seen=placement.seen)
        else:
            result = decoder(self._outputs, self._inputs)
        self.doubt = self._doubt(decoder, result)
        result = to_frame(result, placement)
        if not self._unused or not isinstance(result, _LABELLED):
            return result
        class_ids = result.class_ids.tolist()
        if self._unused.isdisjoint(class_ids):
            return result
        return result.take(np.array([class_id not in self._unused for class_id in class_ids]))

    def _doubt(self, decoder: Decoder, result: Result) -> Doubt | None:
        """Looks at the outputs as a whole only where nothing was found in them, and where they can hold NaN."""
        if isinstance(decoder, PostprocessDecoder | SegmentDecoder) and decoder.unlabelled:
            return Doubt(
                "no_label", len(decoder.unlabelled), f"labels do not fit the network: it found class "
                f"{decoder.unlabelled[0]:g}, counted from 0, and there are {len(self.spec.labels)} labels; give the labels "
                "file that belongs to this model, with ??? for what is not to be reported",
            )  # fmt: skip
        if isinstance(decoder, ClassifyDecoder) and decoder.no_score is not None:
            return Doubt(
                "no_score", 1, f"the network gives {decoder.no_score:.3g} where a score is from 0 to 1, so an activation is "
                "left to be done; say which: softmax, or sigmoid (--activation, or activation in the output options)",
            )  # fmt: skip
        if not isinstance(result, _COUNTABLE) or len(result):
            return None
        for number in self._floats:
            output = self._outputs[number]
            # NaN is the largest of all; minus infinity is the logit of what cannot be
            if output.size and not output.max() < np.inf:
                name = self.engine.outputs[number].name
                return Doubt(
                    "no_number", 1, f"the network gives no finite numbers in output tensor {name}; see whether mean and std "
                    "are those that it was trained with",
                )  # fmt: skip
        return None

    def __call__(self, sample: Frame | Window | Picture | Float32Array) -> Result:
        """All three."""
        placement = self.preprocess(sample)
        self.infer()
        return self.decode(placement)

    @property
    def outputs(self) -> list[Tensor]:
        """The raw output buffers; overwritten by the next inference."""
        return self._outputs


def _data(sample: Frame | Window | Picture | Float32Array) -> Tensor | Planes | Jpeg:
    if isinstance(sample, Frame):
        return sample.pixels
    return sample.values if isinstance(sample, Window) else sample


def _preprocessor(spec: InputSpec, tensor: TensorSpec) -> ImagePreprocessor | SeriesPreprocessor:
    return SeriesPreprocessor(spec, tensor) if isinstance(spec, SeriesInput) else ImagePreprocessor(spec, tensor)


def load_model(
    spec: ModelSpec,
    *,
    runtime: str = "auto",
    threads: int = 1,
    score_threshold: float | None = None,
    content: bytes | None = None,
) -> Model:
    """Loads the network into an engine in this process, a plain file only after a child process has survived it.

    ``content``: what `read_network` gave, for whoever shares it among engines; None: it is read.
    """
    if spec.bundle is None:
        probe(spec.path, runtime)
    if content is None:
        content = read_network(spec)
    engine = TfliteEngine(spec.path, load_runtime(runtime), threads=threads, content=content)
    try:
        return Model(spec, engine, score_threshold=score_threshold)
    except VedetteError:
        engine.close()
        raise


def self_test(model: Model) -> SelfTest | None:
    """Runs the bundle's golden vectors on this machine; None for a plain model, which has none.

    Raises `SelfTestError` when the results are not those the bundle was proved to give.
    """
    bundle = model.spec.bundle
    if bundle is None:
        return None
    where = f"{bundle.path}: golden.npz"
    vectors = golden.decode(bundle.read("golden.npz"), where)
    outcome = run_self_test(model.engine, bundle.manifest, len(bundle.labels), vectors, where)
    if outcome.passed is False:
        raise SelfTestError("self-test failed on this machine", where=bundle.path, found=outcome.reason)
    return outcome
