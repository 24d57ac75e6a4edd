"""What the configuration file and the model files say now, taken over by an agent that runs.

::

    read and check the file -> trust, no way back -> prove new bundles in a child -> load them beside the old ones
    -> each pipeline changes over between two samples -> old models are let go

All but the change itself is done by a thread of its own, one reload at a time, so that the link and the watchdog do not
wait for it. Until every new model has proved itself and is loaded, nothing has changed: one that is refused refuses the
whole reload. What goes through a pipeline meanwhile is finished by the model that it was prepared for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from vedette.config import Config, PipelineConfig, load_config
from vedette.contract.errors import ConfigError, FaultError, StateError, UserError, VedetteError
from vedette.contract.image_options import ImageOptions
from vedette.contract.manifest import InputSpec, SeriesInput, task_of
from vedette.flow.pipeline import Pipeline
from vedette.mqtt.commands import Answer

from .compose import Fitting, make_fitting, refit
from .control import Control
from .lanes import Lanes, Loaded
from .prepared import Prepared, Preparing, prepare, remember_versions

log = logging.getLogger(__name__)

LIVE: Final = ("threshold", "thresholds", "labels", "model", "plain")
"""Keys of a pipeline that a reload takes over; all others need a restart, and a model waits for them."""
SWAP_S: Final = 30.0  # how long a pipeline may take to finish what is under way


class Reload:
    """See the module. Any thread may call anything."""

    def __init__(
        self,
        config: Config,
        path: Path,
        pipelines: Sequence[Pipeline],
        control: Control,
        lanes: Lanes,
        *,
        on_exchange: Callable[[Prepared], None],
        on_taken: Callable[[str, bool], None],
        on_alert: Callable[[str], None],
    ) -> None:
        """``config``: what runs. ``path``: of its file. ``on_exchange``: a pipeline has another model from the next sample
        on; on the pipeline's thread, must not wait. ``on_taken``: a pipeline's settings are others now, and its model where
        that is true. ``on_alert``: something went wrong that was no reason to refuse."""
        self._config = config
        self._path = path
        self._pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        self._control = control
        self._lanes = lanes
        self._on_exchange = on_exchange
        self._on_taken = on_taken
        self._on_alert = on_alert
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._stopped = threading.Event()

    def begin(self) -> Future[Answer]:
        """What was taken over, ``changed``, and what was not, ``needs_restart``, once it is done; or why nothing was.

        Raises `UserError` where a reload is under way already.
        """
        with self._lock:
            if self._busy:
                raise UserError("a reload is under way already", fix="wait until it is done")
            if self._stopped.is_set():
                raise UserError("the agent is being stopped")
            self._busy = True
            done: Future[Answer] = Future()
            done.set_running_or_notify_cancel()
            self._thread = threading.Thread(target=self._run, args=(done,), name="reload", daemon=True)
            self._thread.start()
        return done

    def stop(self, timeout_s: float) -> None:
        """No further change. One that is under way is finished; a model that is still being proved is left alone."""
        with self._lock:
            self._stopped.set()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _run(self, done: Future[Answer]) -> None:
        taken: Answer = None
        failed: Exception | None = None
        try:
            taken = self._reload()
        except VedetteError as error:
            failed = error
        except Exception as error:
            log.exception("reload")
            failed = error
        with self._lock:
            self._busy = False
        if failed is None:
            done.set_result(taken)
        else:
            done.set_exception(failed)

    def _reload(self) -> Answer:
        """Raises `VedetteError` where the file, or a model, is not right: nothing has changed then."""
        config, prepared, later = self._read()
        same: list[Prepared] = []
        others: list[Prepared] = []
        for new in prepared:
            old = self._control.prepared(new.name)
            if old is not None and is_same(old, new):
                kept, left = self._divided(config, old, new)
                same += kept
                later += left
            elif old is None or later_of(old.config, new.config) or self._pipelines[new.name].ended.is_set():
                later.append(f"pipeline.{new.name}")
            else:
                check_fits(old, new)
                others.append(new)
        taken = self._swap(config, others)
        for new in same:
            if self._control.take_over(new):
                taken.append(new.name)
                self._on_taken(new.name, False)
        later += [f"pipeline.{name}" for name in self._config.pipelines if name not in config.pipelines]
        return {"changed": [f"pipeline.{name}" for name in taken], "needs_restart": later}

    def _divided(self, config: Config, old: Prepared, new: Prepared) -> tuple[list[Prepared], list[str]]:
        """What of a pipeline whose model stays is taken over, and what of it needs a restart.

        Thresholds and labels do not wait for the other keys, which stay as they run; all do where that does not go together:
        where a zone that runs, say, is one of a label that would not be reported.
        """
        keys = later_of(old.config, new.config)
        if not keys:
            return [new], []
        kept = msgspec.structs.replace(new.config, **{key: getattr(old.config, key) for key in keys})
        config = msgspec.structs.replace(config, pipelines={**config.pipelines, new.name: kept})
        try:
            return [Preparing(config, self._path)(new.name)], [f"pipeline.{new.name}.{key}" for key in keys]
        except UserError:
            return [], [f"pipeline.{new.name}"]

    def _read(self) -> tuple[Config, list[Prepared], list[str]]:
        """The file as far as it is taken over, its pipelines, and the tables that are not."""
        config = load_config(self._path)
        later = _differences(self._config, config)
        if later:
            prepare(config, self._path)  # what the next start will read must be right as well
        # whose bundles may run, and on what, is not changed by the way
        config = msgspec.structs.replace(config, **{name: getattr(self._config, name) for name in later})
        return config, prepare(config, self._path), later

    def _swap(self, config: Config, others: Sequence[Prepared]) -> list[str]:
        """The pipelines that have another model now."""
        swapped: list[Prepared] = []
        failed: dict[str, str] = {}
        try:
            loaded = self._lanes.load(others)
            for new in others:
                if why := self._exchange(new, loaded[new.name]):
                    failed[new.name] = why
                else:
                    swapped.append(new)
        finally:
            self._lanes.sweep()
        self._remember(config, swapped)
        for new in swapped:
            self._on_taken(new.name, True)
        for name, why in failed.items():
            log.error("pipeline %s keeps its model: %s", name, why)
        if failed:
            name, why = next(iter(failed.items()))
            others_taken = ", ".join(new.name for new in swapped) or "none"
            raise FaultError("model not exchanged", where=f"pipeline {name}", found=f"{why}; exchanged: {others_taken}")
        return [new.name for new in swapped]

    def _exchange(self, new: Prepared, loaded: Loaded) -> str:
        """Why not; "" where it has been."""
        pipeline = self._pipelines[new.name]
        before = pipeline.seat
        fitting = make_fitting(new, loaded)
        done = pipeline.between(partial(self._change_over, fitting, loaded))
        if self._stopped.is_set():
            done.cancel()
        else:
            wait([done], SWAP_S)
        if done.cancelled():
            why = "it has ended"
        elif done.cancel():
            why = f"what is under way was not finished within {SWAP_S:g} s"
        else:
            why = _outcome(done)
        unused = fitting.seat if pipeline.seat is before else before
        unused.lane.leave(unused)
        if not why:
            log.info("pipeline %s: %s %s from now on", new.name, new.spec.name, new.spec.version)
        return why

    def _change_over(self, fitting: Fitting, loaded: Loaded) -> None:
        """On the pipeline's thread, between two samples."""
        new = fitting.prepared
        self._control.exchange(new, lambda pipeline, old: refit(pipeline, old, fitting))
        self._lanes.take(new.name, loaded)
        self._on_exchange(new)

    def _remember(self, config: Config, swapped: Sequence[Prepared]) -> None:
        """They run: none that is older shall run after them."""
        try:
            remember_versions(config, swapped)
        except StateError as error:
            self._on_alert(error.line())


