"""Models in lanes: loaded, proved and warm; at the start, and again while the agent runs.

Pipelines of the same file share a lane, see `vedette.flow.lane`. One that comes later joins the lane that there is, and a
lane that nobody uses any more is let go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from vedette.config import EngineConfig
from vedette.contract.errors import FaultError, ModelError, VedetteError, placed
from vedette.contract.manifest import SeriesInput
from vedette.engine import AcceleratedEngine, AcceleratorStatus, Engine, Runtime, SelfTest, TfliteEngine, load_runtime
from vedette.flow.lane import Lane, Turns, slots
from vedette.memory import return_freed
from vedette.models.acceleration import accelerate
from vedette.models.model import Model, ModelSpec, load_model, read_network, self_test
from vedette.models.proofs import Proofs

from .prepared import Prepared, acceleration

STOP_S: Final = 5.0  # for what a lane is doing when it is let go

_Key: TypeAlias = tuple[Path, str, str, bool]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pipeline's model in its lane, and what the self-test said of it here. ``key``: alike for those that share.
    ``abreast``: how many of its inferences may run at the same moment."""

    model: Model
    lane: Lane
    self_test: SelfTest | None
    key: _Key
    abreast: int = 1

    @property
    def accelerator(self) -> AcceleratorStatus | None:
        """How the model's accelerator is; None where the CPU runs it."""
        engine = self.model.engine
        return engine.status() if isinstance(engine, AcceleratedEngine) else None


class Lanes:
    """The lanes of an agent. One thread at a time may call `load`, `take` and `sweep`; all else, any."""

    def __init__(self, config: EngineConfig, threads: int, proofs: Proofs | None = None) -> None:
        """``threads``: of one inference. ``proofs``: a bundle that is not known to pass its self-test on this machine has
        to pass it in a child first; None: it is tested here. Raises `ConfigError`."""
        self._config = config
        self._threads = threads
        self._proofs = proofs
        self._turns = Turns(slots(threads))
        self._accelerated = acceleration(config)
        self._lanes: list[Lane] = []
        self._started = False
        self._loaded: dict[str, Loaded] = {}

    def __getitem__(self, pipeline: str) -> Loaded:
        """What runs in a pipeline."""
        return self._loaded[pipeline]

    def load(
        self, prepared: Sequence[Prepared], on_unfit: Callable[[str, VedetteError], None] | None = None
    ) -> dict[str, Loaded]:
        """These pipelines' models, by the pipeline's name: nobody's until `take`.

        ``on_unfit``: hears of each pipeline whose model cannot be used on this machine, and why; the others are loaded.
        None: it is raised.
        """
        alike: dict[_Key, list[Prepared]] = {}
        for pipeline in prepared:
            alike.setdefault(_key(pipeline), []).append(pipeline)
        loaded: dict[str, Loaded] = {}
        for key, group in alike.items():
            try:
                there = next((known for known in self._loaded.values() if known.key == key), None)
                with placed(group[0].place):
                    loaded.update(self._join(there, group) if there is not None else self._load(key, group))
            except (ModelError, FaultError) as error:
                if on_unfit is None:
                    raise
                for pipeline in group:
                    on_unfit(pipeline.name, error)
        return loaded

    def take(self, pipeline: str, loaded: Loaded) -> None:
        """This is what runs in it now."""
        self._loaded[pipeline] = loaded

    def start(self) -> None:
        """Starts the lanes that there are; those that come later are started when they come."""
        self._started = True
        for lane in self._lanes:
            lane.start()

    def sweep(self) -> None:
        """Lets go of what no pipeline has a seat for: lanes, and interpreters that were for those that left."""
        for lane in list(self._lanes):
            if lane.seats:
                lane.trim(self._interpreters(lane.demand))
                continue
            self._lanes.remove(lane)
            lane.stop(STOP_S)
            lane.close()
        return_freed()

    def stop(self, timeout_s: float) -> None:
        """See `Lane.stop`."""
        for lane in list(self._lanes):
            lane.stop(timeout_s)

    def close(self) -> None:
        """See `Lane.close`."""
        for lane in list(self._lanes):
            lane.close()

    def _interpreters(self, demand: int) -> int:
        return min(self._config.interpreters or self._turns.slots, demand)

    def _abreast(self, pipeline: Prepared) -> int:
        """How many inferences of it may run at the same moment; of an accelerator, which is one, one."""
        if self._accelerated is not None and pipeline.config.delegate:
            return 1
        return self._interpreters(_asked(pipeline, self._turns.slots))

    def _load(self, key: _Key, group: Sequence[Prepared]) -> dict[str, Loaded]:
        """Pipelines of the same file."""
        spec, threads = group[0].spec, self._threads
        runtime = load_runtime(self._config.runtime)
        proved = self._proofs.prove(spec, runtime, threads=threads) if self._proofs is not None else None
        content = read_network(spec)
        first = load_model(
            spec, runtime=self._config.runtime, threads=threads, score_threshold=group[0].decoded_from, content=content
        )
        outcome = proved if proved is not None else self_test(first)
        first.infer()  # warms the network up, where no self-test did
        if self._accelerated is not None and group[0].config.delegate:
            engines: list[Engine] = [accelerate(spec, first.engine, runtime, self._accelerated, threads=threads)]
            first = Model(spec, engines[0], score_threshold=group[0].decoded_from)
        else:
            more = [
                TfliteEngine(spec.path, runtime, threads=threads, content=content)
                for _ in range(self._interpreters(sum(map(self._abreast, group))) - 1)
            ]
            engines = [first.engine, *more]
        lane = Lane(spec.name, engines, self._turns)
        self._lanes.append(lane)
        if self._started:
            lane.start()
        loaded = {group[0].name: Loaded(first, lane, outcome, key, self._abreast(group[0]))}
        for pipeline in group[1:]:
            model = Model(spec, first.engine, score_threshold=pipeline.decoded_from)
            loaded[pipeline.name] = Loaded(model, lane, outcome, key, self._abreast(pipeline))
        return loaded

    def _join(self, there: Loaded, group: Sequence[Prepared]) -> dict[str, Loaded]:
        """Pipelines of a file that runs already."""
        spec, lane, engine = group[0].spec, there.lane, there.model.engine
        if there.accelerator is None:
            missing = self._interpreters(lane.demand + sum(map(self._abreast, group))) - len(lane.engines)
            if missing > 0:
                content, runtime = read_network(spec), load_runtime(self._config.runtime)
                for _ in range(missing):
                    lane.add(TfliteEngine(spec.path, runtime, threads=self._threads, content=content))
        return {
            pipeline.name: Loaded(
                Model(spec, engine, score_threshold=pipeline.decoded_from),
                lane,
                there.self_test,
                there.key,
                self._abreast(pipeline),
            )
            for pipeline in group
        }


