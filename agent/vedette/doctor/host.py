"""The device as its file system shows it. Another root folder stands in for another device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

Verdict: TypeAlias = Literal["ok", "warn", "bad"]
MAX_TEXT: Final = 1024 * 1024  # bytes of one file


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. ``fix``: what to do about it, where something should be done."""

    area: str
    verdict: Verdict
    what: str
    fix: str = ""


class Host:
    """Paths are the device's own, such as ``/sys/class/tty``; only this class knows where they really are."""

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        uid: int | None = None,
        groups: Sequence[int] | None = None,
        path: str | None = None,
    ) -> None:
        """``uid``, ``groups``: who wants to open devices, by default this process. ``path``: as $PATH."""
        self.root = root
        self.uid = os.geteuid() if uid is None else uid
        self._groups = {os.getegid(), *os.getgroups()} if groups is None else set(groups)
        self._path = os.environ.get("PATH", "") if path is None else path

    def at(self, path: str) -> Path:
        """Where it really is."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str | None:
        """A file's content without white space around it; None where it cannot be read."""
        try:
            with self.at(path).open("rb") as file:
                return file.read(MAX_TEXT).decode("utf-8", "replace").strip(" \n\t\0")
        except OSError:
            return None

    def number(self, path: str) -> float | None:
        """A file that holds one number."""
        try:
            return float(self.text(path) or "")
        except ValueError:
            return None

    def exists(self, path: str) -> bool:
        """A file, a folder or a device; of a link, where it leads."""
        return self.at(path).exists()

    def glob(self, pattern: str) -> list[str]:
        """Paths that match, ordered as people count: video2 before video10."""
        try:
            found = [f"/{match.relative_to(self.root)}" for match in self.root.glob(pattern.lstrip("/"))]
        except OSError:
            return []
        return sorted(found, key=lambda path: (len(path), path))

    def may_open(self, path: str) -> bool:
        """Whether this user may read and write it, by owner, group and mode."""
        try:
            status = self.at(path).stat()
        except OSError:
            return False
        if self.uid == 0:
            return True
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid in self._groups else 0
        return (status.st_mode >> shift) & 0o6 == 0o6

    def group_of(self, path: str) -> str:
        """The name of the group that owns it, or its number."""
        try:
            gid = self.at(path).stat().st_gid
        except OSError:
            return "?"
        for line in (self.text("/etc/group") or "").splitlines():
            fields = line.split(":")
            if len(fields) >= 3 and fields[2] == str(gid):
                return fields[0]
        return str(gid)

    @property
    def user(self) -> str:
        """The name of who wants to open devices, or its number."""
        for line in (self.text("/etc/passwd") or "").splitlines():
            fields = line.split(":")
            if len(fields) >= 3 and fields[2] == str(self.uid):
                return fields[0]
        return str(self.uid)

    def program(self, name: str) -> str | None:
        """Where on the path it is."""
        for folder in self._path.split(os.pathsep):
            path = f"{folder.rstrip('/')}/{name}"
            if folder.startswith("/") and self.at(path).is_file() and os.access(self.at(path), os.X_OK):
                return path
        return None

    def access(self, path: str) -> tuple[bool, str, str]:
        """Whether it may be opened, in words, and what to do where it may not."""
        if self.may_open(path):
            return True, "you may open it", ""
        group = self.group_of(path)
        return (
            False,
            f"may not be opened by {self.user} (group {group})",
            f"sudo usermod -aG {group} {self.user}, and log in again"
            if group not in ("root", "?")
            else "a udev rule must give it a group",
        )
