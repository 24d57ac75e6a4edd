"""How many threads an inference should have on this machine, and how many should run at once: measured, not guessed.

A *setting* is so many interpreters side by side, each with so many threads, together no more than the cores. All settings
take turns in short runs, round after round, so that what else the machine does, and how hot it gets, meets them all. A
setting's figures are the medians over its rounds. Then

- for *latency*: of the settings with one interpreter, the fewest threads whose median time is at most `TIE` over the best;
- for *throughput*: of all settings, the one with the fewest threads in all, and of these the fewest an inference, whose
  inferences a second are at most `TIE` under the best.

``STATE_DIR/tunings.json`` keeps what came of it, for as long as model, runtime, processor and cores are the same. It is not
kept beside the model: that folder belongs to whoever installs it, may be read-only, and may be another device's as well. A
file that cannot be read costs a measurement, no more.
"""

from __future__ import annotations

import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from vedette.contract.errors import VedetteError
from vedette.durable import try_place, write_durably
from vedette.engine import Runtime, TfliteEngine, probe

from .proofs import cpu_identity
from .spec import ModelSpec

FILE: Final = "tunings.json"
MAX_KEPT: Final = 64  # the oldest go
MAX_BYTES: Final = 1 << 20
TIE: Final = 0.05  # of the best: what the next run may turn round, and no reason to keep another core busy
START_S: Final = 2.0  # for all models of an agent together that starts without knowing; at least a run of each setting
ROUNDS: Final = (3, 20)  # least and most, where the time allows
RUN_S: Final = 0.25  # of one setting in one round, or less

log = logging.getLogger(__name__)


class Setting(Struct, frozen=True, order=True):
    """``interpreters`` side by side, each with so many ``threads``."""

    threads: int
    interpreters: int

    @property
    def busy(self) -> int:
        """Threads in all."""
        return self.threads * self.interpreters


class Measured(Struct, frozen=True):
    """A setting's medians: milliseconds of one inference, inferences a second of all interpreters."""

    setting: Setting
    latency_ms: float
    rate: float
    rounds: int


class Circumstances(Struct, frozen=True):
    """All that decides which setting is best. ``model``: its sha256. ``cpu``: see `vedette.models.proofs.cpu_identity`."""

    model: str
    runtime: str
    cpu: str
    cores: int


class Tuning(Struct, frozen=True):
    """What was measured, and what follows. ``throughput``: None where it was not asked for."""

    circumstances: Circumstances
    rows: list[Measured]
    latency: Setting
    throughput: Setting | None
    seconds: float


def circumstances(spec: ModelSpec, runtime: Runtime) -> Circumstances:
    """Of this model on this machine."""
    return Circumstances(spec.sha256, str(runtime), cpu_identity(), cores())


def cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0))


