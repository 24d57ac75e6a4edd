"""TOML -> frozen structs. Unknown keys are refused, with file, line and the nearest right name.

Every option stands with its unit and default in ``systemd/vedette.toml``, which a test compares with these structs.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from vedette.flow.governor import GovernorOptions
from vedette.flow.motion import MotionOptions
from vedette.flow.regions import RegionOptions
from vedette.follow.events import SceneOptions
from vedette.follow.steady import SteadyOptions
from vedette.follow.track import TrackOptions
from vedette.follow.zones import WireOptions, ZoneOptions
from vedette.pictures.snapshots import SnapshotOptions

from .contract.errors import ConfigError
from .contract.manifest import InputSpec, OutputSpec
from .contract.wording import in_words, nearest
from .delivery import Durable, WhenFull
from .sources import masked_url

MAX_BYTES: Final = 1024 * 1024
RESERVED: Final = ("status", "health", "ledger", "cmd", "reply")

Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Seconds = Annotated[float, Meta(gt=0.0, le=86400.0)]
Score = Annotated[float, Meta(ge=0.0, le=1.0)]
FileName = Annotated[str, Meta(pattern=r"^[^\x00]*$")]


# not beginning with $ (the broker's own), no wildcards, no control characters (Mosquitto refuses them)
_ROOT: Final = r"^(?!\$)[^+#/\x00-\x1f\x7f]+(/+[^+#/\x00-\x1f\x7f]+)*$"


class MqttConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[mqtt]"""

    host: Annotated[str, Meta(pattern=r"^[^\s\x00-\x1f]+$", max_length=253)] = "localhost"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    protocol: Literal["5", "3.1.1"] = "5"
    root: Annotated[str, Meta(pattern=_ROOT, max_length=128)] = "vedette"
    username: Annotated[str, Meta(pattern=r"^[^\x00]*$", max_length=1024)] = ""
    password: Annotated[str, Meta(max_length=1024)] = ""
    password_file: FileName = ""
    tls: bool = False
    ca_file: FileName = ""
    cert_file: FileName = ""
    key_file: FileName = ""
    alpn: Annotated[list[Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,255}$")]], Meta(max_length=16)] = []
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    in_flight: Annotated[int, Meta(ge=1, le=1000)] = 64

    def __post_init__(self) -> None:
        if "://" in self.host or self.host.count(":") == 1:  # an IPv6 address has two at least
            found = "a URL" if "://" in self.host else "a port"
            raise ValueError(f"host: expected a name or address alone, beside port and tls, found {found} in it")
        if self.password and self.password_file:
            raise ValueError("password: expected one of password and password_file, found both")
        if (self.password or self.password_file) and not self.username:
            raise ValueError("username: expected one, for there is a password")
        for name in ("ca_file", "cert_file", "alpn"):
            if getattr(self, name) and not self.tls:
                raise ValueError(f"{name}: expected tls = true beside it")
        if self.key_file and not self.cert_file:
            raise ValueError("key_file: expected cert_file beside it")


class TrustConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[trust]"""

    keys: Annotated[list[Annotated[str, Meta(pattern=r"^[^\x00]+$")]], Meta(max_length=64)] = []
    require: bool = True
    no_rollback: bool = False

    def __post_init__(self) -> None:
        if self.no_rollback and not self.keys:
            raise ValueError("no_rollback: expected keys beside it, for anybody can write a higher version")


class OutboxConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[outbox]"""

    durable: Durable = "spill"
    max_messages: Annotated[int, Meta(ge=1, le=10_000_000)] = 200_000
    max_bytes: Annotated[int, Meta(ge=64 * 1024, le=1 << 40)] = 256 * 1024 * 1024
    max_memory_bytes: Annotated[int, Meta(ge=64 * 1024, le=1 << 40)] = 32 * 1024 * 1024
    max_age_s: Annotated[float, Meta(ge=0.0, le=1e9)] = 604_800.0
    when_full: WhenFull = "drop_oldest"
    replay_age_s: Seconds = 10.0


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[engine]"""

    runtime: Literal["auto", "litert", "tflite-runtime"] = "auto"
    threads: Annotated[int, Meta(ge=1, le=64)] | Literal["auto"] = 1
    interpreters: Annotated[int, Meta(ge=0, le=64)] = 0
    delegate: FileName = ""
    delegate_options: Annotated[dict[str, str], Meta(max_length=64)] = {}
    deadline_s: Annotated[float, Meta(ge=0.05, le=8.0)] = 2.0
    check_s: Annotated[float, Meta(ge=0.0, le=86400.0)] = 5.0


class IntervalsConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[intervals]"""

    stats_s: Seconds = 10.0
    health_s: Seconds = 30.0
    ledger_s: Seconds = 10.0


class HomeAssistantConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[home_assistant]"""

    enabled: bool = False
    prefix: Annotated[str, Meta(pattern=_ROOT, max_length=128)] = "homeassistant"
    expire_after_s: Annotated[int, Meta(ge=0, le=604_800)] = 0


class SourceConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.source]"""

    url: Annotated[str, Meta(pattern=r"^[^\x00]+$", max_length=2048)]
    loop: bool = False
    pace: Literal["native", "max"] = "native"
    fps: Annotated[float, Meta(ge=0.0, le=1000.0)] = 0.0
    width: Annotated[int, Meta(ge=0, le=16384)] = 0
    height: Annotated[int, Meta(ge=0, le=16384)] = 0
    fourcc: Annotated[str, Meta(pattern=r"^([A-Za-z0-9 ]{4})?$")] = ""
    stride: Annotated[int, Meta(ge=0, le=65536)] = 0
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    open_timeout_s: Seconds = 10.0
    stall_timeout_s: Seconds = 4.0
    frozen_timeout_s: Annotated[float, Meta(ge=0.0, le=86400.0)] = 0.0
    password_file: FileName = ""
    ca_file: FileName = ""
    cert_file: FileName = ""
    key_file: FileName = ""

    def __post_init__(self) -> None:
        scheme = self.url.partition("://")[0].lower()
        for name in ("password_file", "ca_file", "cert_file", "key_file"):
            if getattr(self, name) and scheme != "mqtts" and (name, scheme) != ("password_file", "mqtt"):
                raise ValueError(f"{name}: expected a url of mqtts:// beside it, found {masked_url(self.url)}")
        if self.key_file and not self.cert_file:
            raise ValueError("key_file: expected cert_file beside it")


class PlainConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.plain]: what a model without a manifest cannot say of itself."""

    output: OutputSpec
    input: InputSpec | None = None
    labels_file: FileName = ""


class PipelineConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME]"""

    source: SourceConfig | str
    model: Annotated[str, Meta(pattern=r"^[^\x00]+$", max_length=1024)]
    labels: list[str] = []
    threshold: Annotated[float, Meta(ge=0.0, le=1e12)] | None = None
    thresholds: dict[str, Score] = {}
    weight: Annotated[float, Meta(ge=0.01, le=100.0)] = 1.0
    delegate: bool = True
    max_fps: Annotated[float, Meta(ge=0.0, le=1000.0)] = 0.0
    deadline_ms: Annotated[float, Meta(ge=0.0, le=3_600_000.0)] = 0.0
    stride: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    detections: bool = True
    max_detections_hz: Annotated[float, Meta(ge=0.0, le=1000.0)] = 0.0
    publish_empty: bool = True
    plain: PlainConfig | None = None
    region: RegionOptions | None = None
    motion: MotionOptions | None = None
    track: TrackOptions | None = None
    zones: Annotated[dict[Identifier, ZoneOptions], Meta(max_length=64)] = {}
    wires: Annotated[dict[Identifier, WireOptions], Meta(max_length=64)] = {}
    events: SceneOptions | None = None
    steady: SteadyOptions | None = None
    snapshots: SnapshotOptions | None = None

    @property
    def follows(self) -> TrackOptions | None:
        """How objects are followed: as ``track`` says, and by its defaults where zones, wires or events need it."""
        needed = bool(self.zones or self.wires) or self.events is not None
        return TrackOptions() if self.track is None and needed else self.track

    @property
    def source_config(self) -> SourceConfig:
        """The source's table; a bare string is its url."""
        return SourceConfig(url=self.source) if isinstance(self.source, str) else self.source


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    device: Identifier
    state_dir: str
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    mqtt: MqttConfig
    trust: TrustConfig
    outbox: OutboxConfig
    engine: EngineConfig
    governor: GovernorOptions
    intervals: IntervalsConfig
    home_assistant: HomeAssistantConfig
    pipelines: dict[str, PipelineConfig]


