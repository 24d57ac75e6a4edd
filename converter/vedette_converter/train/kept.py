"""Networks and arrays in files of their own, there whole or not at all."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vedette.contract.errors import UserError
from vedette.durable import replacing

from ..tensorflow import load_tensorflow


def save_network(model: Any, path: Path) -> None:
    """Writes ``.keras``. Raises `UserError` where it cannot be written."""
    expect_keras(path)
    try:
        with replacing(path, path.with_name(f".{path.stem}.part.keras")) as half, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Keras and numpy, about one another
            model.save(half)
    except (OSError, ValueError) as error:
        raise UserError("the network cannot be written", where=path, found=_first_line(error)) from None


def expect_keras(path: Path) -> None:
    """Raises `UserError` where no network can have this name."""
    if path.suffix != ".keras":
        raise UserError("a network's file", where=path, expected="a name that ends in .keras")


def read_network(path: Path, *, fix: str = "") -> Any:
    """Reads ``.keras``, without running code out of it. Raises `UserError`, which advises ``fix``."""
    load_tensorflow()
    import keras

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            "the network cannot be read", where=path, expected="a .keras file", found=_first_line(error), fix=fix
        ) from None


def save_arrays(path: Path, arrays: Mapping[str, Any], what: str) -> None:
    """Writes ``.npz``, on disk before it takes the old one's place. ``what``: for the error.

    Raises `UserError` where it cannot be written.
    """
    try:
        with replacing(path) as half, half.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{what} cannot be kept", where=path, found=error.strerror or str(error), fix="make room"
        ) from None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
