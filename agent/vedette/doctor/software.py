"""Python, packages, runtimes, the unit, the broker."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Final

from vedette import __version__
from vedette.contract.errors import MissingPackageError, VedetteError

from .host import Finding, Host

PYTHON: Final = ((3, 11), (3, 14))
"""From, and below; as pyproject.toml says."""
PACKAGES: Final = {"numpy": (1, 26), "opencv-python-headless": (4, 10), "paho-mqtt": (2, 2), "msgspec": (0, 19)}
"""The least that is supported, of what pip may have been talked out of; as pyproject.toml says."""
NETWORK: Final = "cifar10-resnet8"
"""A small int8 network that comes with the package, for timing kernels."""
FASTER: Final = 1.2  # times, from which on XNNPACK's int8 kernels are told from noise
_UNIT_FOLDERS: Final = (
    "/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
    "/lib/systemd/system",
)  # fmt: skip
UNIT: Final = "vedette.service"
# of cgroup v2, and of v1 where systemd keeps its own hierarchy
_CGROUPS: Final = (
    "/sys/fs/cgroup/system.slice",
    "/sys/fs/cgroup/systemd/system.slice",
    "/sys/fs/cgroup/unified/system.slice",
)


def look_at_software() -> list[Finding]:
    """This very Python and its packages."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    low, high = PYTHON
    if low <= sys.version_info[:2] < high:
        found = [Finding("python", "ok", f"{version}, vedette {__version__}")]
    else:
        wanted = f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}"
        found = [Finding("python", "bad", f"{version}; expected {wanted}", "make the environment with another Python")]
    for name, least in PACKAGES.items():
        found.append(_package(name, least))
    return [*found, *_compiled(__file__)]


def _compiled(source: str) -> list[Finding]:
    """Whether Python finds this file compiled, or can keep what it compiles: else it compiles everything at every start."""
    kept = Path(importlib.util.cache_from_source(source))
    folder = next((f for f in kept.parents if f.exists()), kept.parent)
    if kept.exists() or (os.access(folder, os.W_OK) and not sys.dont_write_bytecode):
        return []
    words = "Python keeps nothing compiled here, so that each start takes a second or more longer"
    fix = (
        "unset PYTHONDONTWRITEBYTECODE"
        if sys.dont_write_bytecode
        else f"sudo {sys.executable} -m compileall -q {sys.prefix}"
    )
    return [Finding("bytecode", "warn", words, fix)]


def _package(name: str, least: tuple[int, int]) -> Finding:
    wanted = ".".join(map(str, least))
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        other = _other_opencv() if name.startswith("opencv") else None
        if other is None:
            return Finding("package", "bad", f"{name} is not installed", f"pip install '{name}>={wanted}'")
        return Finding("package", "warn", f"{other} in the place of {name}", f"pip install {name}: it needs no desktop")
    parts = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:2])
    if parts < least:
        return Finding(
            "package", "bad", f"{name} {version}; expected {wanted} or newer", f"pip install '{name}>={wanted}'"
        )
    return Finding("package", "ok", f"{name} {version}")


def _other_opencv() -> str | None:
    for name in ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def look_at_runtimes() -> list[Finding]:
    """Which TFLite runtimes there are, and how the first one runs int8."""
    from vedette.engine import RUNTIMES, Runtime, load_runtime

    loaded: list[Runtime] = []
    problems: list[MissingPackageError] = []
    for name in RUNTIMES:
        try:
            loaded.append(load_runtime(name))
        except MissingPackageError as error:
            problems.append(error)
    if not loaded:
        return [Finding("runtime", "bad", "no TFLite runtime: " + problems[0].found, problems[0].fix)]
    taken = f"; {loaded[0].name} is taken unless configured" if len(loaded) > 1 else ""
    found = [Finding("runtime", "ok", ", ".join(map(str, loaded)) + taken)]
    return [*found, _int8(loaded[0])]


def _int8(runtime: object) -> Finding:
    from vedette.engine import Runtime, probe
    from vedette.engine.int8 import int8_speed
    from vedette.models.model import find_model

    assert isinstance(runtime, Runtime)
    try:
        path = find_model(NETWORK)
    except VedetteError:
        return Finding("int8", "warn", f"not tried: {NETWORK} did not come with this installation")
    try:
        probe(path, runtime.name)  # in a child first: kernels that a CPU does not have end a process
        speed = int8_speed(path, runtime)
    except VedetteError as error:
        return Finding(
            "int8",
            "bad",
            f"{runtime} cannot run {NETWORK}: {error.found or error.problem}",
            "another runtime, or a 64-bit system",
        )
    words = f"{NETWORK} {speed.default_ms:.3f} ms, {speed.builtin_ms:.3f} ms without XNNPACK"
    times = speed.builtin_ms / speed.default_ms
    if speed.delegated is False:
        fix = "pip install ai-edge-litert" if runtime.name != "litert" else "a newer ai-edge-litert"
        return Finding("int8", "warn", f"XNNPACK does not take int8 networks: {words}", fix)
    if times < FASTER:
        return Finding(
            "int8", "warn", f"XNNPACK takes int8 networks, but is hardly faster: {words}", "is the board busy or hot?"
        )
    return Finding("int8", "ok", f"XNNPACK takes int8 networks, {times:.1f} times faster: {words}")


def look_at_unit(host: Host) -> list[Finding]:
    """Whether systemd starts an agent, by its files and its cgroup."""
    if not host.exists("/run/systemd/system"):
        return [Finding("unit", "ok", "this system has not been started by systemd")]
    place = next((folder for folder in _UNIT_FOLDERS if host.exists(f"{folder}/{UNIT}")), None)
    if place is None:
        fix = "docs/deployment.md says how, to have an agent from boot on"
        return [Finding("unit", "warn", f"no {UNIT}: nobody starts an agent when the device comes up", fix)]
    enabled = bool(host.glob(f"/etc/systemd/system/*.wants/{UNIT}"))
    active = any(host.text(f"{folder}/{UNIT}/cgroup.procs") for folder in _CGROUPS)
    words = f"{place}/{UNIT}, {'enabled' if enabled else 'not enabled'}, {'active' if active else 'not active'}"
    fix = "" if enabled and active else f"sudo systemctl {'enable --now' if not enabled else 'start'} vedette"
    return [Finding("unit", "ok" if enabled and active else "warn", words, fix)]


def look_at_config(path: Path) -> tuple[list[Finding], str | None]:
    """The configuration and its broker; where it keeps the state, None where nobody can tell."""
    from vedette.config import load_config
    from vedette.mqtt.connection import try_connection
    from vedette.service.compose import link_options

    try:
        config = load_config(path)
        options = link_options(config, path)
    except VedetteError as error:
        return [Finding("config", "bad", error.line())], None
    names = ", ".join(config.pipelines)
    found = [Finding("config", "ok", f"{path}: device {config.device}, pipelines {names}; vedette check tries them")]
    try:
        found.append(Finding("broker", "ok", try_connection(options)))
    except VedetteError as error:
        found.append(Finding("broker", "bad", error.line()))
    return found, config.state_dir
