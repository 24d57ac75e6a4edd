"""What a run is played on: the user's configuration with everything that may be broken put where it can be.

The broker is behind a proxy, sources are behind proxies or in copies, models in copies, the state in a temporary folder.
The device has another name, so that no agent that runs on this machine is disturbed.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from vedette.config import Config, SourceConfig, load_config
from vedette.contract.errors import UserError
from vedette.demo.broker import LOOPBACK, loopback_broker
from vedette.models.model import find_model
from vedette.mqtt.connection import LinkOptions
from vedette.mqtt.topics import Topics
from vedette.service.compose import link_options

from .disk import StateDisk, state_disk
from .proxy import Proxy
from .sources import StagedSource, stage_source
from .toml import write_toml

SUFFIX: Final = "-chaos"
INTERVALS: Final = {"stats_s": 1.0, "ledger_s": 1.0, "health_s": 5.0}


@dataclass(frozen=True, slots=True)
class Stage:
    """``broker``: for whoever listens, straight to it, without a client id. ``link``: between the agent and it; None where
    it cannot be, and ``link_why`` says why. ``pipelines``: their names. ``sources``: each once, under the first pipeline's
    name. ``models``: copies by their originals. ``durable``: as configured."""

    folder: Path
    config: Path
    topics: Topics
    broker: LinkOptions
    broker_name: str
    link: Proxy | None
    link_why: str
    pipelines: tuple[str, ...]
    sources: tuple[StagedSource, ...]
    models: Mapping[Path, Path]
    disk: StateDisk
    delegate: bool
    durable: str
    keepalive_s: int


@contextmanager
def set_stage(path: Path, *, own_broker: bool) -> Iterator[Stage]:
    """``own_broker``: one on loopback, for this run alone; else the configured one.

    Raises `UserError` for what the user can mend.
    """
    config = load_config(path)
    document = tomllib.loads(path.read_text("utf-8-sig"))
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="vedette-chaos-")))
        disk = opened.enter_context(state_disk(folder / "state"))
        device = config.device[: 64 - len(SUFFIX)] + SUFFIX
        broker_name, broker, mqtt = _broker(config, document.get("mqtt", {}), opened, own=own_broker)
        link, why = None, "the broker's certificate is made out to its own name, so that no proxy can stand before it"
        if not broker.tls:
            try:
                link, why = opened.enter_context(Proxy(broker.host, broker.port)), ""
            except OSError as error:
                raise UserError("no such broker", where=f"{broker.host}:{broker.port}", found=str(error)) from None
            mqtt = {**mqtt, "host": LOOPBACK, "port": link.port}
        models: dict[Path, Path] = {}
        sources: dict[SourceConfig, StagedSource] = {}  # the agent opens once what is the very same
        pipelines = {}
        for name, options in config.pipelines.items():
            table = {k: v for k, v in document["pipeline"][name].items() if k != "motion"}
            original = find_model(options.model).resolve()
            if original not in models:
                models[original] = _copy(original, folder / "models" / str(len(models)))
            source = options.source_config
            if source not in sources:
                given = table["source"]
                source_table = dict(given) if isinstance(given, dict) else {"url": given}
                place = folder / "sources" / name
                place.mkdir(parents=True)
                try:
                    sources[source] = stage_source(name, source, source_table, place, opened)
                except OSError as error:
                    raise UserError(
                        "source cannot be used", where=f"{path}: pipeline.{name}.source", found=str(error)
                    ) from None
            pipelines[name] = {
                **table, "model": str(models[original]), "source": sources[source].table, "detections": True,
                "publish_empty": True,
            }  # fmt: skip
        kept: dict[str, Any] = {
            key: document[key] for key in ("log_level", "outbox", "trust", "engine") if key in document
        }
        staged = folder / "vedette.toml"
        rest = {"device": device, "state_dir": str(disk.folder), "mqtt": mqtt, "intervals": INTERVALS}
        staged.write_text(write_toml({**kept, **rest, "pipeline": pipelines}), "utf-8")
        staged.chmod(0o600)
        load_config(staged)  # what we have made of it is still one
        yield Stage(
            folder, staged, Topics(config.mqtt.root, device), broker, broker_name, link, why, tuple(pipelines),
            tuple(sources.values()), models, disk, bool(config.engine.delegate), config.outbox.durable,
            config.mqtt.keepalive_s,
        )  # fmt: skip


def _broker(
    config: Config, table: Mapping[str, Any], opened: ExitStack, *, own: bool
) -> tuple[str, LinkOptions, dict[str, Any]]:
    """Its name, how it is reached, and the agent's table."""
    options = replace(link_options(config), client_id="")
    if not own:
        return f"{options.host}:{options.port}", options, dict(table)
    name, port = opened.enter_context(loopback_broker())
    kept = {key: table[key] for key in ("root", "keepalive_s", "in_flight") if key in table}
    # iotcore speaks MQTT 5 only on a listener of its own
    protocol = "3.1.1" if name == "iotcore" else config.mqtt.protocol
    mqtt = {**kept, "host": LOOPBACK, "port": port, "protocol": protocol}
    return f"{name} on {LOOPBACK}", LinkOptions(LOOPBACK, port, "", protocol), mqtt


def _copy(original: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    return Path(shutil.copyfile(original, folder / original.name))
