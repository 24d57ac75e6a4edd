"""Configuration -> what can be read and checked before anything is started: models, sources, and whether they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vedette.config import Config, EngineConfig, PipelineConfig, Places
from vedette.contract.errors import ConfigError, placed
from vedette.contract.labels import is_used
from vedette.contract.manifest import AnomalyOutput, OutputSpec, RegressOutput, SeriesInput, task_of
from vedette.contract.wording import nearest
from vedette.engine import find_delegate
from vedette.flow.regions import Regions
from vedette.flow.selection import LabelFilter, make_filter
from vedette.follow.track import TrackOptions
from vedette.models.acceleration import Acceleration, check_acceleration
from vedette.models.model import ModelSpec, PlainModel, read_model
from vedette.sources import (
    SensorOptions,
    SensorSource,
    Source,
    SourceOptions,
    is_program_url,
    is_sensor_url,
    make_sensor_source,
    make_source,
    masked_url,
)
from vedette.trust.keyring import load_trust
from vedette.trust.rollback import Rollback

BLURRED_FROM: Final = 0.2  # score; somebody whom the network hardly sees may still be recognised by people


@dataclass(frozen=True, slots=True)
class Prepared:
    """A pipeline's parts that can be checked without starting anything."""

    name: str
    config: PipelineConfig
    spec: ModelSpec
    threshold: float
    source: Any  # a Source, or a SensorSource where the model takes readings
    """Made, not opened."""
    follows: TrackOptions | None
    """How its objects are followed; None where they are not."""
    place: str
    """Where its model is named: file, line and key."""

    @property
    def label_filter(self) -> LabelFilter:
        """What the configuration says is reported."""
        return make_filter(self.spec.labels, self.config.labels, self.threshold, self.config.thresholds)

    @property
    def decoded_from(self) -> float:
        """The score from which on results are decoded, as configured."""
        return self.decoded_at(self.threshold, self.label_filter)

    def decoded_at(self, threshold: float, label_filter: LabelFilter) -> float:
        """The score from which on results are decoded with these thresholds: what is reported, what a tracker follows on,
        what a snapshot may be wanted of, and what must not be recognised in one."""
        if isinstance(self.spec.output, AnomalyOutput):
            return threshold
        lowest = wanted = label_filter.lowest
        if self.follows is not None:
            wanted = min(wanted, self.follows.low_score)
        if (snapshots := self.config.snapshots) is not None:
            wanted = min(wanted, lowest - snapshots.uncertain, BLURRED_FROM if snapshots.blur_labels else 1.0)
        return max(0.0, wanted)


def prepare(config: Config, config_path: Path) -> list[Prepared]:
    """Reads and checks every model, and makes every source, against what the configuration says. Raises `UserError`s."""
    preparing = Preparing(config, config_path)
    return [preparing(name) for name in config.pipelines]


class Preparing:
    """`prepare`, a pipeline at a time: what is wrong with one is no reason not to look at the next."""

    def __init__(self, config: Config, config_path: Path) -> None:
        """Raises `UserError`s about keys, about what ran before, and about an accelerator that is none."""
        self._config = config
        self._places = Places.of(config_path)
        with placed(self._places.at(("trust", "keys"))):
            self._trust = load_trust(config.trust.keys, require=config.trust.require)
        with placed(self._places.at(("state_dir",))):
            self._rollback = Rollback(Path(config.state_dir)) if config.trust.no_rollback else None
        self._accelerated = acceleration(config.engine, self._places.at(("engine", "delegate")))

    def __call__(self, name: str) -> Prepared:
        """One pipeline. Raises `UserError`s, with file, line and key."""
        config = self._config.pipelines[name]
        at = _At(self._places, name)
        with placed(at("model")):
            spec = read_model(config.model, _plain(config), self._trust)
            if self._rollback is not None and spec.bundle is not None:
                self._rollback.check(spec.name, spec.version, spec.path)
            if self._accelerated is not None and config.delegate:
                check_acceleration(spec, self._accelerated.delegate)
        _check_labels(config, spec, at)
        _check_task(config, spec, at)
        threshold = config.threshold if config.threshold is not None else default_threshold(spec.output)
        follows = config.follows
        # Home Assistant shows how many objects there are
        if follows is None and self._config.home_assistant.enabled and task_of(spec.output) == "detect":
            follows = TrackOptions()
        return Prepared(name, config, spec, threshold, _source(config, spec, at), follows, at("model"))

    def camera(self, name: str) -> Source:
        """A pipeline's source, whatever its model is. Raises `UserError`s."""
        with placed(_At(self._places, name)("source")):
            return make_source(source_options(self._config.pipelines[name]))


@dataclass(frozen=True, slots=True)
class _At:
    """Where a pipeline's keys stand: file, line and dotted name."""

    places: Places
    pipeline: str

    def __call__(self, key: str) -> str:
        return self.places.at(("pipeline", self.pipeline, *key.split(".")))


def remember_versions(config: Config, prepared: Sequence[Prepared]) -> None:
    """These models have passed their self-test: none that is older shall run after them. Raises `StateError`."""
    if config.trust.no_rollback:
        specs = [pipeline.spec for pipeline in prepared if pipeline.spec.bundle is not None]
        Rollback(Path(config.state_dir)).note((spec.name, spec.version) for spec in specs)


def _plain(config: PipelineConfig) -> PlainModel | None:
    if config.plain is None:
        return None
    labels_file = Path(config.plain.labels_file) if config.plain.labels_file else None
    return PlainModel(config.plain.output, config.plain.input, labels_file)


def default_threshold(output: OutputSpec) -> float:
    """What the manifest says of what is reported."""
    if isinstance(output, AnomalyOutput):
        return output.threshold
    return 0.0 if isinstance(output, RegressOutput) else output.score_threshold


