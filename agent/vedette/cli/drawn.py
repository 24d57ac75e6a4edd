"""Where ``vedette infer --draw`` leaves its pictures: found out before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vedette.contract.errors import PictureError, UserError
from vedette.pictures.drawing import SUFFIXES, check_place


def drawn_places(out: Path, files: Sequence[Path]) -> list[Path]:
    """A place for each of the pictures, none twice and none a picture that is read; a folder is made where it is missing.

    ``out``: a picture file for one picture, a folder for any number. Pictures of one name are numbered: ``x.jpg``,
    ``x-2.jpg``. Raises `UserError` where ``out`` cannot be, before anything is made.
    """
    places = _places(out, files)
    for place in places:
        if place.exists() and any(file.exists() and place.samefile(file) for file in files):
            raise UserError("--draw would write over a picture that is read", found=str(place), fix="name a folder")
    folder = places[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            "--draw", expected="a folder that can be written to", found=f"{folder}: {error.strerror}"
        ) from None
    for place in places:
        try:
            check_place(place)
        except PictureError as error:
            raise UserError("--draw", expected="a file that can be written", found=f"{place}: {error.found}") from None
    return places


def _places(out: Path, files: Sequence[Path]) -> list[Path]:
    suffix = out.suffix.lower()
    if not out.is_dir() and suffix:
        kinds = ", ".join(sorted(SUFFIXES))
        if len(files) > 1:
            raise UserError(
                "--draw", expected=f"a folder, for {len(files)} pictures", found=str(out),
                fix="name one without a suffix, or make it first",
            )  # fmt: skip
        if suffix not in SUFFIXES:
            raise UserError(
                "--draw", expected=f"a picture's name, that ends in one of {kinds}, or a folder", found=str(out),
                fix="a folder of this name must be made first",
            )  # fmt: skip
        return [out]
    taken: set[str] = set()
    places = []
    for file in files:
        name, number = file.stem, 1
        while name.casefold() in taken:  # there are file systems to which A and a are one
            number += 1
            name = f"{file.stem}-{number}"
        taken.add(name.casefold())
        places.append(out / f"{name}.jpg")
    return places