def settings(cores: int, *, side_by_side: bool = True) -> list[Setting]:
    """What is tried: up to four threads each number, beyond that each doubling, and all cores; with ``side_by_side`` also
    as many interpreters as there is room for beside one another."""
    threads = sorted({*range(1, min(cores, 4) + 1), *(n for n in (8, 16, 32, 64) if n <= cores), min(cores, 64)})
    alone = [Setting(n, 1) for n in threads]
    several = [Setting(n, cores // n) for n in threads if cores // n > 1] if side_by_side else []
    return alone + several


def measure(
    path: Path,
    runtime: Runtime,
    tried: Sequence[Setting],
    seconds: float,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Measured]:
    """Takes about ``seconds``, or longer where a round of one inference each does. ``progress``: the share that is done.

    Raises `ModelError` where the network cannot be loaded, `EngineFaultError` where it cannot be run.
    """
    pool = _Pool(path, runtime, tried)
    try:
        slice_s = min(RUN_S, seconds / (ROUNDS[0] * len(tried)))
        found: dict[Setting, list[tuple[float, float]]] = {setting: [] for setting in tried}
        begun = time.perf_counter()
        for number in range(ROUNDS[1]):
            shift = number % len(tried)
            for setting in [*tried[shift:], *tried[:shift]]:  # none is always the one after another
                found[setting].append(pool.run(setting, slice_s))
            spent = time.perf_counter() - begun
            progress(min(1.0, spent / seconds))
            if spent + spent / (number + 1) > seconds:
                break
    finally:
        pool.close()
    return [
        Measured(
            setting, round(statistics.median(time_ms for time_ms, _ in runs), 4),
            round(statistics.median(rate for _, rate in runs), 2), len(runs),
        )
        for setting, runs in found.items()
    ]  # fmt: skip


class _Pool:
    """Interpreters by their threads, each loaded once and shared by the settings that need it."""

    def __init__(self, path: Path, runtime: Runtime, tried: Iterable[Setting]) -> None:
        self._engines: dict[int, list[TfliteEngine]] = {}
        most: dict[int, int] = {}
        for setting in tried:
            most[setting.threads] = max(most.get(setting.threads, 0), setting.interpreters)
        for threads, count in most.items():
            self._engines[threads] = [TfliteEngine(path, runtime, threads=threads) for _ in range(count)]
        self._buffers = {id(engine): engine.allocate() for engines in self._engines.values() for engine in engines}
        for engines in self._engines.values():
            for engine in engines:
                engine.invoke(*self._buffers[id(engine)])  # the first one sets things up

    def run(self, setting: Setting, seconds: float) -> tuple[float, float]:
        """Median milliseconds of an inference, and inferences a second; at least one inference of each interpreter."""
        engines = self._engines[setting.threads][: setting.interpreters]
        times: list[list[float]] = [[] for _ in engines]
        faults: list[VedetteError] = []
        begun = time.perf_counter()
        end = begun + seconds

        def infer(engine: TfliteEngine, spans: list[float]) -> None:
            inputs, outputs = self._buffers[id(engine)]
            try:
                now = time.perf_counter()
                while not spans or now < end:
                    engine.invoke(inputs, outputs)
                    before, now = now, time.perf_counter()
                    spans.append(now - before)
            except VedetteError as error:  # told on the thread that asked
                faults.append(error)

        threads = [
            threading.Thread(target=infer, args=pair, daemon=True) for pair in zip(engines[1:], times[1:], strict=True)
        ]
        for thread in threads:
            thread.start()
        infer(engines[0], times[0])
        for thread in threads:
            thread.join()
        if faults:
            raise faults[0]
        spent = time.perf_counter() - begun
        spans = [span for one in times for span in one]
        return statistics.median(spans) * 1e3, len(spans) / spent

    def close(self) -> None:
        for engines in self._engines.values():
            for engine in engines:
                engine.close()


def conclude(where: Circumstances, rows: Sequence[Measured], seconds: float) -> Tuning:
    """The rule of the module."""
    alone = [row for row in rows if row.setting.interpreters == 1]
    quickest = min(row.latency_ms for row in alone)
    latency = min(row.setting for row in alone if row.latency_ms <= quickest * (1 + TIE))
    throughput = None
    if len(alone) < len(rows) or len(rows) == 1:
        most = max(row.rate for row in rows)
        enough = [row.setting for row in rows if row.rate >= most * (1 - TIE)]
        throughput = min(enough, key=lambda setting: (setting.busy, setting.threads))
    return Tuning(where, list(rows), latency, throughput, round(seconds, 3))


class Tunings:
    """Those of one state folder. Owned by one thread."""

    def __init__(self, state_dir: Path) -> None:
        """Reads those there are."""
        self.path = state_dir / FILE
        self._kept = {tuning.circumstances: tuning for tuning in _read(self.path)}

    def find(self, where: Circumstances) -> Tuning | None:
        """What was kept of it."""
        return self._kept.get(where)

    def prepare(self) -> None:
        """Makes the folder. Raises `OSError` where nothing could be kept there."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try_place(self.path)

    def keep(self, tuning: Tuning) -> None:
        """From now on. Raises `OSError` where it cannot be written."""
        self._kept.pop(tuning.circumstances, None)
        self._kept[tuning.circumstances] = tuning
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self.path, msgspec.json.encode(list(self._kept.values())[-MAX_KEPT:]))


def _read(path: Path) -> list[Tuning]:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=list[Tuning])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:  # msgspec's own are ValueErrors, too
        log.warning("%s cannot be read, so threads are measured again: %s", path, error)
        return []


def auto_threads(
    specs: Sequence[ModelSpec], runtime: Runtime, tunings: Tunings | None, *, single: bool, seconds: float = START_S
) -> int:
    """What ``engine.threads = "auto"`` means for these models: as kept, else measured here and now, and kept.

    ``single``: one pipeline alone is best served by the least latency; several share the cores for the most inferences,
    with the fewest threads that are best for one of the models. Raises `ModelError` or `EngineFaultError`.
    """
    if cores() == 1:
        return 1
    found: list[int] = []
    for spec in specs:
        where = circumstances(spec, runtime)
        kept = tunings.find(where) if tunings is not None else None
        chosen = None if kept is None else kept.latency if single else kept.throughput
        how = "kept"
        if chosen is None:
            how = "measured now"
            tuning = _measure_briefly(spec, runtime, where, single=single, seconds=seconds / len(specs))
            chosen = tuning.latency if single or tuning.throughput is None else tuning.throughput
            if tunings is not None:
                try:
                    tunings.keep(tuning)
                except OSError as error:
                    log.warning(
                        "%s cannot be written, so the next start measures again: %s", tunings.path, error.strerror
                    )
        log.info("engine.threads = auto: %d for %s, %s (of %d cores)", chosen.threads, spec.name, how, cores())
        found.append(chosen.threads)
    return min(found, default=1)


def _measure_briefly(
    spec: ModelSpec, runtime: Runtime, where: Circumstances, *, single: bool, seconds: float
) -> Tuning:
    log.info(
        "engine.threads = auto: measuring %s for about %.1f s; vedette bench --tune does it well", spec.name, seconds
    )
    if spec.bundle is None:
        probe(spec.path, runtime.name)  # nobody vouches for the file: a child has to survive it first
    begun = time.perf_counter()
    rows = measure(spec.path, runtime, settings(cores(), side_by_side=not single), seconds)
    return conclude(where, rows, time.perf_counter() - begun)
