"""Calibration from arrays: what a network takes that is no picture. ``.npy``, ``.npz``, or a folder of them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vedette.contract.errors import UserError
from vedette.contract.types import Float32Array, TensorSpec

from .quantise import Sample

SUFFIXES: Final = frozenset({".npy", ".npz"})


@dataclass(frozen=True, slots=True)
class Arrays:
    """Samples for every input of a network, in memory."""

    inputs: tuple[Float32Array, ...]
    """One array an input, (n, ...) of the input's shape behind the batch, float32."""
    sha256: str
    """Over the files."""

    def __len__(self) -> int:
        return len(self.inputs[0])

    def draw(self, count: int, seed: int) -> Arrays:
        """``count`` samples, or all where there are fewer, in their own order; the same seed, the same choice."""
        if count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False))
        return Arrays(tuple(array[chosen] for array in self.inputs), self.sha256)

    def samples(self) -> Iterator[Sample]:
        """See `vedette_converter.quantise.Samples`."""
        for number in range(len(self)):
            yield tuple(array[number : number + 1] for array in self.inputs)


def looks_like_arrays(path: Path) -> bool:
    """Whether a path of ``--data`` holds arrays, not pictures."""
    if path.is_dir():
        return any(entry.suffix in SUFFIXES for entry in path.iterdir())
    return path.suffix in SUFFIXES


def read_arrays(path: Path, specs: Sequence[TensorSpec]) -> Arrays:
    """Samples along the first axis, or a single sample a file. Several inputs: ``.npz`` with an array for each, by the
    input's name, or in order of the names. Never unpickles.

    Raises `UserError` where a file cannot be read, or an array does not fit its input.
    """
    files = sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise UserError("no arrays", where=path, expected="files named .npy or .npz")
    digest = hashlib.sha256()
    parts: list[list[Float32Array]] = [[] for _ in specs]
    for file in files:
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
            with file.open("rb") as opened:
                loaded = np.load(opened, allow_pickle=False)
                if isinstance(loaded, np.ndarray):
                    named = {"": loaded}
                else:
                    with loaded as members:
                        named = {name: np.asarray(members[name]) for name in members.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError("cannot be read as an array", where=file, found=str(error)) from None
        for number, (spec, array) in enumerate(zip(specs, _in_order(named, specs, file), strict=True)):
            parts[number].append(_fitted(array, spec, file))
    inputs = tuple(np.concatenate(part) for part in parts)
    counts = {len(array) for array in inputs}
    if len(counts) > 1:
        raise UserError("the inputs' arrays have different lengths", where=path, found=str(sorted(counts)))
    if 0 in counts:
        raise UserError("no samples", where=path, expected="one at least along the first axis")
    return Arrays(inputs, digest.hexdigest())


def _in_order(named: dict[str, np.ndarray], specs: Sequence[TensorSpec], file: Path) -> list[np.ndarray]:
    if len(named) != len(specs):
        raise UserError(
            "arrays and inputs do not fit together", where=file,
            expected=f"{len(specs)}: " + ", ".join(str(spec) for spec in specs),
            found=f"{len(named)}: " + ", ".join(named),
        )  # fmt: skip
    names = [spec.name for spec in specs]
    if set(names) == set(named):
        return [named[name] for name in names]
    return [named[name] for name in sorted(named)]


def _fitted(array: np.ndarray, spec: TensorSpec, file: Path) -> Float32Array:
    wanted = spec.shape[1:]
    if array.dtype.kind not in "fiub":
        raise UserError(f"input {spec.name}", where=file, expected="numbers", found=str(array.dtype))
    if array.shape == wanted or (array.shape == spec.shape and spec.shape[0] == 1):
        array = array.reshape(1, *wanted)
    if array.shape[1:] != wanted:
        raise UserError(
            f"input {spec.name}", where=file, expected=f"shape (samples, {', '.join(str(n) for n in wanted)})",
            found=f"{list(array.shape)}",
        )  # fmt: skip
    values = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"input {spec.name}", where=file, expected="finite numbers", found="NaN or infinity")
    return values
