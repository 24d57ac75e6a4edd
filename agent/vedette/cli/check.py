"""``vedette check -c FILE``"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vedette.config import Config, EngineConfig, PipelineConfig, Places
    from vedette.contract.errors import VedetteError
    from vedette.contract.types import UInt8Array
    from vedette.service.compose import Prepared, Preparing
    from vedette.sources import Source

MAX_BROKEN = 5  # pictures before one that can be decoded; a USB camera's first one often cannot
HELP = "check a configuration, its models, sources and broker, without running it"
DESCRIPTION = (
    "Checks a configuration from end to end: every key, the folders it writes to, every model (digests, self-test on this "
    "machine, and on its accelerator), every source (opened, one frame read) and the broker (connected to, with its "
    "credentials). Says what is wrong in one line each, with file, line and key where it is about one, and warns of "
    "passwords and keys that others on this computer may read."
)
EXAMPLES = """examples:
  vedette check -c /etc/vedette/vedette.toml
  vedette check -c my.toml --offline      # no source, accelerator or broker is touched
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
    parser.add_argument("--offline", action="store_true", help="do not open sources, do not connect")


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code: that of the worst problem."""
    from vedette.config import Places, load_config
    from vedette.contract.errors import VedetteError
    from vedette.mqtt.connection import try_connection
    from vedette.service.compose import Preparing, link_options
    from vedette.trust.exposure import exposures

    config = load_config(arguments.config)
    report = _Report(Places.of(arguments.config))
    report.good(f"configuration {arguments.config}, device {config.device}")
    for line in exposures(config, arguments.config):
        report.warn(line)
    _check_state_dir(config, report)
    for name, pipeline in config.pipelines.items():
        if pipeline.snapshots is not None and pipeline.snapshots.folder:
            trial = partial(_try_folder, Path(pipeline.snapshots.folder) / name)
            report.attempt(f"pipeline {name}: snapshots", trial, f"pipeline.{name}.snapshots.folder")
    try:
        preparing = Preparing(config, arguments.config)
    except VedetteError as error:
        report.bad(error)
    else:
        for name in config.pipelines:
            _check_pipeline(name, config, preparing, report, offline=arguments.offline)
    try:
        link = link_options(config, arguments.config)
    except VedetteError as error:
        report.bad(error)
    else:
        if not arguments.offline:
            report.attempt("broker", lambda: try_connection(link))
    return report.worst


class _Report:
    """Prints a line for each thing that is checked. ``worst``: the exit code of the worst problem."""

    def __init__(self, places: Places) -> None:
        from vedette.terminal import Console

        self.worst = 0
        self._places = places
        self._console = Console(highlight=False, soft_wrap=True)

    def good(self, line: str) -> None:
        self._say("[green]ok[/]   ", line)

    def warn(self, line: str) -> None:
        self._say("[yellow]warn[/] ", line)

    def bad(self, error: VedetteError, what: str = "") -> None:
        from vedette.contract.errors import RetryableError

        # what would pass by itself when running is the user's to know of when checking
        code = 2 if isinstance(error, RetryableError) else error.exit_code
        self.worst = code if self.worst == 0 else min(self.worst, code)
        self._say("[red]bad[/]  ", f"{what}: {error}" if what else str(error))

    def attempt(self, what: str, action: Callable[[], str], key: str = "") -> None:
        """``action``: says what it found, or raises `VedetteError`. ``key``: of the configuration, which that is about."""
        from vedette.contract.errors import VedetteError, placed

        try:
            with placed(self._places.at(tuple(key.split(".")))) if key else nullcontext():
                found = action()
        except VedetteError as error:
            self.bad(error, "" if key else what)
        else:
            self.good(f"{what}: {found}")

    def _say(self, verdict: str, line: str) -> None:
        from rich.markup import escape

        self._console.print(f"{verdict} {escape(line)}")


def _check_state_dir(config: Config, report: _Report) -> None:
    """Where nothing names it, it is this user's own: a service has another one, of systemd's making."""
    from vedette.config import default_state_dir
    from vedette.contract.errors import StateError

    folder = Path(config.state_dir)
    if os.environ.get("STATE_DIRECTORY") or config.state_dir != default_state_dir():
        report.attempt("state_dir", lambda: _try_folder(folder), "state_dir")
        return
    try:
        report.good(f"state_dir: {_try_folder(folder)}")
    except StateError as error:
        report.warn(f"state_dir: {error}; where systemd starts the agent, StateDirectory= takes this folder's place")


def _check_pipeline(name: str, config: Config, preparing: Preparing, report: _Report, *, offline: bool) -> None:
    """Its model, its accelerator, its source. A model that is none is no reason not to look at the source."""
    from vedette.contract.errors import SourceError, VedetteError
    from vedette.sources import is_sensor_url

    options, source_key = config.pipelines[name], f"pipeline.{name}.source"
    try:
        item = preparing(name)
    except VedetteError as error:
        report.bad(error)
        if offline or isinstance(error, SourceError):
            return
        if is_sensor_url(options.source_config.url):
            report.warn(f"pipeline {name}: source: not tried, for the model says which channels it has")
        else:
            camera = partial(preparing.camera, name)
            report.attempt(f"pipeline {name}: source", lambda: _try_camera(name, options, camera()), source_key)
        return
    report.attempt(f"pipeline {name}: model", lambda: _try_model(item, config.engine), f"pipeline.{name}.model")
    if offline:
        return
    if config.engine.delegate and options.delegate:
        report.attempt(f"pipeline {name}: accelerator", lambda: _try_accelerator(item, config.engine))
    report.attempt(f"pipeline {name}: source", lambda: _try_source(item), source_key)


def _threads(config: EngineConfig) -> int:
    """Results are looked at here, not speed."""
    return config.threads if config.threads != "auto" else 1


def _try_model(item: Prepared, config: EngineConfig) -> str:
    from vedette.models.model import load_model, self_test

    loaded = load_model(item.spec, runtime=config.runtime, threads=_threads(config))
    outcome = self_test(loaded)
    loaded.engine.close()
    verdict = "plain model, no self-test" if outcome is None else outcome.reason
    return f"{item.spec.name} {item.spec.version} on {loaded.engine.description.runtime}; {verdict}"


def _try_accelerator(item: Prepared, config: EngineConfig) -> str:
    from vedette.engine import load_runtime
    from vedette.models.acceleration import try_acceleration
    from vedette.service.compose import acceleration

    accelerated = acceleration(config)
    assert accelerated is not None, "whoever calls this has looked"
    return try_acceleration(item.spec, load_runtime(config.runtime), accelerated, threads=_threads(config)).reason


def _try_folder(folder: Path) -> str:
    """Makes the folder if need be, and a file in it, and takes both away again. Raises `StateError`."""
    import tempfile

    from vedette.contract.errors import StateError

    made: list[Path] = []
    try:
        for parent in reversed([folder, *folder.parents]):
            if not parent.exists():
                parent.mkdir(mode=0o700)
                made.append(parent)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"vedette")
    except OSError as error:
        raise StateError(
            "cannot be written to", where=folder, expected="a folder that the agent may make or write to",
            found=error.strerror or str(error), fix="check as the user that will run the agent, or name another folder",
        ) from None  # fmt: skip
    finally:
        with suppress(OSError):  # somebody has begun to use it meanwhile
            for parent in reversed(made):
                parent.rmdir()
    return f"{folder} can be written to"


def _try_source(item: Prepared) -> str:
    """Opens a pipeline's source and waits for what it gives first. Raises `UserError` or `SourceLostError`."""
    from vedette.contract.manifest import SeriesInput
    from vedette.sources import masked_url

    if isinstance(item.spec.input, SeriesInput):
        return f"{masked_url(item.config.source_config.url)} {_first_readings(item)}"
    return _try_camera(item.name, item.config, item.source)


