"""What a power cut leaves of a process's files, worked out from what it asked the kernel to do.

strace(1) notes every write, sync, rename and new file of a program, and every line that it says. From that follows what
is on the medium at each of those lines: what was synced, and of what was not, nothing, or any part of it, in any
order, torn at sectors. That is all that POSIX promises; a disk that lies about a sync is not modelled, and neither is
what SQLite maps (its shared memory, which it makes anew).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

SECTOR: Final = 512
CALLS: Final = "openat,creat,pwrite64,write,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,pwritev"


def can_trace() -> bool:
    """Whether there is a strace, and it is let."""
    strace = shutil.which("strace")
    return (
        strace is not None and subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], check=False).returncode == 0
    )


needs_strace = pytest.mark.skipif(not can_trace(), reason="no strace, or it is not let: power cuts stay untried")


@dataclass
class _File:
    synced: bytearray = field(default_factory=bytearray)
    later: list[tuple[int, bytes | None]] = field(default_factory=list)  # at, what; None: cut there

    def apply(self, target: bytearray, change: tuple[int, bytes | None]) -> None:
        at, what = change
        if what is None:
            del target[at:]
            target.extend(bytes(at - len(target)))
            return
        if len(target) < at + len(what):
            target.extend(bytes(at + len(what) - len(target)))
        target[at : at + len(what)] = what

    def sync(self) -> None:
        for change in self.later:
            self.apply(self.synced, change)
        self.later.clear()


class Disk:
    """A folder's files, as far as they are known to be on the medium. ``entries``: the names, by a sync of the folder."""

    def __init__(self) -> None:
        self.files: dict[str, _File] = {}  # by name, as the process sees it
        self.entries: dict[str, _File] = {}

    def leave(self, folder: Path, luck: random.Random | None = None) -> None:
        """Writes what a power cut leaves now. ``luck``: whose unsynced changes are there as well."""
        folder.mkdir()
        for name, file in self.entries.items():
            content = bytearray(file.synced)
            if luck is not None:
                for at, what in file.later:
                    if what is None:
                        if luck.random() < 0.5:
                            file.apply(content, (at, None))
                        continue
                    for start in range(0, len(what), SECTOR):
                        if luck.random() < 0.5:
                            file.apply(content, (at + start, what[start : start + SECTOR]))
            (folder / name).write_bytes(content)


_LINE: Final = re.compile(r"^(?P<pid>\d+) +(?P<rest>.*)$")
_CALL: Final = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD: Final = re.compile(r"^(\d+)<([^>]*)>")


def traced(program: str, *arguments: object, folder: Path, log: Path) -> Iterator[tuple[Disk, str]]:
    """Runs Python code that works in ``folder``, and gives what is on the medium at each line that it writes."""
    command = ["strace", "-qq", "-f", "-y", "-xx", "-s", "10000000", "-e", f"trace={CALLS}", "-o", str(log)]
    program_file = log.with_suffix(".py")
    program_file.write_text(program)
    done = subprocess.run(
        [*command, sys.executable, str(program_file), str(folder), *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    disk = Disk()
    unfinished: dict[str, str] = {}
    with log.open() as lines:
        for line in lines:
            match = _LINE.match(line)
            assert match is not None, line
            pid, rest = match["pid"], match["rest"]
            if rest.endswith("<unfinished ...>"):
                unfinished[pid] = rest.removesuffix("<unfinished ...>").rstrip()
                continue
            if rest.startswith("<... "):
                rest = unfinished.pop(pid) + rest[rest.index("resumed>") + len("resumed>") :].lstrip()
            call = _CALL.match(rest)
            if call is not None and int(call["result"]) >= 0:
                said = _happens(disk, folder, call["name"], call["arguments"], rest, int(call["result"]))
                if said:
                    yield disk, said


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _name(folder: Path, path: str) -> str | None:
    if "\\x" in path:
        path = _text(path).decode()
    found = Path(path)
    return found.name if found.parent == folder else None


def _happens(disk: Disk, folder: Path, call: str, arguments: str, line: str, result: int) -> str | None:
    """One call that went well. What the process said, where it was that."""
    strings = [_text(text) for text in _STRING.findall(arguments)]
    fd = _FD.match(arguments)
    path = fd[2] if fd else ""
    if "\\x" in path:
        path = _text(path).decode()
    if call == "write" and fd is not None and fd[1] == "1":
        return strings[0].decode()
    name = _name(folder, path)
    if call in ("openat", "creat"):
        opened = _name(folder, strings[0].decode()) if strings else None
        if opened is not None and "O_CREAT" in arguments:
            disk.files.setdefault(opened, _File())
        if opened is not None and "O_TRUNC" in arguments:
            disk.files[opened].later.append((0, None))
    elif call in ("rename", "renameat", "renameat2"):
        old, new = (_name(folder, text.decode()) for text in strings[:2])
        if old is not None and new is not None:
            disk.files[new] = disk.files.pop(old)
    elif call in ("unlink", "unlinkat"):
        gone = _name(folder, strings[0].decode())
        if gone is not None:
            disk.files.pop(gone, None)
    elif call in ("fsync", "fdatasync"):
        if name is not None and name in disk.files:
            disk.files[name].sync()
        elif Path(path) == folder:
            disk.entries = dict(disk.files)
    elif name is not None and call in ("pwrite64", "write", "ftruncate", "pwritev"):
        assert call != "pwritev", "not modelled"
        file = disk.files[name]
        if call == "ftruncate":
            file.later.append((int(arguments.rsplit(",", 1)[1]), None))
        elif call == "pwrite64":
            file.later.append((int(arguments.rsplit(",", 1)[1]), strings[0][:result]))
        else:  # epoch.json alone is written from its beginning to its end
            at = max((at + len(what) for at, what in file.later if what is not None), default=0)
            file.later.append((at, strings[0][:result]))
    return None
