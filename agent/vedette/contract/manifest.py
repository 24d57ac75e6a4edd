"""The manifest of a bundle: strict, versioned, frozen. ``manifest.json`` is its JSON.

Unknown fields are refused everywhere but under ``extensions``. Values that the types cannot rule out are checked in
``__post_init__``, whose message msgspec puts behind the path of the field.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from .detectors import MAX_ANCHORS as MAX_ANCHORS
from .detectors import BoxesOutput as BoxesOutput
from .detectors import Fraction as Fraction
from .detectors import Index as Index
from .detectors import Positive as Positive
from .detectors import PostprocessOutput as PostprocessOutput
from .detectors import SsdAnchors as SsdAnchors
from .detectors import SsdOutput as SsdOutput
from .detectors import SsdPriors as SsdPriors
from .detectors import YoloOutput as YoloOutput

FORMAT: Final = 1  # the version of this very structure; another one is refused
MAX_VALUES: Final = 1_000_000  # in a window: 4 MB

# "$" alone also stands before a last newline
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]

Task: TypeAlias = Literal["detect", "classify", "pose", "segment", "anomaly", "regress"]
"""What a network is for; its decoder says it."""

EngineClass: TypeAlias = Literal["xnnpack", "builtin", "reference", "edgetpu"]
"""What runs the ops: XNNPACK's kernels, TFLite's own optimised ones, its reference ones, or an Edge TPU."""


class ImageInput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="image"):
    """How a picture becomes the input tensor: ``real = (pixel - mean) / std``, then the tensor's own quantisation.

    ``mean`` and ``std`` are in pixel units (0..255), one value or one a channel, in the order of ``color``.
    """

    height: Annotated[int, Meta(ge=1, le=8192)]
    """Of the input tensor, pixels."""
    width: Annotated[int, Meta(ge=1, le=8192)]
    """Of the input tensor, pixels."""
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    """The order of the channels; `gray` has one."""
    resize: Literal["stretch", "letterbox", "center-crop"] = "stretch"
    """How a frame of another shape becomes the input: stretched, whole with bars, or its middle."""
    interpolation: Literal["bilinear", "area", "nearest"] = "bilinear"
    """OpenCV's; `area` averages what it shrinks."""
    pad_value: Annotated[int, Meta(ge=0, le=255)] = 0
    """Of the bars of `letterbox`, 0..255."""
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)] = (0.0,)
    """Taken off each pixel, 0..255: one value, or one a channel."""
    std: Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)] = (1.0,)
    """What each pixel is divided by then: one value, or one a channel."""

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name}: expected 1 or {self.channels} values for {self.color}, found {len(values)}")
            if not all(abs(v) < 1e9 for v in values):
                raise ValueError(f"{name}: expected finite numbers, found {list(values)}")
        if not all(v > 0 for v in self.std):
            raise ValueError(f"std: expected numbers above 0, found {list(self.std)}")

    @property
    def channels(self) -> int:
        """3, or 1 for grey."""
        return 1 if self.color == "gray" else 3