_TOP: Final = (
    "device", "state_dir", "log_level", "mqtt", "trust", "outbox", "engine", "governor", "intervals", "home_assistant",
    "pipeline",
)  # fmt: skip
_T = TypeVar("_T")


def load_config(path: Path) -> Config:
    """Reads and checks a file. Raises `ConfigError` with file, line, key, what was expected and what was found."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError("configuration cannot be read", where=path, found=error.strerror or str(error)) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError("configuration too large", where=path, expected=f"at most {MAX_BYTES} bytes")
    return parse_config(raw, path)


def parse_config(raw: bytes, path: Path) -> Config:
    """As `load_config`, of bytes; ``path`` is for messages. Relative file names inside are the working directory's."""
    try:
        text = raw.decode("utf-8")
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError("no text", where=path, expected="UTF-8", found=f"byte {raw[error.start]:#04x}") from None
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
        pipelines[name] = _convert(_with_kind(table), PipelineConfig, place, places)
    device = document.get("device", default_device())
    if not isinstance(device, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", device):
        raise ConfigError(
            "bad value", where=places.at(("device",)), expected="1 to 64 letters, digits, - and _", found=repr(device)
        )
    rest = {key: document[key] for key in ("state_dir", "log_level") if key in document}
    top = _convert({**rest, "state_dir": rest.get("state_dir", default_state_dir())}, _Top, (), places)
    return Config(
        device=device,
        state_dir=top.state_dir,
        log_level=top.log_level,
        mqtt=_convert(document.get("mqtt", {}), MqttConfig, ("mqtt",), places),
        trust=_convert(document.get("trust", {}), TrustConfig, ("trust",), places),
        outbox=_convert(document.get("outbox", {}), OutboxConfig, ("outbox",), places),
        engine=_convert(document.get("engine", {}), EngineConfig, ("engine",), places),
        governor=_convert(document.get("governor", {}), GovernorOptions, ("governor",), places),
        intervals=_convert(document.get("intervals", {}), IntervalsConfig, ("intervals",), places),
        home_assistant=_convert(document.get("home_assistant", {}), HomeAssistantConfig, ("home_assistant",), places),
        pipelines=pipelines,
    )


def _with_kind(table: Any) -> Any:
    """A pipeline's table; the input of its plain model is an image where it does not say what it is."""
    stated = _look_up(table, ("plain", "input"))
    if not isinstance(table, dict) or not isinstance(stated, dict) or "kind" in stated:
        return table
    return {**table, "plain": {**table["plain"], "input": {"kind": "image", **stated}}}


class _Top(Struct, frozen=True, kw_only=True):
    state_dir: Annotated[str, Meta(pattern=r"^[^\x00]+$")]
    log_level: Literal["debug", "info", "warning", "error"] = "info"


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
    """systemd's $STATE_DIRECTORY, else the user's own state folder (XDG base directory specification)."""
    from_systemd = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if from_systemd:
        return from_systemd
    base = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return str(Path(base) / "vedette")


class Places:
    """Finds the line of a key, for tomllib does not say it."""

    _HEADER: Final = re.compile(r"^\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
    _KEY: Final = re.compile(
        r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
    )
    _PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), start=1):
            if header := self._HEADER.match(line):
                table = self._split(header[1])
                self._lines.setdefault(table, number)
            elif key := self._KEY.match(line):
                parts = self._split(key[1])
                for end in range(1, len(parts) + 1):
                    self._lines.setdefault((*table, *parts[:end]), number)

    @classmethod
    def of(cls, path: Path) -> Places:
        """Of a file that has been read before; it finds no lines where it is gone."""
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES)
        except OSError:
            raw = b""
        return cls(path, raw.decode("utf-8", "replace"))

    def _split(self, dotted: str) -> tuple[str, ...]:
        return tuple(part.strip("\"'") for part in self._PART.findall(dotted))

    def at(self, key: tuple[str, ...]) -> str:
        """``file:line: dotted.key``, the line left out where the key is not in the file."""
        for end in range(len(key), 0, -1):
            if key[:end] in self._lines:
                return f"{self._path}:{self._lines[key[:end]]}: {'.'.join(key)}"
        return f"{self._path}: {'.'.join(key)}"

    def unknown(self, table: tuple[str, ...], key: str, known: tuple[str, ...]) -> ConfigError:
        """The error for a key that nobody reads."""
        near = nearest(key, known)
        return ConfigError(
            "unknown key", where=self.at((*table, key)), expected="one of " + ", ".join(known),
            fix=f"did you mean {near!r}?" if near else "",
        )  # fmt: skip