def _check_labels(config: PipelineConfig, spec: ModelSpec, at: _At) -> None:
    known = [label for label in spec.labels if is_used(label)]
    named: dict[str, Sequence[str]] = {"labels": config.labels, "thresholds": list(config.thresholds)}
    named.update({f"zones.{zone}.labels": options.labels for zone, options in config.zones.items()})
    followed = config.events.labels if config.events is not None else ()
    named["events.labels"] = followed
    if config.snapshots is not None:
        named["snapshots.blur_labels"] = config.snapshots.blur_labels
    named.update({f"wires.{wire}.labels": options.labels for wire, options in config.wires.items()})
    for key, names in named.items():
        for label in names:
            if label not in known:
                near = nearest(label, known)
                raise ConfigError(
                    "unknown label", where=at(key), found=repr(label),
                    expected=f"one of the {len(known)} labels of {spec.name}",
                    fix=f"did you mean {near!r}?" if near else f"vedette show {config.model} lists them",
                )  # fmt: skip
            # what is not reported is blurred all the same
            if config.labels and label not in config.labels and key != "snapshots.blur_labels":
                raise ConfigError(
                    "a label that this pipeline does not report", where=at(key), found=repr(label),
                    expected="one of its labels, " + ", ".join(config.labels),
                    fix=f"add it to {at('labels')}, or take it out here",
                )  # fmt: skip
            if followed and label not in followed and key.startswith(("zones.", "wires.")):
                raise ConfigError(
                    "a label that this pipeline's events leave out", where=at(key), found=repr(label),
                    expected="one of events.labels, " + ", ".join(followed),
                    fix=f"add it to {at('events.labels')}, or take it out here",
                )  # fmt: skip


def _check_task(config: PipelineConfig, spec: ModelSpec, at: _At) -> None:
    """Tables that mean nothing for this model are refused: nobody should believe that they do something."""
    task = task_of(spec.output)
    series = isinstance(spec.input, SeriesInput)
    for table, given, fits in (
        ("track", config.track is not None, task == "detect"),
        ("zones", bool(config.zones), task == "detect"),
        ("wires", bool(config.wires), task == "detect"),
        ("events", config.events is not None, task == "detect"),
        ("region", config.region is not None, task == "detect" or (task == "classify" and view_count(config) == 1)),
        ("motion", config.motion is not None, not series),
        ("snapshots", config.snapshots is not None, not series),
        ("steady", config.steady is not None, task in ("classify", "anomaly", "regress")),
        ("stride", config.stride is not None, series),
        ("labels", bool(config.labels), task in ("detect", "classify", "segment")),
        ("thresholds", bool(config.thresholds), task in ("detect", "classify")),
    ):
        if given and not fits:
            raise ConfigError(
                "means nothing for this model", where=at(table), fix="take it out",
                found=f"{spec.name}, a network of task {task!r} on {'readings' if series else 'pictures'}",
            )  # fmt: skip
    if config.threshold is not None and config.threshold > 1 and task != "anomaly":
        raise ConfigError("bad value", where=at("threshold"), expected="0 to 1", found=f"{config.threshold:g}")


def view_count(config: PipelineConfig) -> int:
    """How many views of each frame a detector is shown."""
    return 1 if config.region is None else Regions(config.region).count


def _source(config: PipelineConfig, spec: ModelSpec, at: _At) -> Source | SensorSource:
    source = config.source_config
    sensor = is_sensor_url(source.url)
    # a program gives whatever it is asked for
    if sensor != isinstance(spec.input, SeriesInput) and not is_program_url(source.url):
        takes, gives = ("readings", "pictures") if not sensor else ("pictures", "readings")
        raise ConfigError(
            f"{spec.name} takes {takes}",
            where=at("source"),
            found=f"a source of {gives}: {masked_url(source.url)}",
        )
    with placed(at("source")):
        if isinstance(spec.input, SeriesInput):
            return make_sensor_source(sensor_options(config, spec.input))
        return make_source(source_options(config))


def source_options(config: PipelineConfig) -> SourceOptions:
    """What the configuration says of a camera."""
    source = config.source_config
    return SourceOptions(
        url=source.url,
        loop=source.loop,
        pace=source.pace,
        fps=source.fps,
        rtsp_transport=source.rtsp_transport,
        open_timeout_s=source.open_timeout_s,
        read_timeout_s=source.stall_timeout_s,
        width=source.width,
        height=source.height,
        fourcc=source.fourcc,
        stride=source.stride,
    )


def sensor_options(config: PipelineConfig, spec: SeriesInput) -> SensorOptions:
    """What the configuration says of a sensor, and the channels that the model wants."""
    source = config.source_config
    return SensorOptions(
        url=source.url,
        channels=tuple(channel.name for channel in spec.channels),
        loop=source.loop,
        pace=source.pace,
        rate_hz=spec.rate_hz,
        open_timeout_s=source.open_timeout_s,
        window_s=(spec.length - 1) / spec.rate_hz if spec.rate_hz else 0.0,
        max_gap_s=spec.max_gap / spec.rate_hz if spec.rate_hz else 0.0,
        password_file=source.password_file,
        ca_file=source.ca_file,
        cert_file=source.cert_file,
        key_file=source.key_file,
    )


def acceleration(config: EngineConfig, where: str = "engine.delegate") -> Acceleration | None:
    """What the configuration says of an accelerator; None for none. Raises `ConfigError`."""
    if not config.delegate:
        return None
    delegate = find_delegate(config.delegate, config.delegate_options, where=where)
    return Acceleration(delegate, config.deadline_s, config.check_s)
