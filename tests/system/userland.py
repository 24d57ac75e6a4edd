"""Another processor's Debian: its programs in a folder, run by qemu's user emulation on this computer's kernel.

The folder has Debian's Python and a virtual environment ``/opt/vedette`` with the wheels that pip chooses for that machine;
nothing is compiled. It is kept in ``build/`` under a digest of what it was made from. Each command gets mounts of its own,
which end with it. The network is this computer's, loopback included.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from machine import MIRROR, PROJECT, SUITE

PYTHON = "3.11"  # that suite's
WITHIN = "/opt/vedette"
"""Where the agent stands inside, as docs/deployment.md has it."""
PACKAGES = ("python3", "libstdc++6")
CACHE = PROJECT / "build" / "arm64"
GLIBC = 36  # 2.36 is that suite's: wheels for it and for all that is older can be installed
_TOOLS = ("mmdebstrap", "qemu-aarch64-static", "unshare", "chroot")
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_REGISTRATION = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")

# LiteRT's choice of kernels reads /proc/cpuinfo, and ends with SIGSEGV where that is an Intel's. ``part``: Arm's number
CPUINFO = """processor\t: 0
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""
PROCESSORS = {
    # Raspberry Pi 4
    "cortex-a72": CPUINFO.format(features="fp asimd evtstrm crc32 cpuid", part="0xd08"),
    # Raspberry Pi 5: with the int8 dot product, for which XNNPACK has kernels of its own
    "cortex-a76": CPUINFO.format(
        features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        part="0xd0b",
    ),
}

# a mount namespace of its own, for mounts that end with the command. $0: the root, then cpuinfo, the work folder, what
# to run
_ENTER = """
root=$0
mount --bind "$2" "$root/work"
mount -t proc proc "$root/proc"
mount --bind "$1" "$root/proc/cpuinfo"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
shift 2
exec env -i "$@"
"""


def why_not() -> str | None:
    """What this computer lacks for a userland of arm64, or None. Registers qemu with the kernel, as its package does."""
    if os.geteuid() != 0:
        return "needs root, to enter another root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: mmdebstrap qemu-user-static arch-test)"
    if platform.machine() != "x86_64":
        return "needs an x86-64 computer, to whose results those of arm64 are compared"
    if not _registered():
        return f"needs a kernel that lets qemu run programs of arm64: {_BINFMT} cannot be mounted or written"
    if not _root().is_dir():
        try:
            urllib.request.urlopen(f"{MIRROR}/dists/{SUITE}/InRelease", timeout=15).close()
        except (OSError, urllib.error.URLError) as error:
            return f"needs {MIRROR}: {error}"
    return None


