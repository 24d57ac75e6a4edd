"""A recipe: everything that makes one bundle, as data. TOML, read into frozen structs; unknown keys are refused.

Paths in a recipe are relative to its own file. Every option, its unit and its default is documented here;
``models/recipes/`` holds the ones behind the shipped bundles.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from vedette.contract.errors import ConfigError, UserError
from vedette.contract.manifest import (
    BoxesOutput,
    ClassifyOutput,
    Fraction,
    ImageInput,
    Name,
    Positive,
    RegressOutput,
    SeriesInput,
    Sha256,
    SsdOutput,
    Text,
    YoloOutput,
)
from vedette.contract.wording import nearest

from .quantisation import Quantise, Seed
from .search import Search
from .series import AnomalyHead, Series
from .sources import Source
from .training import IMAGE_NETWORKS, Augment, Distil, Prune, Sparsify, Train, ZooSource

_VERSION: Final = r"^[0-9]+(\.[0-9]+){0,2}$"
NAME_IN_WORDS: Final = "1 to 64 lower case letters, digits, dots, dashes and _, a letter or digit first"

ANY_RATIO: Final = 1000.0
"""The ``[latency] max_ratio`` that promises nothing."""

PicturedOutput: TypeAlias = SsdOutput | YoloOutput | BoxesOutput | ClassifyOutput
"""What networks of pictures end in."""

RecipeTask: TypeAlias = Literal["detect", "classify", "anomaly", "regress"]


class Labels(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The classes' names; of an autoencoder, its channels'; of a regression, its quantities'."""

    file: Annotated[str, Meta(max_length=4096)] = ""
    """Path of a ``labels.txt``: one label a line, line number = class id. Needed for classes; channels and quantities
    have their names in ``[input]`` and ``[output]``."""


