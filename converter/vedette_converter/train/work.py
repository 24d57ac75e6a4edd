"""Where long work is kept, so that it need not be done twice: one file a finished step, one a step that is under way.

A file's name holds a digest of everything that went into it: the network's layers and weights, the pictures, the options,
what its output means, the network's teacher. So a changed recipe finds nothing and does the work anew, and an unchanged
one goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vedette.contract.errors import UserError

from ..lock import alone
from ..tensorflow import load_tensorflow
from .kept import read_network, save_network


def default_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/vedette/convert/NAME``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vedette" / "convert" / name


@dataclass(frozen=True, slots=True)
class Work:
    """A folder of finished and half-finished steps."""

    folder: Path

    def step(self, name: str, *parts: object) -> Step:
        """The files of one step; ``parts``: everything that its result depends on. Raises `UserError`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                "the work folder cannot be made", where=self.folder, found=error.strerror or str(error),
                fix="--work FOLDER",
            ) from None  # fmt: skip
        digest = hashlib.sha256()
        for part in parts:
            digest.update(_bytes(part))
            digest.update(b"\0")
        return Step(self.folder / f"{name}-{digest.hexdigest()[:16]}")


@dataclass(frozen=True, slots=True)
class Step:
    """One step's files."""

    stem: Path

    @property
    def checkpoint(self) -> Path:
        """Where it is, while it is under way: see `vedette_converter.train.loop.fit`."""
        return self.stem.with_suffix(".checkpoint.npz")

    @property
    def result(self) -> Path:
        """The network it made, ``.keras``."""
        return self.stem.with_suffix(".keras")

    @property
    def answers(self) -> Path:
        """A teacher's answers: see `vedette_converter.train.answers`."""
        return self.stem.with_suffix(".npz")

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Held while the step is under way: two processes would write one checkpoint. Raises `UserError`."""
        return alone(
            self.stem.with_suffix(".lock"), "another process is at the same work", "wait for it, or give another --work"
        )

    def load(self) -> Any | None:
        """The finished network, or None."""
        if not self.result.exists():
            return None
        return read_network(self.result, fix="delete the file to make it anew")

    def keep(self, model: Any) -> None:
        """Keeps the finished network, whole or not at all, and forgets the checkpoint. Raises `UserError`."""
        save_network(model, self.result)
        self.checkpoint.unlink(missing_ok=True)


def network_digest(model: Any) -> str:
    """sha256 over a Keras network: what its layers do, how they are joined, and their weights; not over its own name."""
    load_tensorflow()
    import keras

    built = {**keras.saving.serialize_keras_object(model)["config"], "name": None}
    digest = hashlib.sha256(json.dumps(built, sort_keys=True, default=str).encode())
    for variable in model.weights:
        array = np.asarray(variable)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _bytes(part: object) -> bytes:
    if isinstance(part, msgspec.Struct):
        return msgspec.json.encode(part, order="deterministic")
    return str(part).encode()