def _registered() -> bool:
    """Whether the kernel starts qemu for programs of arm64."""
    if any(entry.name not in ("register", "status") and _for_arm64(entry) for entry in _BINFMT.glob("*")):
        return True
    try:
        if not (_BINFMT / "register").exists():
            command = ["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)]
            subprocess.run(command, check=True, capture_output=True)
        (_BINFMT / "register").write_text(_REGISTRATION.read_text().strip())
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _for_arm64(entry: Path) -> bool:
    lines = entry.read_text().splitlines()
    return "enabled" in lines and any("aarch64" in line for line in lines if line.startswith("interpreter"))


class Userland:
    """``with Userland(folder) as userland:`` has the root for itself.

    ``folder`` is seen inside as ``/work``; nothing else of this computer's files is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: TextIO

    def __enter__(self) -> Userland:
        """Makes the root unless it is cached, and puts the agent as it is now into it: half a minute, then six seconds."""
        CACHE.mkdir(parents=True, exist_ok=True)
        self._lock = (CACHE / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.root = _root()
        if not self.root.is_dir():
            for old in CACHE.glob("root-*"):
                shutil.rmtree(old)
            _bootstrap(self.root)
        _install_agent(self.root)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def attempt(
        self, *command: str, processor: str, timeout_s: float, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command as root of the userland; its stdout and stderr apart, whatever the exit code.

        ``processor``: one of `PROCESSORS`.
        """
        cpuinfo = self.folder / f"{processor}.cpuinfo"
        cpuinfo.write_text(PROCESSORS[processor])
        inside = {
            "PATH": f"{WITHIN}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/work", "LC_ALL": "C.UTF-8",
            "QEMU_CPU": processor, **environment,
        }  # fmt: skip
        return subprocess.run(
            [
                # what the command started ends with it, and it ends with this process
                "unshare", "--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-ec", _ENTER, str(self.root),
                str(cpuinfo), str(self.folder), *(f"{name}={value}" for name, value in inside.items()),
                "chroot", str(self.root), *command,
            ],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip

    def run(self, *command: str, processor: str, timeout_s: float = 120, **environment: str) -> str:
        """As `attempt`; its stdout. Raises `AssertionError` where it fails."""
        done = self.attempt(*command, processor=processor, timeout_s=timeout_s, **environment)
        assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


def resolved(python: str, requirements: Sequence[str], *options: str) -> list[str]:
    """The names of the files that pip would install on arm64 for a Python, dependencies included; nothing is built.

    ``options``: of pip, such as a file of constraints. Raises `AssertionError` where there is no such set, `OSError` where
    pip reaches no index.
    """
    with _scratch() as folder:
        report = folder / "report.json"
        # Python's markers are those of the Python that runs pip: no package of ours asks for another one below 3.13
        _pip(
            "install", "--dry-run", "--report", str(report), "--ignore-requires-python", "--target", str(folder / "none"),
            *_platform(python), *options, *requirements,
        )  # fmt: skip
        document: dict[str, Any] = json.loads(report.read_text())
        return [item["download_info"]["url"].rpartition("/")[2] for item in document["install"]]


def requirements(*extras: str) -> list[str]:
    """What pyproject.toml asks for on a device, with these extras."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(wanted for extra in extras for wanted in optional[extra])]


def constraints(python: str) -> Path:
    """The versions that are tested on a Python."""
    return PROJECT / "constraints" / f"py{python.replace('.', '')}.txt"


def _platform(python: str) -> list[str]:
    tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, GLIBC + 1))]
    return [
        "--only-binary=:all:", "--python-version", python, *(f"--platform={tag}_aarch64" for tag in tags),
    ]  # fmt: skip


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and "Retrying" in done.stderr:
        raise OSError(f"pip reaches no index: {done.stderr[-300:]}")
    assert done.returncode == 0, f"pip {arguments[0]}: {done.stderr[-2000:]}"


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vedette-arm64-") as folder:
        yield Path(folder)


def _root() -> Path:
    """The root's path in the cache, whether it is there or not."""
    parts = "\n".join([SUITE, *PACKAGES, *requirements("demo", "serial"), constraints(PYTHON).read_text()])
    return CACHE / f"root-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"


def _bootstrap(root: Path) -> None:
    new = root.with_name(f"root-{os.getpid()}.new")
    done = subprocess.run(
        [
            "mmdebstrap", "--quiet", "--architectures=arm64", "--variant=extract", f"--include={','.join(PACKAGES)}",
            SUITE, str(new), MIRROR,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"mmdebstrap: {done.stderr[-2000:]}"
    for name in ("proc", "sys", "dev", "work", "tmp"):
        (new / name).mkdir(exist_ok=True)
    subprocess.run(["chroot", str(new), "python3", "-m", "venv", "--without-pip", WITHIN], check=True)
    _pip(
        "install", "--no-compile", "--ignore-requires-python", "--target", str(_packages(new)), *_platform(PYTHON),
        "--constraint", str(constraints(PYTHON)), *requirements("demo", "serial"),
    )  # fmt: skip
    new.rename(root)


def _install_agent(root: Path) -> None:
    """The wheel of this checkout, of the agent alone; what it ships goes where an environment has it."""
    with _scratch() as folder:
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(PROJECT))
        [wheel] = folder.glob("vedette-*-none-any.whl")
        unpacked = folder / "unpacked"
        _pip("install", "--no-deps", "--no-compile", "--target", str(unpacked), str(wheel))
        for part, place in (("vedette", _packages(root)), ("share", root / WITHIN.removeprefix("/"))):
            shutil.rmtree(place / part, ignore_errors=True)
            shutil.copytree(unpacked / part, place / part)


def _packages(root: Path) -> Path:
    return root / WITHIN.removeprefix("/") / "lib" / f"python{PYTHON}" / "site-packages"