class GoldenVectors(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a device proves the bundle to itself with."""

    pictures: Annotated[str, Meta(max_length=4096)] = ""
    """A folder of redistributable pictures, needed where the network takes pictures. For a detector each becomes one
    input, at least 32; for a classifier, 32 square parts of them do that the float network is sure of, drawn by chance."""
    recordings: Annotated[str, Meta(max_length=4096)] = ""
    """A folder of redistributable recordings, where the network takes windows of them: 32 windows are drawn by chance.
    Those of ``--data`` without one: mind their licence."""
    raw: Annotated[int, Meta(ge=1, le=64)] = 4
    """For how many of them the converter's raw output tensors are kept too, for a closer look at a device that fails.

    They take 178 KB an input and nothing judges them, so a few are enough."""
    score_threshold: Fraction = 0.3
    """The float reference's detections from this score on are kept. Those from 0.5 on are judged."""
    agreement_margin: Fraction = 0.1
    """The tolerance is the agreement measured here less this: another CPU may round otherwise."""
    score_error_margin: Fraction = 0.02
    """The tolerance is the mean score error measured here plus this."""


class Evaluate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How float and quantised network are compared."""

    score_threshold: Fraction = 0.01
    """Detections from this score on count for mAP, which needs the whole precision-recall curve."""
    confident: Fraction = 0.5
    """The float network's detections from this score on must be found again, and count for the share of objects found."""
    partner_score: Fraction = 0.3
    """The least score of the quantised network's detection that counts as the same one."""
    iou: Fraction = 0.5
    """The least overlap with it, or with the annotated object."""
    pictures: Positive = 5000
    """How many pictures, or windows, of ``--data`` the networks are compared on; fewer where the folder has fewer."""
    near: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05
    """Regression: values agree that differ by at most this share of the float network's range over ``--data``."""
    resamples: Annotated[int, Meta(ge=100, le=100_000)] = 500
    """Of the paired bootstrap over pictures, or over recordings."""
    seed: Seed = 1
    """Of the bootstrap, and of the draw of pictures or windows."""


class Latency(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the two networks are timed, by turns, on this machine, one thread."""

    rounds: Annotated[int, Meta(ge=5, le=100_000)] = 50
    """Each round times one inference of either."""
    max_ratio: Annotated[float, Meta(gt=0.0, le=1000.0)] = 0.8
    """The bundle's latency budget, quantised by float, medians. Part of the gate, and written into the manifest; 1000
    promises nothing.

    Stated here and not taken from the run, so that the same steps make the same bundle."""
    yardstick: Text = (
        "median of one inference, by that of the float32 original: same machine, same run, one thread, XNNPACK"
    )
    """What the ratio is a ratio to, in words."""


class Gate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must hold, or there is no bundle. Besides, a classifier of pictures that ``--evaluate`` judges must be right in
    float more often than without looking, by a binomial test at 0.05.
    """

    max_drop: Fraction = 0.02
    """Of mAP, top-1, AUC or R2 (0..1), float less the bundle's, over everything in ``--evaluate``."""
    min_accuracy: Fraction | None = None
    """Of the same figure, the bundle's own."""
    min_told: Fraction = 0.1
    """Anomalies: the share of the anomalous windows in ``--evaluate`` that are above the threshold, less that of the normal
    ones, the bundle's own. 1: none is missed and no alarm is false; 0: alarms come as often without a cause."""
    min_agreement: Fraction = 0.90
    """Share of the float network's confident results that the bundle's network gives again."""
    min_speedup: Annotated[float, Meta(gt=0.0, le=1000.0)] | None = None
    """Median latency of the float network by that of the bundle's, timed by turns here."""
    max_latency_ms: Annotated[float, Meta(gt=0.0, le=1_000_000.0)] | None = None
    """Median of one inference here, one thread, milliseconds."""
    max_bytes: Positive | None = None
    """Of the flatbuffer, without what the bundle adds."""


class Recipe(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See the module."""

    name: Name
    """The bundle's name: lower case letters, digits, dots, dashes."""
    version: Annotated[str, Meta(pattern=_VERSION)]
    """Its version, `1.0.0`."""
    task: RecipeTask
    """What it finds: boxes, classes, what is out of the ordinary, or numbers."""
    source: Source | ZooSource
    input: ImageInput | SeriesInput
    output: PicturedOutput | AnomalyHead | RegressOutput
    labels: Labels = Labels()
    golden: GoldenVectors = GoldenVectors()
    series: Series = Series()
    train: Train | None = None
    prune: Prune | None = None
    distil: Distil | None = None
    sparsify: Sparsify | None = None
    quantise: Quantise = Quantise()
    edgetpu: bool = False
    """Whether the network, compiled for the Edge TPU, goes into the bundle too: int8 in, int8 out, and needs
    ``edgetpu_compiler`` on PATH."""
    evaluate: Evaluate = Evaluate()
    latency: Latency = Latency()
    gate: Gate = Gate()
    search: Search | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` where two of them contradict one another."""
        if self.task != _TASKS[type(self.output)]:
            raise ValueError(f"task: {self.task!r} does not go with this [output] decoder")
        if isinstance(self.input, SeriesInput):
            self._check_series(self.input)
        else:
            self._check_pictures()
        if self.edgetpu and not (self.quantise.precision == "int8" and "float32" not in (
            self.quantise.input_dtype, self.quantise.output_dtype)):  # fmt: skip
            raise ValueError("edgetpu: expected precision int8 with integer input and output, found another")
        if self.sparsify is not None and self.distil is None:
            raise ValueError("sparsify: expected [distil] too, which trains what is left; found none")

    def _check_pictures(self) -> None:
        if self.task not in ("detect", "classify"):
            raise ValueError(f'task: {self.task!r} needs [input] kind "series", found "image"')
        for name, path in (("golden: pictures", self.golden.pictures), ("labels: file", self.labels.file)):
            if not path:
                raise ValueError(f"{name}: expected a path, found none")
        if self.golden.recordings or self.series != Series():
            raise ValueError('golden.recordings and [series]: expected only with [input] kind "series", found "image"')
        if isinstance(self.source, ZooSource) and self.source.network not in IMAGE_NETWORKS:
            raise ValueError(f'source: network {self.source.network!r} takes windows, found [input] kind "image"')

    def _check_series(self, spec: SeriesInput) -> None:
        if self.task == "detect":
            raise ValueError('task: "detect" needs [input] kind "image", found "series"')
        if self.task == "classify" and not self.labels.file:
            raise ValueError("labels: file: expected a path, found none")
        if self.golden.pictures:
            raise ValueError('golden.pictures: expected only with [input] kind "image", found "series"')
        stated = (spec.mean, spec.std) != ((0.0,), (1.0,))
        if stated and self.series.normalise == "auto":
            raise ValueError('series: normalise: expected "given" where [input] states mean or std, found "auto"')
        if self.train is None and self.series.normalise == "auto":
            raise ValueError(
                'series: normalise: expected "given" without [train], and in [input] the mean and std that the network was '
                'trained with (none: readings as they are), found "auto"'
            )
        if self.series.judged and not self.series.group:
            raise ValueError("series: group: expected text, where judged names groups, found none")
        if any(step is not None and step.augment != Augment() for step in (self.train, self.distil)):
            raise ValueError("augment: expected only for pictures; [series.jitter] is for windows")
        if not isinstance(self.source, ZooSource):
            return
        if self.source.network in IMAGE_NETWORKS:
            raise ValueError(f'source: network {self.source.network!r} takes pictures, found [input] kind "series"')
        if (self.source.network == "autoencoder") != (self.task == "anomaly"):
            raise ValueError(f"source: network {self.source.network!r} does not go with task {self.task!r}")

    @property
    def image(self) -> ImageInput:
        """``input`` of a network that takes pictures. Raises `UserError` for another."""
        if not isinstance(self.input, ImageInput):
            raise UserError(
                f"{self.name}: a network of pictures is needed", expected='[input] kind "image"', found="series"
            )
        return self.input

    @property
    def pictured(self) -> PicturedOutput:
        """``output`` of a network that takes pictures. Raises `UserError` for another."""
        if not isinstance(self.output, PicturedOutput):
            raise UserError(f"{self.name}: a network of pictures is needed", found=f"task {self.task}")
        return self.output

    @property
    def trains(self) -> bool:
        """Whether anything is trained or pruned: whether the source must be a Keras network."""
        return any(step is not None for step in (self.train, self.prune, self.distil, self.sparsify))


_TASKS: dict[type[Struct], RecipeTask] = {
    SsdOutput: "detect",
    YoloOutput: "detect",
    BoxesOutput: "detect",
    ClassifyOutput: "classify",
    AnomalyHead: "anomaly",
    RegressOutput: "regress",
}


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe and the file it was read from."""

    path: Path
    sha256: str
    recipe: Recipe

    def resolve(self, relative: str) -> Path:
        """A path that the recipe names."""
        return self.path.parent / relative


def read_recipe(path: Path) -> RecipeFile:
    """Reads and checks a recipe. Raises `ConfigError` with the file, the key and what was expected."""
    try:
        raw = path.read_bytes()
        document = tomllib.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError("recipe cannot be read", where=path, found=error.strerror or str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("recipe is no TOML", where=path, found=str(error)) from None
    try:
        recipe = msgspec.convert(document, Recipe)
    except msgspec.ValidationError as error:
        raise _explain(str(error), path, document) from None
    return RecipeFile(path, hashlib.sha256(raw).hexdigest(), recipe)


_MESSAGE = re.compile(r"^(?P<problem>.*?)(?: - at `(?P<path>\$.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<key>.*)`")


def _explain(message: str, file: Path, document: Any) -> ConfigError:
    parts = _MESSAGE.match(message)
    assert parts is not None  # the pattern takes anything
    place = (parts["path"] or "$").removeprefix("$").removeprefix(".")
    unknown = _UNKNOWN.search(parts["problem"])
    if unknown is None and parts["problem"].startswith("Invalid value") and (kinds := _tags(Recipe, place.split("."))):
        return ConfigError(parts["problem"], where=f"{file}: {place}", expected="one of " + ", ".join(kinds))
    words = next((words for pattern, words in _PATTERNS.items() if repr(pattern) in parts["problem"]), None)
    if unknown is None and words is not None:
        return ConfigError("bad value", where=f"{file}: {place}", expected=words, found=repr(_at(document, place)))
    if unknown is None:
        return ConfigError(parts["problem"], where=f"{file}: {place}" if place else file)
    key = unknown["key"]
    known = _keys(Recipe, place.split(".") if place else [], document)
    near = nearest(key, known)
    return ConfigError(
        "unknown key",
        where=f"{file}: {place}.{key}" if place else f"{file}: {key}",
        fix=f"did you mean {near}?" if near else "known here: " + ", ".join(known),
    )


_PATTERNS: Final = {
    typing.get_args(Name)[1].pattern: NAME_IN_WORDS,
    typing.get_args(Sha256)[1].pattern: "64 lower case hexadecimal digits",
    _VERSION: "one to three numbers with dots between, such as 1.0.0",
}
"""What a pattern means, for people."""


def _at(found: Any, place: str) -> Any:
    """What stands in a document at a path of tables; None below lists."""
    for key in place.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _keys(kind: Any, path: list[str], found: Any) -> list[str]:
    """The keys that may stand at a path below a struct. ``found``: what stands there, which a union goes by."""
    if typing.get_origin(kind) is Annotated:
        return _keys(typing.get_args(kind)[0], path, found)
    if isinstance(kind, types.UnionType):
        members = typing.get_args(kind)
        meant = [member for member in members if _is_tagged(member, found)]
        return sorted({key for member in meant or members for key in _keys(member, path, found)})
    if not (isinstance(kind, type) and issubclass(kind, Struct)):
        return []
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    if path:
        return _keys(fields.get(path[0]), path[1:], found.get(path[0]) if isinstance(found, dict) else None)
    tag = kind.__struct_config__.tag_field
    return sorted([*fields, tag] if tag else fields)


def _tags(kind: Any, path: list[str]) -> list[str]:
    """What may stand at a path whose last part tells one kind of table from another."""
    if typing.get_origin(kind) is Annotated:
        return _tags(typing.get_args(kind)[0], path)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return sorted(tag for member in typing.get_args(kind) for tag in _tags(member, path))
    if not (isinstance(kind, type) and issubclass(kind, Struct)):
        return []
    config = kind.__struct_config__
    if len(path) == 1:
        return [str(config.tag)] if config.tag_field == path[0] else []
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    return _tags(fields.get(path[0]), path[1:])


def _is_tagged(kind: Any, found: Any) -> bool:
    if not (isinstance(kind, type) and issubclass(kind, Struct) and isinstance(found, dict)):
        return False
    config = kind.__struct_config__
    return config.tag_field is not None and found.get(config.tag_field) == config.tag