class Channel(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One quantity that a sensor measures, or a network estimates."""

    name: Annotated[str, Meta(pattern=r'^[^\x00-\x1f\x7f"\\]{1,64}$(?!\n)')]
    """As a source calls it: the key of a JSON object, the head of a CSV column. No quotation marks or backslashes."""
    unit: Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,32}$(?!\n)")] = ""
    """Such as `m/s2`, `degC`; empty where it has none, or nobody knows."""


class SeriesInput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="series"):
    """How readings become the input tensor: windows of ``length`` samples at ``rate_hz``, one every ``stride`` samples,
    ``real = (value - mean) / std`` for each channel, then the tensor's own quantisation.
    """

    channels: Annotated[tuple[Channel, ...], Meta(min_length=1, max_length=256)]
    """In the order of the tensor."""
    length: Annotated[int, Meta(ge=1, le=65_536)]
    """Samples in a window."""
    stride: Annotated[int, Meta(ge=1, le=65_536)]
    """Samples from the beginning of one window to that of the next."""
    rate_hz: Annotated[float, Meta(ge=0.000_001, le=1_000_000.0)] | None = None
    """Samples a second; readings that come at another rate are resampled. None: readings as they come, whenever."""
    max_gap: Annotated[float, Meta(ge=1.0, le=1000.0)] = 5.0
    """Of ``1 / rate_hz``: readings further apart are a gap. No window spans a gap; nothing is made up in it."""
    interpolation: Literal["linear", "previous"] = "linear"
    """Between two readings, where they are resampled."""
    layout: Literal["time-channel", "channel-time"] = "time-channel"
    """The order in the tensor: (1, length, channels) or (1, channels, length); further axes of size 1, or all in one
    axis, are the same."""
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=256)] = (0.0,)
    """Taken off each value, in the sensor's units: one for all, or one a channel."""
    std: Annotated[tuple[float, ...], Meta(min_length=1, max_length=256)] = (1.0,)
    """What each value is divided by then: one for all, or one a channel."""

    def __post_init__(self) -> None:
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise ValueError(f"channels: expected names that differ, found {names}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, len(names)):
                raise ValueError(f"{name}: expected 1 or {len(names)} values, found {len(values)}")
            if not all(abs(v) < 1e30 for v in values):
                raise ValueError(f"{name}: expected finite numbers, found {list(values)}")
        if not all(v > 0 for v in self.std):
            raise ValueError(f"std: expected numbers above 0, found {list(self.std)}")
        if self.length * len(names) > MAX_VALUES:
            found = self.length * len(names)
            raise ValueError(f"length: expected at most {MAX_VALUES} values in a window, found {found}")


class ClassifyOutput(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="decoder", tag="classify"
):
    """One score a class, (1, classes)."""

    scores: Index = 0
    """Which output tensor holds them."""
    activation: Literal["softmax", "sigmoid", "none"] = "none"
    """What the network leaves to be done; ``none`` where it ends in a softmax of its own."""
    top_k: Positive = 5
    """The best so many are told."""
    score_threshold: Fraction = 0.0
    """Classes below it are left out."""


class PoseOutput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="decoder", tag="pose"):
    """Key points as numbers, of one body or of several: MoveNet, BlazePose and the like. ``labels.txt`` names the points."""

    keypoints: Index = 0
    """Which output tensor holds them: all the numbers of one body, or (1, bodies, numbers)."""
    point: Annotated[tuple[Literal["x", "y", "z", "score", "-"], ...], Meta(min_length=2, max_length=16)] = (
        "y",
        "x",
        "score",
    )
    """What the numbers of one point are; ``-`` and ``z`` are passed over."""
    tail: Annotated[tuple[Literal["x_min", "y_min", "x_max", "y_max", "score", "-"], ...], Meta(max_length=64)] = ()
    """What the numbers behind a body's points are."""
    units: Literal["fractions", "pixels"] = "fractions"
    """Of the input tensor."""
    point_activation: Literal["none", "sigmoid"] = "none"
    """What makes a score of a point's number."""
    score: Annotated[int, Meta(ge=-1, le=1023)] = -1
    """Which output tensor holds how sure it is of each body; -1 where that stands in the tail, or is the mean of the points'
    scores."""
    score_activation: Literal["none", "sigmoid"] = "none"
    """What makes a score of a body's number."""
    score_threshold: Fraction = 0.3
    """Bodies below it are left out."""
    max_poses: Positive = 20
    """The best so many are kept."""

    def __post_init__(self) -> None:
        for name, names in (("point", self.point), ("tail", self.tail)):
            if any(names.count(part) > 1 for part in names if part not in ("-", "z")):
                raise ValueError(f"{name}: expected each but '-' once, found {list(names)}")
        if not {"x", "y"} <= set(self.point):
            raise ValueError(f"point: expected x and y among them, found {list(self.point)}")
        corners = len({"x_min", "y_min", "x_max", "y_max"} & set(self.tail))
        if corners not in (0, 4):
            raise ValueError(f"tail: expected all four sides of a box or none, found {list(self.tail)}")
        if self.score < 0 and "score" not in (*self.point, *self.tail):
            raise ValueError("score: expected one, of the points, in the tail or in a tensor, found none")


class HeatmapOutput(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="decoder", tag="pose-heatmap"
):
    """Key points of one body as the highest cell of a map each: (1, rows, columns, points). ``labels.txt`` names them.

    Papandreou et al., arXiv 1701.01779, for one person: the cell, and where in it by the offsets.
    """

    heatmaps: Index = 0
    """Which output tensor holds the maps."""
    offsets: Annotated[int, Meta(ge=-1, le=1023)] = -1
    """Which holds (1, rows, columns, 2 x points), in input pixels, first how far down of each point, then how far to the
    right; -1 where there are none."""
    cells: Literal["corners", "centers"] = "centers"
    """Where a cell's place is: ``corners`` puts the first and the last on the input's edges (PoseNet)."""
    activation: Literal["sigmoid", "none"] = "sigmoid"
    """What makes a score of a cell's number."""
    score_threshold: Fraction = 0.3
    """The body is left out when the mean of its points' scores is below it."""


class SegmentOutput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="decoder", tag="segment"):
    """A score a class for each cell of a grid, (1, rows, columns, classes); or, of whole numbers, the class that the network
    chose, (1, rows, columns). Reported are each class's share of the picture, the box around its cells, and their centroid.
    """

    scores: Index = 0
    """Which output tensor holds them. One class alone: a cell belongs to it from ``score_threshold`` on."""
    activation: Literal["softmax", "sigmoid", "none"] = "none"
    """What the network leaves to be done."""
    score_threshold: Fraction = 0.5
    """Cells whose best class scores less belong to none."""
    background: bool = False
    """Whether class 0 is whatever is nothing else; it is then never reported."""
    min_share: Fraction = 0.001
    """Classes that cover less of the picture are left out."""


