"""A file -> `Config`, and what stands where the file says nothing."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from vedette.contract.errors import ConfigError
from vedette.flow.governor import GovernorOptions

from .mistakes import MAX_BYTES, Places, converted, look_up
from .tables import (
    RESERVED,
    Config,
    EngineConfig,
    HomeAssistantConfig,
    IntervalsConfig,
    MqttConfig,
    OutboxConfig,
    PipelineConfig,
    TrustConfig,
)

SERVICE_HOME: Final = "/var/lib/vedette"  # as systemd/vedette.sysusers.conf says, and StateDirectory= of the unit
_TOP: Final = (
    "device", "state_dir", "log_level", "mqtt", "trust", "outbox", "engine", "governor", "intervals", "home_assistant",
    "pipeline",
)  # fmt: skip


def load_config(path: Path) -> Config:
    """Reads and checks a file. Raises `ConfigError` with file, line, key, what was expected and what was found."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        denied = isinstance(error, PermissionError)
        raise ConfigError(
            "configuration cannot be read", where=path, found=error.strerror or str(error),
            fix="of a service, its own user may: sudo -u vedette" if denied else "",
        ) from None  # fmt: skip
    if len(raw) > MAX_BYTES:
        raise ConfigError("configuration too large", where=path, expected=f"at most {MAX_BYTES} bytes")
    return parse_config(raw, path)


def parse_config(raw: bytes, path: Path) -> Config:
    """As `load_config`, of bytes; ``path`` is for messages. Relative file names inside are the working directory's."""
    try:
        text = raw.decode("utf-8-sig")
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(
            "no text", where=path, expected="UTF-8", found=f"byte {error.object[error.start]:#04x}"
        ) from None
    except (ValueError, RecursionError) as error:
        # ValueError: TOMLDecodeError, and what int() says of thousands of digits
        raise ConfigError("no TOML", where=path, found=str(error)) from None
    places = Places(path, text)
    for key in document:
        if key not in _TOP:
            raise places.unknown((), key, _TOP)
    pipelines_raw = document.get("pipeline", {})
    if not isinstance(pipelines_raw, dict) or not pipelines_raw:
        raise ConfigError(
            "no pipeline", where=places.at(("pipeline",)), expected="at least one table such as [pipeline.door]"
        )
    pipelines = {}
    for name, table in pipelines_raw.items():
        place = ("pipeline", name)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or name in RESERVED:
            raise ConfigError(
                "bad pipeline name", where=places.at(place), found=repr(name),
                expected="letters, digits, - and _, and none of " + ", ".join(RESERVED),
            )  # fmt: skip
        pipelines[name] = converted(_with_kind(table), PipelineConfig, place, places)
    device = document.get("device", default_device())
    if not isinstance(device, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", device):
        raise ConfigError(
            "bad value", where=places.at(("device",)), expected="1 to 64 letters, digits, - and _", found=repr(device)
        )
    rest = {key: document[key] for key in ("state_dir", "log_level") if key in document}
    top = converted({**rest, "state_dir": rest.get("state_dir", default_state_dir())}, _Top, (), places)
    return Config(
        device=device,
        state_dir=top.state_dir,
        log_level=top.log_level,
        mqtt=converted(document.get("mqtt", {}), MqttConfig, ("mqtt",), places),
        trust=converted(document.get("trust", {}), TrustConfig, ("trust",), places),
        outbox=converted(document.get("outbox", {}), OutboxConfig, ("outbox",), places),
        engine=converted(document.get("engine", {}), EngineConfig, ("engine",), places),
        governor=converted(document.get("governor", {}), GovernorOptions, ("governor",), places),
        intervals=converted(document.get("intervals", {}), IntervalsConfig, ("intervals",), places),
        home_assistant=converted(document.get("home_assistant", {}), HomeAssistantConfig, ("home_assistant",), places),
        pipelines=pipelines,
    )


def _with_kind(table: Any) -> Any:
    """A pipeline's table; the input of its plain model is an image where it does not say what it is."""
    stated = look_up(table, ("plain", "input"))
    if not isinstance(table, dict) or not isinstance(stated, dict) or "kind" in stated:
        return table
    return {**table, "plain": {**table["plain"], "input": {"kind": "image", **stated}}}


class _Top(Struct, frozen=True, kw_only=True):
    state_dir: Annotated[str, Meta(pattern=r"^[^\x00]+$")]
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        if self.state_dir.startswith("~"):
            raise ValueError(f"state_dir: expected the whole path, for ~ is a shell's word, found {self.state_dir!r}")


def default_device() -> str:
    """The host name with six hex digits of a hash of the machine id, for every Pi is called ``raspberrypi``."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[:50] or "device"
    try:
        machine = Path("/etc/machine-id").read_bytes()
    except OSError:
        machine = socket.gethostname().encode()
    # the id itself must not be published (machine-id(5)): a keyed hash stands for it
    return f"{host}-{hashlib.blake2b(machine.strip(), key=b'vedette', digest_size=3).hexdigest()}"


def default_state_dir() -> str:
    """systemd's $STATE_DIRECTORY; else, of the service's own user, its home, which is the same folder; else the user's own
    state folder (XDG base directory specification)."""
    from_systemd = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if from_systemd:
        return from_systemd
    try:
        home = Path.home()
    except RuntimeError:  # a user of a container, say, who has none
        raise ConfigError(
            "no state folder", expected="state_dir, or HOME in the environment", found="neither"
        ) from None
    if home == Path(SERVICE_HOME):
        return SERVICE_HOME
    return str(Path(os.environ.get("XDG_STATE_HOME") or home / ".local/state") / "vedette")
