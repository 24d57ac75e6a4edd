"""The files that ``vedette infer`` is given: a folder stands for what is in it, and a video for what else to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Final

from vedette.contract.errors import UserError

VIDEOS: Final = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})


def given_files(paths: Sequence[Path], suffixes: Set[str], noun: str) -> list[Path]:
    """Of each folder the files with these suffixes, by name, without the folders below; all else as it is.

    ``noun``: what the files are, for messages. Raises `UserError` where a folder has none.
    """
    files: list[Path] = []
    for path in paths:
        try:
            if not path.is_dir():
                files.append(path)
                continue
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file())
        except OSError as error:
            raise UserError("cannot be read", where=path, found=error.strerror or str(error)) from None
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
