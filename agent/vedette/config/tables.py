"""The tables of a configuration, as frozen structs: each option with its type, its bounds and its default."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from vedette import mqtt_text
from vedette.contract.image_options import ImageOptions
from vedette.contract.manifest import OutputSpec, SeriesInput
from vedette.delivery import Durable, WhenFull
from vedette.flow.governor import GovernorOptions
from vedette.flow.motion import MotionOptions
from vedette.flow.regions import RegionOptions
from vedette.follow.events import SceneOptions
from vedette.follow.steady import SteadyOptions
from vedette.follow.track import TrackOptions
from vedette.follow.zones import WireOptions, ZoneOptions
from vedette.hosts import is_host
from vedette.pictures.snapshots import SnapshotOptions
from vedette.sources import masked_url

RESERVED: Final = ("status", "health", "ledger", "cmd", "reply")

Identifier = Annotated[str, Meta(pattern=mqtt_text.NAME)]
Seconds = Annotated[float, Meta(gt=0.0, le=86400.0)]
Score = Annotated[float, Meta(ge=0.0, le=1.0)]
FileName = Annotated[str, Meta(pattern=r"^[^\x00]*$")]
Url = Annotated[str, Meta(pattern=r"^[^\x00]+$", max_length=2048)]


class MqttConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[mqtt]"""

    host: Annotated[str, Meta(pattern=r"^[^\s\x00-\x1f]+$", max_length=253)] = "localhost"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    protocol: Literal["5", "3.1.1"] = "5"
    root: Annotated[str, Meta(pattern=mqtt_text.ROOT, max_length=128)] = "vedette"
    username: Annotated[str, Meta(pattern=mqtt_text.STRING, max_length=1024)] = ""
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
        if not is_host(self.host):
            raise ValueError(f"host: expected a name or address, of IPv6 without brackets, found {self.host!r}")
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
    prefix: Annotated[str, Meta(pattern=mqtt_text.ROOT, max_length=128)] = "homeassistant"
    expire_after_s: Annotated[int, Meta(ge=0, le=604_800)] = 0


class SourceConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME.source]"""

    url: Url
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
    input: ImageOptions | SeriesInput = ImageOptions()
    labels_file: FileName = ""


class PipelineConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[pipeline.NAME]"""

    source: SourceConfig | Url
    model: Annotated[str, Meta(pattern=r"^[^\x00]+$", max_length=1024)]
    labels: list[str] = []
    threshold: Annotated[float, Meta(ge=0.0, le=1e12)] | None = None
    thresholds: dict[str, Score] = {}
    weight: Annotated[float, Meta(ge=0.01, le=100.0)] = 1.0
    delegate: bool = True
    parallel: Annotated[int, Meta(ge=0, le=64)] = 0
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
