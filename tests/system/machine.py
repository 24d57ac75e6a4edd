"""A Debian system that systemd has booted in a container, without a network, and the means to drive it.

The root file system comes from Debian's mirror and the wheels from pip's index; both are kept in a cache folder under a
digest of what they were made from, and each machine gets a copy that is removed with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

PROJECT = Path(__file__).resolve().parents[2]
MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "udev", "python3", "python3-venv", "sudo", "mosquitto", "mosquitto-clients",
)  # fmt: skip
PYTHON = "3.11"  # that suite's
USER = "pi"
_TOOLS = ("mmdebstrap", "systemd-nspawn", "nsenter", "setpriv", "tar")


def why_not() -> str | None:
    """What this computer lacks for a machine, or None."""
    if os.geteuid() != 0:
        return "needs root, to boot a container"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: mmdebstrap systemd-container)"
    if not _root_archive().exists():
        try:
            urllib.request.urlopen(f"{MIRROR}/dists/{SUITE}/InRelease", timeout=15).close()
        except (OSError, urllib.error.URLError) as error:
            return f"needs {MIRROR}: {error}"
    return None


class Machine:
    """``with Machine(folder) as machine:`` boots it; the end stops it and removes its files."""

    def __init__(self, folder: Path, prepare: Callable[[Path], None] = lambda root: None) -> None:
        """``prepare`` is called with the root's path before it boots."""
        self._folder = folder
        self.root = folder / "root"
        self._prepare = prepare
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._name = f"vedette-{uuid.uuid4().hex[:12]}"
        # of its own: two machines in one cgroup would take one another's processes for theirs
        self._cgroups = [parent / self._name for parent in _own_cgroups()]

    def __enter__(self) -> Machine:
        try:
            self._make_root()
            self._prepare(self.root)
            self._boot()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self, *command: str, user: str = "root", check: bool = True, timeout_s: float = 60) -> str:
        """Runs a command inside; its stdout and stderr together. Raises `AssertionError` where it fails."""
        done = self.attempt(*command, user=user, timeout_s=timeout_s)
        assert not check or done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def attempt(self, *command: str, user: str = "root", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """As `run`, whatever the exit code."""
        home = "/root" if user == "root" else f"/home/{user}"
        environment = [
            "env",
            "-i",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",  # as sudo has it, and a login
            f"HOME={home}",
            f"USER={user}",
            "LC_ALL=C.UTF-8",
        ]
        as_user = [] if user == "root" else ["runuser", "-u", user, "--"]
        return subprocess.run(
            ["nsenter", "-t", str(self._leader), "-a", *environment, *as_user, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=timeout_s,
        )  # fmt: skip

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", unit, "-p", name, "--value").strip()

    def journal(self, unit: str, *options: str) -> list[str]:
        """A unit's lines, without dates."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "-q", "-o", "cat", "-u", unit, *options).splitlines()

    def processes_file(self, unit: str) -> Path:
        """What lists a running unit's processes, by their numbers out here."""
        (found,) = (path for cgroup in self._cgroups for path in cgroup.rglob(f"{unit}/cgroup.procs"))
        return found

    def write(self, path: str, text: str, mode: int = 0o644, group: str = "root") -> None:
        """Writes a file inside."""
        inside = self.root / path.removeprefix("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_text(text)
        self.run("chgrp", group, path)
        self.run("chmod", f"{mode:o}", path)

    def stop(self) -> None:
        """Powers off and removes the root."""
        if self._nspawn is not None and self._nspawn.poll() is None:
            self._nspawn.send_signal(signal.SIGTERM)  # nspawn asks the system inside to power off
            try:
                self._nspawn.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._nspawn.pid, signal.SIGKILL)
                self._nspawn.wait()
        for cgroup in self._cgroups:
            for folder, _, _ in os.walk(cgroup, topdown=False):
                Path(folder).rmdir()
        shutil.rmtree(self.root)

    def _make_root(self) -> None:
        self.root.mkdir(parents=True)
        subprocess.run(["tar", "-xf", str(_root_archive()), "-C", str(self.root)], check=True)
        (self.root / "etc/hostname").write_text("raspberrypi\n")
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 raspberrypi\n")
        (self.root / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        shutil.copytree(_wheels(), self.root / "wheels")
        (self.root / f"etc/sudoers.d/{USER}").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
        _copy_checkout(self.root / "home" / USER / "vedette")
        subprocess.run(["chroot", str(self.root), "useradd", "-M", "-G", "systemd-journal", USER], check=True)
        subprocess.run(["chroot", str(self.root), "chown", "-R", f"{USER}:", f"/home/{USER}"], check=True)
        (self.root / "home" / USER).chmod(0o700)

    def _boot(self) -> None:
        address = self._folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(address))
            log = (self._folder / "console.log").open("wb")
            for cgroup in self._cgroups:
                cgroup.mkdir()
            # a test process that is killed takes its machine along
            enter = "".join(f"echo $$ > {cgroup}/cgroup.procs && " for cgroup in self._cgroups)
            self._nspawn = subprocess.Popen(
                [
                    "sh", "-c", enter + 'exec setpriv --pdeathsig TERM "$@"', "sh",
                    "systemd-nspawn", "--boot", f"--directory={self.root}", f"--machine={self._name}", "--private-network",
                    "--register=no", "--keep-unit", "--console=pipe", "--notify-ready=yes",
                    "--system-call-filter=adjtimex clock_adjtime bpf",  # for the clock, and for DeviceAllow=
                ],
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "NOTIFY_SOCKET": str(address)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            log.close()
            deadline = time.monotonic() + 60
            ready = False
            while not ready and time.monotonic() < deadline and self._nspawn.poll() is None:
                if select.select([notify], [], [], 0.5)[0]:
                    message = notify.recv(4096).decode()
                    if leader := re.search(r"^X_NSPAWN_LEADER_PID=(\d+)$", message, re.MULTILINE):
                        self._leader = int(leader[1])
                    ready = "READY=1" in message.splitlines()
        console = (self._folder / "console.log").read_text(errors="replace")
        assert ready and self._leader, f"the machine does not boot:\n{console[-2000:]}"


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Looks every tenth of a second, for a container's state cannot be waited upon. Raises `AssertionError`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.1)


def _own_cgroups() -> list[Path]:
    """This process's, in the hierarchies that systemd uses: cgroup v2's and v1's named one, where there is one."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mounts = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
        elif controllers == "name=systemd":
            mounts = [Path("/sys/fs/cgroup/systemd")]
        else:
            continue
        folders = [mount / path.lstrip("/") for mount in mounts]
        found += [folder for folder in folders if (folder / "cgroup.procs").exists()][:1]
    return found


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    path = Path(base) / "vedette-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Of several test processes one fills the cache, and the others wait for it."""
    with (_cache() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _forget_old(pattern: str) -> None:
    """Removes what no test has used for 30 days; what is newer may be another checkout's."""
    for path in _cache().glob(pattern):
        if time.time() - path.stat().st_mtime > 30 * 86400:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _key(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _root_archive() -> Path:
    """The root's path in the cache, whether it is there or not."""
    return _cache() / f"root-{_key([SUITE, platform.machine(), *PACKAGES])}.tar"


def make_root_archive() -> None:
    """Fetches the root unless it is cached. About a minute."""
    with _only_one():
        target = _root_archive()
        if target.exists():
            os.utime(target)
            return
        _forget_old("root-*")
        new = target.with_name(f"root-{os.getpid()}.new.tar")
        leave_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
        done = subprocess.run(
            [
                "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", *leave_out,
                SUITE, str(new), MIRROR,
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"mmdebstrap: {done.stderr[-2000:]}"
        new.rename(target)


def _wheels() -> Path:
    """Everything that ``pip install .`` needs inside, for the root's Python and not for this one."""
    constraints = PROJECT / "constraints" / f"py{PYTHON.replace('.', '')}.txt"
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    machine = platform.machine()
    target = _cache() / f"wheels-{_key([machine, constraints.read_text(), *wanted])}"
    with _only_one():
        if target.is_dir():
            os.utime(target)
            return target
        _forget_old("wheels-*")
        new = target.with_name(f"wheels-{os.getpid()}.new")
        tags = ("manylinux2014", "manylinux_2_27", "manylinux_2_28")
        platforms = [f"--platform={tag}_{machine}" for tag in tags]
        done = subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(new), "--constraint", str(constraints),
                "--only-binary=:all:", "--python-version", PYTHON, *platforms, *wanted,
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"pip download: {done.stderr[-2000:]}"
        new.rename(target)
        return target


def _copy_checkout(target: Path) -> None:
    """What a clone would have, with what is not committed yet."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=PROJECT, capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        listed = [str(path.relative_to(PROJECT)) for path in PROJECT.rglob("*") if path.is_file()]
    for name in filter(None, listed):
        source = PROJECT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