def is_same(old: Prepared, new: Prepared) -> bool:
    """Whether it is the same model, by content."""
    return all(getattr(old.spec, part) == getattr(new.spec, part) for part in ("sha256", "labels", "input", "output"))


def later_of(old: PipelineConfig, new: PipelineConfig) -> list[str]:
    """The keys in which two configurations of a pipeline differ, and which need a restart."""
    return [key for key in old.__struct_fields__ if key not in LIVE and getattr(old, key) != getattr(new, key)]


def check_fits(old: Prepared, new: Prepared) -> None:
    """Raises `ConfigError` where what stands around the old model cannot take the new one."""
    before, after = task_of(old.spec.output), task_of(new.spec.output)
    if before != after:
        raise ConfigError(
            "another task than the model that runs", where=new.place, expected=before,
            found=f"{new.spec.name}, {after}", fix="restart the agent for this",
        )  # fmt: skip
    if _windows(old.spec.input) != _windows(new.spec.input):
        raise ConfigError(
            "takes other windows than the model that runs", where=new.place,
            expected=f"channels, length, stride, rate and gaps of {old.spec.name}", found=new.spec.name,
            fix="restart the agent for this",
        )  # fmt: skip


def _windows(taken: InputSpec | ImageOptions) -> SeriesInput | None:
    """What is cut from readings, whatever a model makes of the values; None for pictures, which come as they are."""
    if not isinstance(taken, SeriesInput):
        return None
    return msgspec.structs.replace(taken, mean=(0.0,), std=(1.0,), layout="time-channel")


def _outcome(done: Future[None]) -> str:
    """Why it went wrong; "" where it did not."""
    if (error := done.exception()) is not None:
        return f"a fault of ours: {error!r}"
    return ""


def _differences(old: Config, new: Config) -> list[str]:
    """The tables in which they differ, but for the pipelines."""
    names = [name for name in old.__struct_fields__ if name != "pipelines"]
    return [
        name for name in names if msgspec.to_builtins(getattr(old, name)) != msgspec.to_builtins(getattr(new, name))
    ]
