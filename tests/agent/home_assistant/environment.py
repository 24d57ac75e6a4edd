"""Home Assistant in an environment of its own: it needs a newer Python than ours, and packages that must not meet ours.

A folder with Debian's newest Python (`mmdebstrap`, extracted, nothing installed) and Home Assistant's wheel with the
packages that its core and its MQTT integration import, from PyPI. Made once, kept in ``build/``: 60 MB of downloads.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[3]
VERSION: Final = "2026.11.0"
SUITE: Final = "forky"  # of Debian, the first with Python 3.14
PYTHON: Final = "3.14"
PACKAGES: Final = ("base-files", "python3", "tzdata", "libstdc++6", "libgcc-s1")

# Home Assistant's own requirements (its wheel's metadata, exact versions) that are imported on the way to MQTT
WANTED: Final = frozenset(
    {
        "aiodns", "aiohttp", "aiohttp_cors", "aiohttp-fast-zlib", "aiohttp-asyncmdnsresolver", "aiozoneinfo",
        "annotatedyaml", "astral", "async-interrupt", "attrs", "atomicwrites-homeassistant", "awesomeversion",
        "bcrypt", "certifi", "ciso8601", "cronsim", "fnv-hash-fast", "httpx2", "ifaddr", "jinja2", "lru-dict", "pyjwt",
        "cryptography", "pillow", "propcache", "orjson", "packaging", "psutil-home-assistant", "pyserial",
        "python-slugify", "pyyaml", "requests", "typing-extensions", "ulid-transform", "probatio", "yarl",
        "webrtc-models", "zeroconf", "truststore", "voluptuous",
    }
)  # fmt: skip
BESIDES: Final = ("paho-mqtt==2.1.0", "aiohasupervisor==0.8.1", "voluptuous")  # of integrations' manifests


class Unavailable(Exception):  # noqa: N818
    """It cannot be had here, and why."""


def make(folder: Path) -> Path:
    """The environment's root, made if need be; other processes wait. Raises `Unavailable`."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unavailable("only root may chroot into an environment of its own")
    if shutil.which("mmdebstrap") is None:
        raise Unavailable("no mmdebstrap")
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / f"{VERSION}-{PYTHON}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "made").is_file():
            shutil.rmtree(root, ignore_errors=True)
            _python(root)
            _packages(root, folder / "wheels")
            (root / "made").touch()
    return root


def _python(root: Path) -> None:
    _run(
        "mmdebstrap", "--quiet", "--variant=extract", "--aptopt=Acquire::Check-Valid-Until \"false\"",
        f"--include={','.join(PACKAGES)}", SUITE, str(root), f"deb http://deb.debian.org/debian {SUITE} main",
    )  # fmt: skip
    # a suite in the making moves on: then its Python is another one
    if not (root / "usr/bin" / f"python{PYTHON}").exists():
        raise Unavailable(f"{SUITE} has no Python {PYTHON} any more")


def _packages(root: Path, wheels: Path) -> None:
    wheels.mkdir(parents=True, exist_ok=True)
    download = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
        "--python-version", f"{PYTHON}.9", "--dest", str(wheels),
    ]  # fmt: skip
    machine = os.uname().machine
    platforms = [f"--platform=manylinux{tag}_{machine}" for tag in ("2014", "_2_28", "_2_34")]
    _run(*download, "--no-deps", f"homeassistant=={VERSION}")
    [wheel] = wheels.glob("homeassistant-*.whl")
    _run(*download, *platforms, *_requirements(wheel), *BESIDES)
    site = root / "opt" / "site"
    for archive in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(archive) as opened:
            # they are more than all else
            names = [name for name in opened.namelist() if "/translations/" not in name]
            opened.extractall(site, names)
    shutil.rmtree(wheels)


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as opened:
        [metadata] = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        lines = opened.read(metadata).decode().splitlines()
    stated = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [one for one in stated if one.split("=")[0].split("<")[0].split(">")[0].lower() in WANTED]


def _run(*command: str) -> None:
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    if outcome.returncode:
        said = [line for line in outcome.stderr.splitlines() if line.strip()] or [f"exit code {outcome.returncode}"]
        raise Unavailable(f"{command[0]} {command[1] if len(command) > 1 else ''}: {said[-1]}")


class HomeAssistant:
    """A running one, connected to a broker on this machine. See ``inside.py`` for what is real in it."""

    def __init__(self, root: Path, port: int) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=root / "tmp", prefix="config-"))
        (self._folder / "configuration.yaml").touch()
        shutil.copy(Path(__file__).with_name("inside.py"), self._folder)
        inside = "/" + str(self._folder.relative_to(root))
        self.log = self._folder / "stderr"
        chroot = shutil.which("chroot") or "/usr/sbin/chroot"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [chroot, str(root), f"/usr/bin/python{PYTHON}", f"{inside}/inside.py", inside, str(port)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={"PYTHONPATH": "/opt/site", "PATH": "/usr/bin:/bin", "HOME": inside, "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
        self._answer()

    def ask(self, do: str, **told: Any) -> Any:
        """One answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **told}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def call(self, service: str, entity_id: str, **data: Any) -> None:
        """A service call, as a click in its user interface makes it: ``switch.turn_on``."""
        domain, name = service.split(".")
        answer = self.ask("call", domain=domain, service=name, data={"entity_id": entity_id, **data})
        assert answer["ok"], answer

    def states(self) -> dict[str, dict[str, Any]]:
        """State and attributes by entity id."""
        states: dict[str, dict[str, Any]] = self.ask("states")
        return states

    def entity(self, unique_id: str) -> str:
        """Its entity id; empty where there is none."""
        registry: dict[str, str] = self.ask("registry")
        return registry.get(unique_id, "")

    def complaints(self) -> list[str]:
        """What it has logged as a warning or worse."""
        lines: list[str] = self.ask("complaints")
        return lines

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"Home Assistant ended: {self.log.read_text()[-3000:]}"
        return json.loads(line)

    def __enter__(self) -> HomeAssistant:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)
