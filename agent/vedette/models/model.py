"""From a name or a path to something that turns frames, or windows of readings, into results.

A bundle says all of itself. A plain third-party ``.tflite`` says little: a `PlainModel` stands in for its manifest, with
what the user gave; nothing is guessed silently.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from vedette.contract import golden
from vedette.contract.boxes import with_area
from vedette.contract.bundle import Bundle, has_archive, open_bundle, third_party_archive
from vedette.contract.decode import Decoder, PostprocessDecoder, SegmentDecoder, make_decoder
from vedette.contract.errors import ModelError, SelfTestError, VedetteError
from vedette.contract.flatbuffer import is_whole
from vedette.contract.image import ImagePreprocessor, Placement
from vedette.contract.labels import is_used, parse_third_party_labels
from vedette.contract.manifest import (
    AnomalyOutput,
    ImageInput,
    InputSpec,
    Manifest,
    OutputSpec,
    RegressOutput,
    SeriesInput,
    task_of,
)
from vedette.contract.planes import in_bgr
from vedette.contract.tflite_metadata import read_normalization
from vedette.contract.types import (
    Classes,
    Detections,
    Float32Array,
    Frame,
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

if TYPE_CHECKING:
    from vedette.trust.signatures import Trust

SUFFIX: Final = ".tflite"
WHOLE: Final = Placement(0.0, 0.0, 1.0, 1.0)  # a sample that fills the input tensor


@dataclass(frozen=True, slots=True)
class PlainModel:
    """What a user says of a model that carries no manifest. None: as the file's own tensors say."""

    output: OutputSpec | None = None
    input: InputSpec | None = None
    labels_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is known of a model before an engine has loaded it."""

    path: Path
    name: str
    version: str
    sha256: str
    """Of a bundle's manifest, which names all the rest; of a plain model, the file's."""
    labels: tuple[str, ...]
    input: InputSpec
    output: OutputSpec
    bundle: Bundle | None

    @property
    def manifest(self) -> Manifest | None:
        """None for a plain model."""
        return self.bundle.manifest if self.bundle else None


def find_model(name: str) -> Path:
    """By path, then in $VEDETTE_MODELS, then in the installed share/vedette/models, then in a checkout's models/.

    Raises `ModelError` that says where it was looked for.
    """
    if "\0" in name:
        raise ModelError("no such model", where=repr(name), expected="a name without NUL bytes")
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.exists():
        raise ModelError("no model file", where=path, expected="a regular file", found="a folder, device or pipe")
    file_name = name if name.endswith(SUFFIX) else name + SUFFIX
    if path.parent != Path():
        raise ModelError("no such model file", where=name)
    folders = model_folders()
    for folder in folders:
        candidate = folder / file_name
        if candidate.is_file():
            return candidate
    raise ModelError(
        "no such model", where=name, expected=f"a file, or {file_name} in one of " + ", ".join(map(str, folders)),
        fix="vedette show lists the models there are" if any(f.is_dir() for f in folders) else "",
    )  # fmt: skip


def model_folders() -> list[Path]:
    """Where models are looked for by name, in this order."""
    configured = os.environ.get("VEDETTE_MODELS", "")
    folders = [Path(part) for part in configured.split(os.pathsep) if part]
    return [*folders, share_folder("models")]


def share_folder(name: str) -> Path:
    """A folder that came with the package: a checkout's own, or installed beside it.

    The checkout comes first: an editable installation has copies of its own, from when it was made.
    """
    checkout = Path(__file__).resolve().parents[3]
    installed = Path(sysconfig.get_path("data")) / "share" / "vedette" / name
    if installed.is_dir() and not (checkout / "pyproject.toml").is_file():
        return installed
    return checkout / {"media": "examples/media"}.get(name, name)


def read_model(name: str, plain: PlainModel | None = None, trust: Trust | None = None) -> ModelSpec:
    """Reads and checks everything but the network itself. Raises `ModelError` or `BundleError`.

    ``trust``: whose signature it needs; None: nobody's.
    """
    spec = _read(find_model(name), plain, trust)
    named = _named(spec.input, spec.output)
    if named is not None and spec.labels != named:
        raise ModelError(
            "labels are not the names that the model says", where=spec.path, expected=", ".join(named),
            found=", ".join(spec.labels),
        )  # fmt: skip
    return spec


def _read(path: Path, plain: PlainModel | None, trust: Trust | None) -> ModelSpec:
    if has_archive(path):
        bundle = open_bundle(path, trust.check if trust is not None else None)
        if plain is not None and plain != PlainModel():
            raise ModelError(
                "is a bundle, which says all of itself", where=path, expected="no decoder, labels or input options",
                found="some", fix="leave them out",
            )  # fmt: skip
        manifest = bundle.manifest
        return ModelSpec(
            path, manifest.name, manifest.version, bundle.sha256, bundle.labels, manifest.input, manifest.output, bundle
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError("cannot be read", where=path, found=error.strerror or str(error)) from None
    if not is_whole(data):  # of a bundle that is cut there is no manifest left, and no advice about one helps
        raise ModelError(
            "is truncated or corrupt", where=path, expected="a TFLite model whose tables and weights lie inside the file",
            found=f"{len(data)} bytes", fix="get it again",
        )  # fmt: skip
    if trust is not None and trust.require:
        raise ModelError(
            "has no manifest, so nobody can have signed it", where=path, expected="a signed bundle",
            fix="make a bundle of it and sign that, or set trust.require = false",
        )  # fmt: skip
    plain = plain or PlainModel()
    if plain.output is None:
        raise ModelError(
            "has no manifest, so nobody knows what its output tensors mean", where=path, expected="a decoder",
            fix="give one: --decoder NAME (in a config: [pipeline.NAME.plain.output], see the end of vedette.toml)",
        )  # fmt: skip
    labels = _plain_labels(path, plain, plain.output)
    return ModelSpec(
        path, path.stem, "0", hashlib.sha256(data).hexdigest(), labels, plain.input or ImageInput(height=1, width=1),
        plain.output, None,
    )  # fmt: skip


def _plain_labels(path: Path, plain: PlainModel, output: OutputSpec) -> tuple[str, ...]:
    # key points, channels and quantities are told apart by their names alone
    unique = task_of(output) in ("pose", "anomaly", "regress")
    if plain.labels_file is not None:
        try:
            raw = plain.labels_file.read_bytes()
        except OSError as error:
            raise ModelError("labels cannot be read", where=plain.labels_file, found=error.strerror or "") from None
        return parse_third_party_labels(raw, plain.labels_file, unique=unique)
    if (named := _named(plain.input, output)) is not None:
        return named
    carried = third_party_archive(path)
    if len(carried) == 1:
        name, raw = next(iter(carried.items()))
        return parse_third_party_labels(raw, f"{path}: {name}", unique=unique)
    raise ModelError(
        "has no labels", where=path, expected="a labels file", found=f"{len(carried)} text files inside the model",
        fix="give one: --labels FILE (in a config: labels_file in [pipeline.NAME.plain])",
    )  # fmt: skip


def _named(input: InputSpec | None, output: OutputSpec) -> tuple[str, ...] | None:
    """What the labels must be, where input or output name channels or quantities; None where labels say more."""
    if isinstance(output, RegressOutput):
        return tuple(quantity.name for quantity in output.quantities)
    if isinstance(output, AnomalyOutput) and isinstance(input, SeriesInput):
        return tuple(channel.name for channel in input.channels)
    return None


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

    ``no_number``: it is empty, and not because nothing is there; ``no_label``: ``count`` things are left out of it.
    """

    reason: Literal["no_number", "no_label"]
    count: int
    why: str


