"""A path -> the source it must be, for a command line without a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vedette.contract.errors import UserError

from ..recipe.sources import (
    GraphDefSource,
    KerasSource,
    OnnxSource,
    SavedModelSource,
    Source,
    TfjsModelSource,
    TfliteSource,
)

_BY_SUFFIX: Final[dict[str, type[KerasSource | GraphDefSource | TfliteSource | OnnxSource | TfjsModelSource]]] = {
    ".keras": KerasSource,
    ".h5": KerasSource,
    ".hdf5": KerasSource,
    ".tflite": TfliteSource,
    ".lite": TfliteSource,
    ".onnx": OnnxSource,
    ".pb": GraphDefSource,
    ".json": TfjsModelSource,
}
UNDERSTOOD: Final = "a .keras, .h5, .pb, .onnx or float .tflite file, a SavedModel's folder, a TensorFlow.js model.json"


def guess_source(path: Path) -> Source:
    """The source that a file or folder is, by its name and, where that says nothing, by its first bytes.

    Raises `UserError` with a list of what is understood.
    """
    if path.name == "saved_model.pb":
        path = path.parent
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return SavedModelSource(folder=str(path))
        if (path / "model.json").is_file():
            return TfjsModelSource(file=str(path / "model.json"))
        found = next((f"a folder with {p.relative_to(path)}" for p in sorted(path.rglob("model.json"))), "a folder without "
                     "saved_model.pb and model.json")  # fmt: skip
        raise UserError("which network is this?", where=path, expected=UNDERSTOOD, found=found)
    if not path.exists():
        raise UserError("no such file", where=path, expected=UNDERSTOOD)
    kind = _BY_SUFFIX.get(path.suffix.lower()) or _by_content(path)
    if kind is None:
        found = f"a file ending in {path.suffix}" if path.suffix else "a file without an ending"
        raise UserError("which network is this?", where=path, expected=UNDERSTOOD, found=found)
    return kind(file=str(path))


def _by_content(path: Path) -> type[KerasSource | TfliteSource] | None:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise UserError("cannot be read", where=path, found=error.strerror or str(error)) from None
    if head[4:] == b"TFL3":
        return TfliteSource
    if head == b"\x89HDF\r\n\x1a\n":
        return KerasSource
    return None
