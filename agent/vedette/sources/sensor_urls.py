"""URL -> sensor source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NoReturn
from urllib.parse import parse_qsl, unquote

from vedette.contract.errors import SourceError
from vedette.contract.wording import nearest
from vedette.hosts import is_host
from vedette.mqtt_text import MAX_BYTES, from_url, is_password, is_string

from .line_formats import TIME_KEYS, repeated
from .registry import masked_url
from .sensor import SensorOptions, SensorSource

SENSOR_SCHEMES: Final = ("serial", "iio", "csv", "ndjson", "udp", "mqtt", "mqtts", "exec")
LOOPBACK: Final = "127.0.0.1"
MQTT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
DEFAULT_BAUD: Final = 115_200
MAX_SPEED: Final = 1e6  # of a recording: one of a month in some seconds; pace = "max" is for more
_FORMS: Final = {
    "serial": "serial:///dev/ttyUSB0?baud=115200",
    "iio": "iio:///sys/bus/iio/devices/iio:device0?rate=100",
    "csv": "csv:///PATH",
    "ndjson": "ndjson:///PATH",
    "udp": "udp://127.0.0.1:9000",
    "mqtt": "mqtt://USER:PASSWORD@HOST:1883/TOPIC",
    "mqtts": "mqtts://USER:PASSWORD@HOST:8883/TOPIC",
    "exec": "exec:COMMAND",
}
_SUFFIXES: Final[dict[str, Literal["csv", "ndjson"]]] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


def is_sensor_url(url: str) -> bool:
    """Whether `make_sensor_source` is who reads this; a path without a scheme is, where it ends in .csv or .ndjson."""
    scheme, separator, rest = url.partition(":")
    if separator and scheme.lower() in SENSOR_SCHEMES:
        return scheme.lower() == "exec" or rest.startswith("//")
    return "://" not in url and Path(url).suffix.lower() in _SUFFIXES


def make_sensor_source(options: SensorOptions) -> SensorSource:
    """The source that reads this URL. Nothing is opened yet.

    Raises `SourceError` for a scheme nobody reads, a URL that is none, or an option that it does not know;
    `MissingPackageError` for a serial port without pyserial.
    """
    if not is_sensor_url(options.url):
        raise SourceError(
            "no sensor's URL", where=masked_url(options.url), expected=", ".join(_FORMS.values()),
            fix="a camera, a video or a picture needs a model whose input is an image",
        )  # fmt: skip
    if not options.channels:
        raise ValueError("expected at least one channel, found none")
    return _Url(options).source()


class _Url:
    """A URL, taken apart. Its query's options are taken out one by one; what is left over is unknown."""

    def __init__(self, options: SensorOptions) -> None:
        self._options = options
        scheme, _, rest = options.url.partition(":")
        self._scheme = scheme.lower()
        if self._scheme not in SENSOR_SCHEMES:  # a path
            self._scheme, self._rest, query = _SUFFIXES[Path(options.url).suffix.lower()], options.url, ""
        elif self._scheme == "exec":
            self._rest, query = rest, ""
        else:
            place, _, query = rest.removeprefix("//").partition("?")
            self._rest = place if self._scheme in ("udp", *MQTT_PORTS) else unquote(place)
        self._query = dict(parse_qsl(query, keep_blank_values=True))
        self._known: list[str] = []

    def source(self) -> SensorSource:
        options = self._options
        if self._scheme == "exec":
            from .program import ProgramSource
            from .running import parse_command

            return ProgramSource(parse_command(self._rest), options)
        if self._scheme == "udp":
            from .udp import UdpSource

            host, port = self._host_port(self._rest.rstrip("/"), LOOPBACK, None)
            return UdpSource(host, port, self._done(self._columns()), options)
        if self._scheme in MQTT_PORTS:
            return self._mqtt()
        path = self._path()
        if self._scheme == "serial":
            from .serial_port import MAX_BAUD, SerialSource

            baud = int(self._number("baud", 50, MAX_BAUD) or DEFAULT_BAUD)
            return SerialSource(str(path), baud, self._done(self._columns()), options)
        if self._scheme == "iio":
            from .iio import MAX_RATE_HZ, IioSource

            rate = self._number("rate", 0.001, MAX_RATE_HZ)
            names = self._names("channels") or options.channels
            if len(names) != len(options.channels):
                self._bad("channels", f"{len(options.channels)} names, for {', '.join(options.channels)}", len(names))
            return IioSource(path, self._done(names), rate, options)
        from .readings_file import RecordingSource

        columns = self._columns() if self._scheme == "csv" else ()
        rate, speed = self._number("rate", 0.001, 1e6), self._number("speed", 0.01, MAX_SPEED) or 1.0
        form: Literal["csv", "ndjson"] = "csv" if self._scheme == "csv" else "ndjson"
        return RecordingSource(path, form, self._done(columns), rate, options, speed)

    def _mqtt(self) -> SensorSource:
        from .mqtt_topic import MqttSource, Topic, check_files

        place, _, topic = self._rest.partition("/")
        user, _, address = place.rpartition("@")
        name, password = map(from_url, user.partition(":")[::2])
        host, port = self._host_port(address, None, MQTT_PORTS[self._scheme])
        decoded = from_url(topic)
        # a command line may be no UTF-8 either
        if name is None or password is None or decoded is None or re.search("[\ud800-\udfff]", self._rest):
            self._malformed("UTF-8")
        if not is_string(name) or not is_password(password):
            self._malformed(f"a user name without control characters and noncharacters, and {MAX_BYTES} bytes at most")
        if password and not name:
            self._malformed("a user name before the password")
        parts = decoded.split("/")
        bad = any(("#" in p and p != "#") or ("+" in p and p != "+") for p in parts) or "#" in parts[:-1]
        if not decoded or bad:
            self._malformed("a topic, in which # stands alone at the end, and + alone between slashes")
        if not is_string(decoded):
            self._malformed("a topic without control characters and noncharacters")
        tls = self._scheme == "mqtts"
        if self._options.password_file and (password or not name):
            self._bad(
                "password_file", "a user name in the URL, and no password", "a password" if password else "no user"
            )
        source = MqttSource(Topic(host, port, decoded, name, password, tls), self._done(self._columns()), self._options)
        check_files(self._options, tls=tls)
        return source

    def _path(self) -> Path:
        if not self._rest or "\0" in self._rest:
            self._malformed()
        return Path(self._rest)

    def _host_port(self, text: str, default_host: str | None, default_port: int | None) -> tuple[str, int]:
        host, colon, port = text.rpartition(":")
        if not colon or "]" in port:  # of an IPv6 address alone
            host, port = text, ""
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        host = host or default_host or ""
        number = (
            int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else default_port if not port else None
        )
        if not is_host(host) or number is None or not 1 <= number <= 65_535:
            self._malformed()
        return host, number

    def _names(self, key: str) -> tuple[str, ...]:
        value = self._take(key)
        return tuple(name.strip() for name in value.split(",")) if value else ()

    def _columns(self) -> tuple[str, ...]:
        names = self._names("columns")
        if missing := [channel for channel in self._options.channels if names and channel not in names]:
            self._bad("columns", f"every channel of the model, {missing[0]} too", ",".join(names))
        if twice := repeated(names, (*self._options.channels, *TIME_KEYS)):
            self._bad("columns", f"{twice} once", ",".join(names))
        return names

    def _number(self, key: str, low: float, high: float) -> float | None:
        value = self._take(key)
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            self._bad(key, f"a number from {low:g} to {high:g}", value)
        return number

    def _take(self, key: str) -> str | None:
        self._known.append(key)
        return self._query.pop(key, None)

    def _done(self, names: Sequence[str]) -> tuple[str, ...]:
        """``names``, when every option of the query has been taken."""
        if self._query:
            key = next(iter(self._query))
            near = nearest(key, self._known)
            raise SourceError(
                "unknown option", where=masked_url(self._options.url), expected=" or ".join(self._known), found=key,
                fix=f"did you mean {near}=?" if near else "",
            )  # fmt: skip
        return tuple(names)

    def _bad(self, key: str, expected: str, found: object) -> NoReturn:
        raise SourceError(f"bad {key}", where=masked_url(self._options.url), expected=expected, found=found)

    def _malformed(self, expected: str = "") -> NoReturn:
        # what was found is not repeated: a part of it may be a password's
        raise SourceError(
            "malformed URL", where=masked_url(self._options.url), expected=expected or _FORMS[self._scheme]
        )
