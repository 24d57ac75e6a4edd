"""What CPUQuota= and MemoryMax= do to a unit, set from outside: a container's systemd has no controllers for them.

cgroup v1's, in groups of their own: whatever process the unit inside has, or gets while it starts again, is moved there.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from machine import Machine, wait_until

_LOOK_S = 0.005  # between two looks at which processes the unit has
_PERIOD_US = 1_000_000  # the longest there is; the shortest quota, 1 ms of it, is a thousandth of a core
# where it may not spare itself, it can be ended while the memory of one that was ended is not free yet
_CROWDS = 20

_CROWD = """
import contextlib, sys
with contextlib.suppress(PermissionError), open("/proc/self/oom_score_adj", "w") as score:
    score.write("-1000")
with open(sys.argv[1], "w") as group:
    group.write("0")
held = b"x" * int(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


def why_not() -> str | None:
    """What this computer lacks for limits, or None."""
    missing = [name for name in ("cpu", "memory") if _own(name) is None]
    return f"needs cgroup v1's controllers, where it has none: {', '.join(missing)}" if missing else None


class Limits:
    """``with Limits(machine, "vedette.service") as limits:``; nothing is limited until it is said."""

    def __init__(self, machine: Machine, unit: str) -> None:
        self._unit = machine.processes_file(unit)
        name = f"vedette-{uuid.uuid4().hex[:12]}"
        self._cpu, self._memory = ((_own(controller) or Path()) / name for controller in ("cpu", "memory"))
        self._crowds_ended = 0
        self._stop = threading.Event()
        self._follower = threading.Thread(target=self._follow)

    def __enter__(self) -> Limits:
        for group in (self._cpu, self._memory):
            group.mkdir()
        (self._cpu / "cpu.cfs_period_us").write_text(f"{_PERIOD_US}")
        (self._memory / "memory.swappiness").write_text("0")
        self._follower.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._follower.join()
        for group in (self._cpu, self._memory):
            wait_until(lambda group=group: _removed(group), f"{group} without processes")

    def cpu(self, cores: float | None) -> None:
        """How much of a core it gets, 0.001 at least; None: all."""
        (self._cpu / "cpu.cfs_quota_us").write_text("-1" if cores is None else f"{cores * _PERIOD_US:.0f}")

    def memory(self, size_bytes: int | None) -> None:
        """How much it may have beside what the kernel can take back; None: all."""
        (self._memory / "memory.limit_in_bytes").write_text("-1" if size_bytes is None else f"{size_bytes}")

    def memory_bytes(self) -> int:
        """How much it has."""
        return int((self._memory / "memory.usage_in_bytes").read_text())

    def ended_by_kernel(self) -> int:
        """How many of the unit's processes, for memory."""
        rows = dict(line.split() for line in (self._memory / "memory.oom_control").read_text().splitlines())
        return int(rows["oom_kill"]) - self._crowds_ended

    @contextlib.contextmanager
    def crowded(self, size_bytes: int) -> Iterator[None]:
        """Somebody else takes that much of the unit's memory, who is spared: the unit needs OOMScoreAdjust=1000 for it."""
        command = [sys.executable, "-c", _CROWD, str(self._memory / "cgroup.procs"), str(size_bytes)]
        for _ in range(_CROWDS):
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd:
                assert crowd.stdout is not None
                if crowd.stdout.readline() == "held\n":
                    yield
                    crowd.communicate()
                    break
            assert crowd.returncode == -signal.SIGKILL
            self._crowds_ended += 1
        assert crowd.returncode == 0

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK_S):
            with contextlib.suppress(OSError):  # the unit, or one of its processes, has ended meanwhile
                running = self._unit.read_text().split()
                for group in (self._cpu, self._memory):
                    _move(sorted(set(running) - set((group / "cgroup.procs").read_text().split())), group)


def _own(controller: str) -> Path | None:
    """This process's group in a controller's hierarchy."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            folder = Path("/sys/fs/cgroup") / controllers / path.lstrip("/")
            return folder if (folder / "cgroup.procs").exists() else None
    return None


def _move(processes: list[str], group: Path) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(process)


def _removed(group: Path) -> bool:
    _move((group / "cgroup.procs").read_text().split(), group.parent)
    try:
        group.rmdir()
    except OSError:
        return False  # one has forked meanwhile, or is being reaped
    return True
