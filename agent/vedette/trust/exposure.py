"""Files that others on this computer may read or change although they should not: a line each, for people to mend."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vedette.config import Config, MqttConfig, SourceConfig

_SECRET: Final = re.compile(
    r"://[^/?#]*:[^/?#]*@"  # user and password
    r"|[?&](pass|pwd|password|passwd|token|key|auth|secret)[a-z_]*=",
    re.IGNORECASE,
)


def exposures(config: Config, path: Path) -> list[str]:
    """``path``: of the configuration. What is not there, or not ours to look at, is passed over."""
    found = []
    for file, what in dict(_secrets(config, path)).items():
        if _open_to_others(file, stat.S_IROTH):
            found.append(f"{file}: {what}, and everybody on this computer may read it; chmod o-r {file}")
    for file, what in dict(_trusted(config, path)).items():
        if _open_to_others(file, stat.S_IWOTH):
            found.append(f"{file}: {what}, and everybody on this computer may change it; chmod o-w {file}")
    return found


def _secrets(config: Config, path: Path) -> Iterator[tuple[Path, str]]:
    mqtt = config.mqtt
    if mqtt.password or any(_SECRET.search(pipeline.source_config.url) for pipeline in config.pipelines.values()):
        yield path, "holds a password"
    for files in _tables(config):
        if files.password_file:
            yield Path(files.password_file), "holds a password"
        if files.key_file or files.cert_file:
            yield Path(files.key_file or files.cert_file), "holds a private key"


def _trusted(config: Config, path: Path) -> Iterator[tuple[Path, str]]:
    yield path, "is the configuration"
    for files in _tables(config):
        if files.ca_file:
            yield Path(files.ca_file), "says which broker is trusted"
    for key in map(Path, config.trust.keys):
        yield key, "says whose models are trusted"
        with contextlib.suppress(OSError):  # whoever reads the keys says what is wrong with the folder
            inside = sorted(key.glob("*.pub")) if key.is_dir() else []
            yield from ((file, "says whose models are trusted") for file in inside)


def _tables(config: Config) -> Iterator[MqttConfig | SourceConfig]:
    """Those that say how a broker is talked to."""
    yield config.mqtt
    yield from (pipeline.source_config for pipeline in config.pipelines.values())


def _open_to_others(file: Path, right: int) -> bool:
    """Whether others have this right to it, and may pass through every folder on the way."""
    try:
        resolved = file.resolve(strict=True)
        ways = all(parent.stat().st_mode & stat.S_IXOTH for parent in resolved.parents)
        return bool(resolved.stat().st_mode & right) and ways
    except OSError:
        return False
