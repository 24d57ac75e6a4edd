"""``vedette check -c FILE``"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vedette.service.compose import Prepared

HELP = "check a configuration, its models, sources and broker, without running it"
DESCRIPTION = (
    "Checks a configuration from end to end: every key, every model (digests, self-test on this machine, and on its "
    "accelerator), every source (opened, one frame read) and the broker (connected to, with its credentials). Says what is "
    "wrong in one line each, and warns of passwords and keys that others on this computer may read."
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
    from collections.abc import Callable

    from rich.markup import escape

    from vedette.config import load_config
    from vedette.contract.errors import VedetteError
    from vedette.engine import load_runtime
    from vedette.models.acceleration import try_acceleration
    from vedette.models.model import load_model, self_test
    from vedette.mqtt.connection import try_connection
    from vedette.service.compose import acceleration, link_options, prepare
    from vedette.terminal import Console
    from vedette.trust.exposure import exposures

    console = Console(highlight=False, soft_wrap=True)
    config = load_config(arguments.config)
    console.print(f"[green]ok[/]    configuration {escape(str(arguments.config))}, device {config.device}")
    for line in exposures(config, arguments.config):
        console.print(f"[yellow]warn[/]  {escape(line)}")
    prepared = prepare(config, arguments.config)
    accelerated = acceleration(config.engine)
    link = link_options(config)
    worst = 0

    def attempt(what: str, action: Callable[[], str]) -> None:
        nonlocal worst
        try:
            detail = action()
        except VedetteError as error:
            # what would pass by itself when running is the user's to know of when checking
            code = error.exit_code if error.exit_code == 2 else 2 if _retryable(error) else 1
            worst = code if worst == 0 else min(worst, code) if code == 1 else worst
            console.print(f"[red]bad[/]   {escape(what)}: {escape(str(error))}")
        else:
            console.print(f"[green]ok[/]    {escape(what)}: {escape(detail)}")

    # results are looked at here, not speed
    threads = config.engine.threads if config.engine.threads != "auto" else 1
    for item in prepared:

        def model(item=item) -> str:  # type: ignore[no-untyped-def]
            loaded = load_model(item.spec, runtime=config.engine.runtime, threads=threads)
            outcome = self_test(loaded)
            loaded.engine.close()
            verdict = "plain model, no self-test" if outcome is None else outcome.reason
            return f"{item.spec.name} {item.spec.version} on {loaded.engine.description.runtime}; {verdict}"

        def source(item=item) -> str:  # type: ignore[no-untyped-def]
            return _try_source(item)

        def accelerator(item=item) -> str:  # type: ignore[no-untyped-def]
            assert accelerated is not None
            runtime = load_runtime(config.engine.runtime)
            return try_acceleration(item.spec, runtime, accelerated, threads=threads).reason

        attempt(f"pipeline {item.name}: model", model)
        if accelerated is not None and item.config.delegate and not arguments.offline:
            attempt(f"pipeline {item.name}: accelerator", accelerator)
        if not arguments.offline:
            attempt(f"pipeline {item.name}: source", source)
    if not arguments.offline:
        attempt("broker", lambda: try_connection(link))
    return worst


def _try_source(item: Prepared) -> str:
    """Opens a pipeline's source and waits for what it gives first. Raises `SourceError` or `SourceLostError`."""
    from vedette.contract.errors import SourceLostError
    from vedette.contract.manifest import SeriesInput
    from vedette.sources import masked_url

    url = masked_url(item.config.source_config.url)
    if isinstance(item.spec.input, SeriesInput):
        return f"{url} {_first_readings(item)}"
    item.source.open()
    try:
        reading = item.source.read(None)
    finally:
        item.source.close()
    if reading is None:
        raise SourceLostError("opened, but gave no frame", where=item.name)
    return f"{url} {reading.pixels.shape[1]}x{reading.pixels.shape[0]}"


def _first_readings(item: Prepared) -> str:
    import time

    from vedette.contract.errors import SourceLostError

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
                reasons = "; ".join(source.tally.problems.values())
                raise SourceLostError(f"opened, but gave no reading in {wait_s:g} s", where=item.name, found=reasons)
    finally:
        source.close()
    if readings is None:
        raise SourceLostError("opened, but gave no reading", where=item.name)
    first = ", ".join(f"{value:g}" for value in readings.values[0])
    return f"{readings.values.shape[1]} channels, first {first}" + ("" if readings.timed else ", without times")


def _retryable(error: Exception) -> bool:
    from vedette.contract.errors import RetryableError

    return isinstance(error, RetryableError)
