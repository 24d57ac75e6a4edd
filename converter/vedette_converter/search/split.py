"""Labelled pictures parted once: most to learn from, some to choose by. No copies: folders of links."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vedette.contract.errors import PictureError, UserError

from ..train.data import Labelled


@dataclass(frozen=True, slots=True)
class Split:
    """Two folders, one folder a label in each."""

    learn: Path
    judge: Path


def split(listed: Labelled, labels: Sequence[str], source: Path, share: float, seed: int, folder: Path) -> Split:
    """Parts ``listed``, the pictures of ``source``, label by label; ``share`` of each goes to ``judge``, at least one.

    The same pictures, share and seed make the same parts, on every machine. Raises `PictureError` for a label with a
    single picture, `UserError` where ``folder`` cannot be written.
    """
    parts: dict[str, list[Path]] = {"learn": [], "judge": []}
    for number, label in enumerate(labels):
        files = [path for path, one in zip(listed.files, listed.class_ids, strict=True) if one == number]
        if len(files) < 2:
            raise PictureError("too few pictures of a label", where=source / label, expected="2 or more", found="1")
        order = np.random.default_rng([seed, number]).permutation(len(files))
        count = min(len(files) - 1, max(1, round(share * len(files))))
        judged = set(order[:count].tolist())
        for place, path in enumerate(files):
            parts["judge" if place in judged else "learn"].append(path)
    name = source.resolve().name
    made = Split(*(folder / _digest(listed, share, seed) / f"{name}-{part}" for part in ("learn", "judge")))
    try:
        for path, pictures in ((made.learn, parts["learn"]), (made.judge, parts["judge"])):
            _link(path, {picture.relative_to(source): picture for picture in pictures})
    except OSError as error:
        raise UserError(
            "pictures cannot be linked to", where=folder, found=error.strerror or str(error), fix="--work FOLDER"
        ) from None
    return made


def _link(folder: Path, pictures: dict[Path, Path]) -> None:
    """There whole or not at all; a folder of links that no longer lead anywhere is made anew."""
    if folder.is_dir():
        if all((folder / name).exists() for name in pictures):
            return
        shutil.rmtree(folder)
    half = folder.with_name(f".{folder.name}.part{os.getpid()}")
    shutil.rmtree(half, ignore_errors=True)
    for name, picture in pictures.items():
        (half / name).parent.mkdir(parents=True, exist_ok=True)
        (half / name).symlink_to(picture.resolve())
    try:
        half.replace(folder)
    except OSError:
        shutil.rmtree(half)
        if not folder.is_dir():  # another search has made the same links meanwhile
            raise


def _digest(listed: Labelled, share: float, seed: int) -> str:
    where = str(listed.files[0].parent.parent.resolve())
    parts = (listed.data.sha256, listed.class_ids.tobytes().hex(), where, share, seed)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