class AnomalyOutput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="decoder", tag="anomaly"):
    """An autoencoder's reconstruction of its own input; the score is how far it is off, in normalised units.

    Over window and channels: ``mean((input - reconstruction) ** 2)`` or ``mean(abs(input - reconstruction))``, both
    tensors as reals. ``labels.txt`` names the channels.
    """

    reconstruction: Index = 0
    """Which output tensor holds it; as many values as the input, in the same order."""
    error: Literal["mse", "mae"] = "mse"
    """Squared, or absolute."""
    threshold: Annotated[float, Meta(gt=0.0, le=1e12)]
    """A score above it is an anomaly; found at conversion, on data that is known to be normal."""


class RegressOutput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="decoder", tag="regress"):
    """Numbers: ``value = real * scale + offset``. ``labels.txt`` names them."""

    values: Index = 0
    """Which output tensor holds them, (1, n)."""
    quantities: Annotated[tuple[Channel, ...], Meta(min_length=1, max_length=256)]
    """What each of them is."""
    scale: Annotated[tuple[float, ...], Meta(min_length=1, max_length=256)] = (1.0,)
    """One for all, or one a value."""
    offset: Annotated[tuple[float, ...], Meta(min_length=1, max_length=256)] = (0.0,)
    """One for all, or one a value, in its unit."""

    def __post_init__(self) -> None:
        for name, numbers in (("scale", self.scale), ("offset", self.offset)):
            if len(numbers) not in (1, len(self.quantities)):
                raise ValueError(f"{name}: expected 1 or {len(self.quantities)} values, found {len(numbers)}")
            if not all(abs(v) < 1e30 for v in numbers):
                raise ValueError(f"{name}: expected finite numbers, found {list(numbers)}")


OutputSpec: TypeAlias = (
    SsdOutput
    | PostprocessOutput
    | YoloOutput
    | BoxesOutput
    | ClassifyOutput
    | PoseOutput
    | HeatmapOutput
    | SegmentOutput
    | AnomalyOutput
    | RegressOutput
)
InputSpec: TypeAlias = ImageInput | SeriesInput