_PATH = re.compile(r"(?s)^(?P<text>.*?)(?: - at (?:`key` in )?`\$(?P<path>[^`]*)`)?$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<key>[^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<key>[^`]*)`$")
_EXPECTED = re.compile(r"^Expected (?P<expected>.*?)(?:, got (?P<got>.*))?$")
_PATTERNS: Final = {
    "prefix": "levels of a topic, such as homeassistant, without +, # and control characters",
    "root": "levels of a topic, such as plant-7/vedette, without +, # and control characters",
    "host": "a name or address without spaces",
    "fourcc": "four letters or digits, such as MJPG",
    "alpn": "1 to 255 printable ASCII characters, such as x-amzn-mqtt-ca",
    "zones": "names of 1 to 64 letters, digits, - and _",
    "wires": "names of 1 to 64 letters, digits, - and _",
    "rightward": "1 to 64 letters, digits, - and _",
    "leftward": "1 to 64 letters, digits, - and _",
}
"""What a key's pattern means, for people; of the others: some text without NUL bytes."""


def _convert(value: Any, kind: type[_T], table: tuple[str, ...], places: Places) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        match = _PATH.match(str(error))
        text = match["text"] if match else str(error)
        inner = tuple(re.findall(r"\.\.\.|[^.\[\]]+", match["path"] or "")) if match else ()
        key = _name_dict_keys((*table, *inner), value, table, kind)
        found = _look_up(value, key[len(table) :])
        if unknown := _UNKNOWN.match(text):
            struct = _struct_at(kind, key[len(table) :], value)
            fields = struct.__struct_fields__ if struct else ()
            raise places.unknown(key, unknown["key"], tuple(fields)) from None
        if missing := _MISSING.match(text):
            raise ConfigError("missing key", where=places.at(key), expected=f"{missing['key']} = ...") from None
        if expected := _EXPECTED.match(text):
            wanted = in_words(expected["expected"])
            if "matching regex" in wanted:
                wanted = _PATTERNS.get(key[-1], "some text without NUL bytes")
                if isinstance(found, dict):  # one of its keys
                    found = next((name for name in found if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)), found)
            raise ConfigError("bad value", where=places.at(key), expected=wanted, found=_shown(found, key)) from None
        head, _, rest = text.partition(": ")
        if rest and re.fullmatch(r"[a-z_]+", head):
            # a struct's own check: "field: expected X, found Y"
            wanted, _, what = rest.removeprefix("expected ").partition(", found ")
            raise ConfigError("bad value", where=places.at((*key, head)), expected=wanted, found=what) from None
        options = _choices(kind, key[len(table) :], value)
        raise ConfigError(
            "bad value", where=places.at(key), expected=options, found=_shown(found, key) if options else text
        ) from None


