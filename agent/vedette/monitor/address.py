"""Which broker, as it is typed: ``mqtts://user:password@host:8883/plant-7/vedette``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from vedette.contract.errors import ConfigError
from vedette.hosts import is_host
from vedette.mqtt.connection import LinkOptions
from vedette.mqtt_text import ROOT, from_url, is_string
from vedette.trust.credentials import read_password

DEFAULT: Final = "mqtt://localhost"
DEFAULT_ROOT: Final = "vedette"
MAX_URL: Final = 4096  # characters
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class Broker:
    """Where to look, and below which topic."""

    options: LinkOptions
    root: str

    def __str__(self) -> str:
        """Without user and password."""
        scheme = "mqtts" if self.options.tls else "mqtt"
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"{scheme}://{host}:{self.options.port}/{self.root}"


def parse_url(url: str) -> Broker:
    """``mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT][/ROOT]``; a bare host is one of mqtt://. Raises `ConfigError`.

    User, password and root may be percent-encoded. Without ROOT it is ``vedette``. The client id is yet to be given.
    """
    expected = "mqtt[s]://[USER[:PASSWORD]@]HOST[:PORT][/ROOT]"
    if len(url) > MAX_URL:
        raise ConfigError("bad broker", expected=f"at most {MAX_URL} characters", found=len(url))
    if wrong := [c for c in url if c in " ?#" or not c.isprintable()]:
        raise ConfigError(
            "bad broker", expected=expected, found=f"{wrong[0]!r} in it",
            fix="a URL names no topic filter, for which there are --device and --topic; in a user name, password or root "
            f"write {quote(wrong[0], safe='', errors='surrogateescape')}",
        )  # fmt: skip
    text = url if "://" in url else f"mqtt://{url}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:  # a port that is no number, brackets that do not close
        raise ConfigError("bad broker", where=_masked(url), expected=expected, found=str(error)) from None
    if parts.scheme not in _PORTS or not host or not is_host(host) or port == 0:
        raise ConfigError("bad broker", expected=expected, found=repr(_masked(url)))
    username, password, path = map(from_url, (parts.username or "", parts.password or "", parts.path))
    if username is None or password is None or path is None or not is_string(username):
        raise ConfigError(
            "bad broker", where=_masked(url), expected="UTF-8, percent-encoded, and a user name without control characters "
            "and noncharacters",
        )  # fmt: skip
    if password and not username:
        raise ConfigError("bad broker", where=_masked(url), expected="a user name before the password", found="none")
    root = path.strip("/") or DEFAULT_ROOT
    options = LinkOptions(
        host, port or _PORTS[parts.scheme], "", "5", username, password, parts.scheme == "mqtts", table="url"
    )
    return Broker(options, checked_root(root))


def checked_root(root: str) -> str:
    """Raises `ConfigError` for what no topic begins with."""
    if len(root) > 128 or not re.search(ROOT, root):
        raise ConfigError(
            "bad root",
            found=repr(root),
            expected="levels of a topic, such as plant-7/vedette, without +, #, control characters and noncharacters",
        )
    return root


def find_broker(
    url: str | None, *, config: Path | None, root: str | None, password_file: Path | None, files: Mapping[str, str]
) -> Broker:
    """What the options of a command say together: a URL, or a configuration's broker. Raises `ConfigError`.

    ``files``: ``ca_file``, ``cert_file`` and ``key_file``, each empty where it is not given.
    """
    if config is not None:
        if url is not None:
            raise ConfigError("bad broker", expected="a URL or a configuration", found="both")
        from vedette.config import load_config
        from vedette.service.compose import link_options

        settings = load_config(config)
        broker = Broker(link_options(settings, config), settings.mqtt.root)
    else:
        broker = parse_url(DEFAULT if url is None else url)
    options = broker.options
    for name, file in files.items():
        if file and not options.tls:
            raise ConfigError(f"bad --{name.replace('_', '-')}", expected="mqtts:// beside it", found="mqtt://")
    given: dict[str, Any] = {name: file for name, file in files.items() if file}
    if "key_file" in given and not (options.cert_file or "cert_file" in given):
        raise ConfigError("bad --key-file", expected="--cert-file beside it", found="none", fix="add --cert-file")
    options = replace(options, **given)
    if password_file is not None:
        if not options.username:
            raise ConfigError(
                "bad --password-file", expected="a user name in the URL or the configuration", found="none",
                fix="say it: mqtt://USER@HOST",
            )  # fmt: skip
        options = replace(options, password=read_password(str(password_file)), password_file="")
    return Broker(options, checked_root(root) if root is not None else broker.root)


def _masked(url: str) -> str:
    """Without what may be a password."""
    head, separator, rest = url.rpartition("@")
    scheme, slashes, _ = head.partition("://")
    return f"{scheme}{slashes}***@{rest}" if separator else url