class Dataset(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Data that something was measured on, or calibrated with."""

    name: Text
    count: Annotated[int, Meta(ge=1)]
    sha256: Sha256
    """Over the sha256 of every sample's file, in order of their names."""


class Metric(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One figure, of the float original and of this bundle's network."""

    name: Text
    before: float
    after: float
    unit: str = ""
    difference_interval: tuple[float, float] | None = None
    """95 % interval of ``after - before``, by a paired bootstrap over the samples."""


class Evaluation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was measured on which data."""

    data: Dataset
    metrics: Annotated[list[Metric], Meta(min_length=1, max_length=64)]


class Tolerance(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the self-test allows between the float reference's results and this device's, over all golden inputs.

    A detection is found again when one of the same label overlaps it with IoU at least 0.5 and its score differs by
    at most 0.1; for a classifier, when the best class is the same.
    """

    min_agreement: Fraction
    max_mean_score_error: Annotated[float, Meta(ge=0.0, le=1.0)]


class Source(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the weights come from."""

    url: Text
    sha256: Sha256
    licence: Text
    attribution: Text


class LatencyBudget(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long one inference may take, as a ratio, for machines differ."""

    yardstick: Text
    max_ratio: Annotated[float, Meta(gt=0.0, le=1000.0)]


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a bundle says of itself."""

    format: Literal[1] = FORMAT
    name: Name
    version: Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+){0,2}$(?!\n)", max_length=64)]
    task: Task
    input: InputSpec
    output: OutputSpec
    evaluation: list[Evaluation]
    calibration: Dataset | None = None
    precision: Literal["float32", "float16", "dynamic", "int8", "int16x8", "mixed"]
    recipe: Text
    recipe_sha256: Sha256
    source: Source
    seeds: dict[str, int] = {}
    tools: dict[str, str]
    """Versions of what made it, by package name."""
    flatbuffer_bytes: Annotated[int, Meta(ge=16)]
    flatbuffer_sha256: Sha256
    members: dict[str, Sha256]
    """sha256 of every other member of the archive but ``measurements.json`` and ``manifest.sig``."""
    tolerances: dict[EngineClass, Tolerance]
    latency_budget: LatencyBudget | None = None
    extensions: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if task_of(self.output) != self.task:
            raise ValueError(f"task: {self.task!r} does not go with the decoder {decoder_name(self.output)!r}")
        if isinstance(self.input, SeriesInput) and self.task in ("detect", "pose", "segment"):
            raise ValueError(f"task: {self.task!r} does not go with an input of kind {kind_name(self.input)!r}")
        if self.task in ("pose", "segment"):
            # `vedette.contract.golden` has no measure of agreement for them yet
            raise ValueError(f"task: expected one that golden vectors can prove, found {self.task!r}")


def decoder_name(output: OutputSpec) -> str:
    """The name a manifest or a configuration calls this decoder by."""
    return str(output.__struct_config__.tag)


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON that people can read, the same bytes for the same manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def decode(raw: bytes) -> Manifest:
    """Parses strictly. Raises ``msgspec.ValidationError`` or ``msgspec.DecodeError``, whose text names the field."""
    return msgspec.json.decode(raw, type=Manifest)


def kind_name(spec: InputSpec) -> str:
    """What a manifest calls this kind of input."""
    return str(spec.__struct_config__.tag)


def task_of(output: OutputSpec) -> Task:
    """What a network with this head is for."""
    if isinstance(output, SsdOutput | PostprocessOutput | YoloOutput | BoxesOutput):
        return "detect"
    if isinstance(output, PoseOutput | HeatmapOutput):
        return "pose"
    if isinstance(output, SegmentOutput):
        return "segment"
    if isinstance(output, ClassifyOutput):
        return "classify"
    return "anomaly" if isinstance(output, AnomalyOutput) else "regress"