def load_models(prepared: Sequence[Prepared], config: EngineConfig, proofs: Proofs | None = None) -> dict[str, Loaded]:
    """Every pipeline's model, by the pipeline's name, for whoever never has others. See `Lanes`."""
    return Lanes(config, threads_for(prepared, config, proofs), proofs).load(prepared)


def threads_for(
    prepared: Sequence[Prepared], config: EngineConfig, proofs: Proofs | None = None, state_dir: Path | None = None
) -> int:
    """Of one inference. ``state_dir``: where it is kept what ``threads = "auto"`` means here; None: it is measured."""
    if config.threads != "auto":
        return config.threads
    from vedette.models.tune import Tunings, auto_threads  # for those who ask for it

    runtime = load_runtime(config.runtime)
    here = [pipeline for pipeline in prepared if not (config.delegate and pipeline.config.delegate)]
    specs = list({(pipeline.spec.path, pipeline.spec.sha256): pipeline.spec for pipeline in here}.values())
    if proofs is not None:
        specs = [spec for spec in specs if _is_proved(spec, runtime, proofs)]  # before this process loads them
    tunings = Tunings(state_dir) if state_dir is not None else None
    return auto_threads(specs, runtime, tunings, single=len(here) == 1 and _asked(here[0], slots(1)) == 1)


def _asked(pipeline: Prepared, room: int) -> int:
    """How many inferences of it are to run at the same moment, where there is room for so many. Of a file that is read flat
    out pictures wait for the pipeline: what counts is how many are looked at, and not how soon each."""
    config = pipeline.config
    flat_out = config.source_config.pace == "max" and not isinstance(pipeline.spec.input, SeriesInput)
    return config.parallel or (room if flat_out else 1)


def _key(pipeline: Prepared) -> _Key:
    """Of the file; a plain model's tables are part of what it is."""
    return pipeline.spec.path, pipeline.spec.sha256, repr(pipeline.config.plain), pipeline.config.delegate


def _is_proved(spec: ModelSpec, runtime: Runtime, proofs: Proofs) -> bool:
    """Why it is not, whoever loads it finds out."""
    try:
        proofs.prove(spec, runtime)
    except (ModelError, FaultError):
        return False
    return True