def _try_camera(name: str, config: PipelineConfig, source: Source) -> str:
    """Opens it and reads one picture, which has to be large enough. Raises as `_try_source` does."""
    from vedette.contract.image import refuse_small
    from vedette.flow.regions import Regions
    from vedette.sources import masked_url

    source.open()
    try:
        height, width = _first_picture(name, source).shape[:2]
    finally:
        source.close()
    refuse_small(width, height)
    if config.region is not None:
        Regions(config.region).places(width, height)
    return f"{masked_url(config.source_config.url)} {width}x{height}"


def _first_picture(name: str, source: Source) -> UInt8Array:
    """(height, width, 3) uint8 BGR. Raises as `_try_source` does, and `UndecodableError` where none of the first can be
    decoded."""
    from vedette.contract.bgr import in_bgr
    from vedette.contract.errors import SourceLostError, UndecodableError

    broken = 0
    while (reading := source.read(None)) is not None:
        try:
            return in_bgr(reading.pixels)
        except UndecodableError:
            broken += 1
            if broken > MAX_BROKEN:
                raise
    raise SourceLostError("opened, but gave no frame", where=name)


def _first_readings(item: Prepared) -> str:
    import time

    from vedette.contract.errors import SourceLostError
    from vedette.sources import masked_url
    from vedette.sources.unusable import unusable

    url = masked_url(item.config.source_config.url)
    wait_s = item.config.source_config.stall_timeout_s
    deadline = time.monotonic() + wait_s
    source = item.source
    source.open()
    try:
        while True:
            readings = source.read(0.25)
            if readings is None or len(readings):
                break
            if time.monotonic() > deadline:
                problem = f"opened, but gave no reading in {wait_s:g} s"
                if source.tally.malformed:
                    raise unusable(source.tally, url, problem)
                raise SourceLostError(problem, where=url)
    finally:
        source.close()
    if readings is None:
        raise SourceLostError("opened, but gave no reading", where=url)
    first = ", ".join(f"{value:g}" for value in readings.values[0])
    return f"{readings.values.shape[1]} channels, first {first}" + ("" if readings.timed else ", without times")
