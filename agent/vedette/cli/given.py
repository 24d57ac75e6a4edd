"""The files that ``vedette infer`` is given: a folder stands for what is in it, and a video for what else to type."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Final

from vedette.contract.errors import UserError

VIDEOS: Final = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
UNREAD: Final = frozenset({".avif", ".gif", ".heic", ".heif", ".jxl"})
"""Pictures whose kind is not read from a folder."""


def given_files(paths: Sequence[Path], suffixes: Set[str], noun: str) -> list[Path]:
    """Of each folder the files with these suffixes, by name, without the folders below; all else as it is. Pictures of
    another kind in there are told on stderr.

    ``noun``: what the files are, for messages. Raises `UserError` where a folder has none.
    """
    files: list[Path] = []
    for path in paths:
        try:
            if not path.is_dir():
                files.append(path)
                continue
            found = sorted(file for file in path.iterdir() if file.is_file())
        except OSError as error:
            raise UserError("cannot be read", where=path, found=error.strerror or str(error)) from None
        inside = [file for file in found if file.suffix.lower() in suffixes]
        if left_out := [file.name for file in found if file.suffix.lower() in UNREAD - suffixes]:
            more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
            print(f"vedette: {path}: left out: {left_out[0]}{more}; save them as JPEG or PNG", file=sys.stderr)
        if not inside:
            raise UserError(f"no {noun}", where=path, expected="files named " + ", ".join(sorted(suffixes)))
        files += inside
    return files


def refuse_videos(files: Sequence[Path], model: str) -> None:
    """Raises `UserError` that says what looks at a video."""
    for file in files:
        if file.suffix.lower() in VIDEOS:
            shown = shlex.join(["vedette", "demo", "--model", model, "--source", str(file)])
            raise UserError(
                "a video", where=file, expected="pictures", fix=f"{shown} shows what a detector finds in it"
            )