def _shown(value: Any, key: tuple[str, ...]) -> str:
    """A value as an error shows it: short, and never a password."""
    if key and key[-1] == "password":
        return "a secret"
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    text = repr(masked_url(value) if isinstance(value, str) else value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


def _name_dict_keys(path: tuple[str, ...], value: Any, table: tuple[str, ...], kind: Any) -> tuple[str, ...]:
    """msgspec writes ``[...]`` for a dict's key; the offending one is the first that is no score, or no such table."""
    if "..." not in path:
        return path
    index = path.index("...")
    inner = _look_up(value, path[len(table) : index])
    struct = _struct_at(kind, (*path[len(table) : index], "..."))
    if isinstance(inner, dict):
        for name, item in inner.items():
            if struct is not None:
                try:
                    msgspec.convert(item, struct)
                except msgspec.ValidationError:
                    return (*path[:index], name, *path[index + 1 :])
                continue
            bad = isinstance(item, bool) or not isinstance(item, int | float) or not 0 <= item <= 1
            if bad:
                return (*path[:index], name, *path[index + 1 :])
    return path[:index]


def _look_up(value: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return value
    return value


def _struct_at(kind: Any, path: tuple[str, ...], value: Any = None) -> Any:
    """The struct that a path below ``kind`` leads to, for the names of its fields; ``value``: what it is to hold."""
    info = msgspec.inspect.type_info(kind)
    for part in path:
        info = _chosen(info, value)
        value = _look_up(value, (part,))
        if isinstance(info, msgspec.inspect.DictType):
            info = info.value_type
        elif isinstance(info, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            info = info.item_type
        elif isinstance(info, msgspec.inspect.StructType):
            fields = {field.name: field.type for field in info.fields}
            if part not in fields:
                return None
            info = fields[part]
    info = _chosen(info, value)
    return info.cls if isinstance(info, msgspec.inspect.StructType) else None


def _chosen(info: msgspec.inspect.Type, value: Any) -> msgspec.inspect.Type:
    """Of a choice of structs the one whose tag the value has (decoder, kind), else the first."""
    if not isinstance(info, msgspec.inspect.UnionType):
        return info
    structs = [t for t in info.types if isinstance(t, msgspec.inspect.StructType)]
    tagged = [t for t in structs if isinstance(value, dict) and t.tag_field and value.get(t.tag_field) == t.tag]
    chosen = tagged or structs
    return chosen[0] if chosen else info


def _choices(kind: Any, path: tuple[str, ...], value: Any) -> str:
    """What a field with few values may be."""
    if path and path[-1].isdigit():  # of a list
        path = path[:-1]
    struct = _struct_at(kind, path[:-1], value) if path else None
    if struct is None:
        return ""
    for field in msgspec.inspect.type_info(struct).fields:  # type: ignore[attr-defined]
        info = field.type
        if isinstance(info, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            info = info.item_type
        number = ""
        if isinstance(info, msgspec.inspect.UnionType):
            number = "a number, or "
            info = next((t for t in info.types if isinstance(t, msgspec.inspect.LiteralType)), info)
        if path and field.name == path[-1] and isinstance(info, msgspec.inspect.LiteralType):
            return number + "one of " + ", ".join(repr(v) for v in info.values)
    return ""