class Model:
    """A network in an engine, with what goes before and after it. Owned by one thread."""

    def __init__(self, spec: ModelSpec, engine: Engine, *, score_threshold: float | None = None) -> None:
        """Raises `ModelError` where the engine's tensors are not what the spec says."""
        if len(engine.inputs) != 1:
            raise ModelError("network", where=spec.path, expected="one input tensor", found=str(len(engine.inputs)))
        self.spec = spec
        self.engine = engine
        self.input: InputSpec = spec.input
        """How samples become the input tensor; of a plain model completed by what its file says."""
        if isinstance(spec.input, ImageInput) and spec.bundle is None and spec.input.height == 1:
            self.input = _input_from(engine.inputs[0], spec)
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
        """Puts a sample into the input buffer: a frame, or its picture, (height, width, 3) uint8 BGR or planes; or a window,
        or its values, (length, channels) float32 in the sensor's units.

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
        if isinstance(decoder, PostprocessDecoder) and decoder.unlabelled:
            return Doubt(
                "no_label", len(decoder.unlabelled), f"labels do not fit the network: it found class "
                f"{decoder.unlabelled[0]:g}, counted from 0, and there are {len(self.spec.labels)} labels; give the labels "
                "file that belongs to this model, with ??? for what is not to be reported",
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


def _data(sample: Frame | Window | Picture | Float32Array) -> Tensor | Planes:
    if isinstance(sample, Frame):
        return sample.pixels
    return sample.values if isinstance(sample, Window) else sample


def _preprocessor(spec: InputSpec, tensor: TensorSpec) -> ImagePreprocessor | SeriesPreprocessor:
    return SeriesPreprocessor(spec, tensor) if isinstance(spec, SeriesInput) else ImagePreprocessor(spec, tensor)


def _input_from(tensor: TensorSpec, spec: ModelSpec) -> ImageInput:
    """For a plain model without input options: the tensor's own size, RGB, and the normalisation its metadata states.

    Without metadata a uint8 or int8 tensor takes the pixels as they are, for its quantisation maps their range over its
    whole own, and uint8 without one has no other. A float or int16 tensor makes no such statement, so it must be given.
    """
    shape = tensor.shape
    if len(shape) != 4 or shape[0] != 1 or shape[3] not in (1, 3):
        raise ModelError(
            "input tensor is no picture", where=spec.path, expected="shape [1, height, width, 1|3]", found=str(tensor)
        )
    color: Literal["gray", "rgb"] = "gray" if shape[3] == 1 else "rgb"
    stated = read_normalization(spec.path.read_bytes())
    if stated is not None and (tensor.quantised or tensor.dtype != np.uint8):
        return ImageInput(height=shape[1], width=shape[2], color=color, mean=stated.mean, std=stated.std)
    if tensor.dtype in (np.float32, np.int16) or (tensor.dtype == np.int8 and not tensor.quantised):
        advice = "--mean 127.5 --std 127.5 for -1..1, --mean 0 --std 255 for 0..1"
        if tensor.dtype != np.float32 and not tensor.quantised:
            advice = "--mean 0 --std 1 for pixels as they are, --mean 128 --std 1 for pixel - 128"
        raise ModelError(
            f"takes {tensor.dtype.name} pixels, and nobody knows in which range", where=spec.path, expected="mean and std",
            fix=f"give them: --size {shape[2]}x{shape[1]} and {advice} (in a config: [pipeline.NAME.plain])",
        )  # fmt: skip
    if not tensor.quantised:
        return ImageInput(height=shape[1], width=shape[2], color=color)
    # the quantisation maps 0..255 over the tensor's whole range: raw = pixel for uint8, pixel - 128 for int8
    low = float(np.iinfo(tensor.dtype.name).min - tensor.zero_point) * tensor.scale
    return ImageInput(
        height=shape[1], width=shape[2], color=color, mean=(-low / tensor.scale,), std=(1 / tensor.scale,)
    )


def read_network(spec: ModelSpec) -> bytes:
    """The flatbuffer that was checked when the spec was read, whatever is being written to its path meanwhile.

    Raises `ModelError` where it is another one by now.
    """
    if spec.bundle is not None:
        return spec.bundle.flatbuffer()
    try:
        data = spec.path.read_bytes()
    except OSError as error:
        raise ModelError("cannot be read", where=spec.path, found=error.strerror or str(error)) from None
    if hashlib.sha256(data).hexdigest() != spec.sha256:
        raise ModelError("changed while it was in use", where=spec.path)
    return data


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
