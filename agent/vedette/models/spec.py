"""What is known of a model before an engine has loaded it: where it is, what it takes and gives, how that is called.

A bundle says all of itself. A plain third-party ``.tflite`` says little: a `PlainModel` stands in for its manifest, with
what the user gave; nothing is guessed silently.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from vedette.contract.bundle import Bundle, has_archive, open_bundle, third_party_archive
from vedette.contract.errors import ModelError
from vedette.contract.flatbuffer import interface, is_whole
from vedette.contract.image_options import ImageOptions
from vedette.contract.labels import parse_third_party_labels
from vedette.contract.manifest import (
    AnomalyOutput,
    InputSpec,
    Manifest,
    OutputSpec,
    RegressOutput,
    SeriesInput,
    task_of,
)
from vedette.contract.tflite_metadata import read_normalization
from vedette.contract.types import TensorSpec

if TYPE_CHECKING:
    from vedette.trust.signatures import Trust

SUFFIX: Final = ".tflite"


@dataclass(frozen=True, slots=True)
class PlainModel:
    """What a user says of a model that carries no manifest."""

    output: OutputSpec | None = None
    input: ImageOptions | SeriesInput = field(default_factory=ImageOptions)
    labels_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is known of a model before an engine has loaded it."""

    path: Path
    name: str
    version: str
    sha256: str
    """Of a bundle's manifest, which names all the rest; of a plain model, the file's."""
    labels: tuple[str, ...]
    input: InputSpec | ImageOptions
    """Of pictures for a plain model what the user said; `input_from` says the rest."""
    output: OutputSpec
    bundle: Bundle | None

    @property
    def manifest(self) -> Manifest | None:
        """None for a plain model."""
        return self.bundle.manifest if self.bundle else None


def find_model(name: str) -> Path:
    """By path, then in $VEDETTE_MODELS, then in the installed share/vedette/models, then in a checkout's models/.

    Raises `ModelError` that says where it was looked for.
    """
    if "\0" in name:
        raise ModelError("no such model", where=repr(name), expected="a name without NUL bytes")
    file_name = name if name.endswith(SUFFIX) else name + SUFFIX
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path
        if path.exists():
            raise ModelError("no model file", where=path, expected="a regular file", found="a folder, device or pipe")
        Path(file_name).exists()
    except (OSError, RuntimeError) as error:  # too long, in a folder that is not ours to look into, ~ of nobody
        found = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError("cannot be looked for", where=name, found=found) from None
    if path.parent != Path():
        raise ModelError("no such model file", where=name)
    folders = model_folders()
    for folder in folders:
        candidate = folder / file_name
        if candidate.is_file():
            return candidate
    raise ModelError(
        "no such model", where=name, expected=f"a file, or {file_name} in one of " + ", ".join(map(str, folders)),
        fix="vedette show lists the models there are" if any(f.is_dir() for f in folders) else "",
    )  # fmt: skip


def model_folders() -> list[Path]:
    """Where models are looked for by name, in this order."""
    configured = os.environ.get("VEDETTE_MODELS", "")
    folders = [Path(part) for part in configured.split(os.pathsep) if part]
    return [*folders, share_folder("models")]


def share_folder(name: str) -> Path:
    """A folder that came with the package: a checkout's own, or installed beside it.

    The checkout comes first: an editable installation has copies of its own, from when it was made.
    """
    checkout = Path(__file__).resolve().parents[3]
    installed = Path(sysconfig.get_path("data")) / "share" / "vedette" / name
    if installed.is_dir() and not (checkout / "pyproject.toml").is_file():
        return installed
    return checkout / {"media": "examples/media"}.get(name, name)


def read_model(name: str, plain: PlainModel | None = None, trust: Trust | None = None) -> ModelSpec:
    """Reads and checks everything but the network itself. Raises `ModelError` or `BundleError`.

    ``trust``: whose signature it needs; None: nobody's.
    """
    spec = _read(find_model(name), plain, trust)
    named = _named(spec.input, spec.output)
    if named is not None and spec.labels != named:
        raise ModelError(
            "labels are not the names that the model says", where=spec.path, expected=", ".join(named),
            found=", ".join(spec.labels),
        )  # fmt: skip
    return spec


def _read(path: Path, plain: PlainModel | None, trust: Trust | None) -> ModelSpec:
    if has_archive(path):
        bundle = open_bundle(path, trust.check if trust is not None else None)
        if plain is not None and plain != PlainModel():
            raise ModelError(
                "is a bundle, which says all of itself", where=path, expected="no decoder, labels or input options",
                found="some", fix="leave them out",
            )  # fmt: skip
        manifest = bundle.manifest
        return ModelSpec(
            path, manifest.name, manifest.version, bundle.sha256, bundle.labels, manifest.input, manifest.output, bundle
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError("cannot be read", where=path, found=error.strerror or str(error)) from None
    if not is_whole(data):  # of a bundle that is cut there is no manifest left, and no advice about one helps
        raise ModelError(
            "is truncated or corrupt", where=path, expected="a TFLite model whose tables and weights lie inside the file",
            found=f"{len(data)} bytes", fix="get it again",
        )  # fmt: skip
    if trust is not None and trust.require:
        raise ModelError(
            "has no manifest, so nobody can have signed it", where=path, expected="a signed bundle",
            fix="make a bundle of it and sign that, or set trust.require = false",
        )  # fmt: skip
    plain = plain or PlainModel()
    if plain.output is None:
        raise ModelError(
            "has no manifest, so nobody knows what its output tensors mean", where=path, expected="a decoder",
            found=interface(data),
            fix="give one: --decoder NAME (in a config: [pipeline.NAME.plain.output], see the end of vedette.toml)",
        )  # fmt: skip
    labels = _plain_labels(path, plain, plain.output)
    return ModelSpec(
        path, path.stem, "0", hashlib.sha256(data).hexdigest(), labels, plain.input, plain.output, None,
    )  # fmt: skip


def _plain_labels(path: Path, plain: PlainModel, output: OutputSpec) -> tuple[str, ...]:
    # key points, channels and quantities are told apart by their names alone
    unique = task_of(output) in ("pose", "anomaly", "regress")
    if plain.labels_file is not None:
        try:
            raw = plain.labels_file.read_bytes()
        except OSError as error:
            raise ModelError("labels cannot be read", where=plain.labels_file, found=error.strerror or "") from None
        return parse_third_party_labels(raw, plain.labels_file, unique=unique)
    if (named := _named(plain.input, output)) is not None:
        return named
    carried = third_party_archive(path)
    if len(carried) == 1:
        name, raw = next(iter(carried.items()))
        return parse_third_party_labels(raw, f"{path}: {name}", unique=unique)
    raise ModelError(
        "has no labels", where=path, expected="a labels file", found=f"{len(carried)} text files inside the model",
        fix="give one: --labels FILE (in a config: labels_file in [pipeline.NAME.plain])",
    )  # fmt: skip


def _named(input: InputSpec | ImageOptions, output: OutputSpec) -> tuple[str, ...] | None:
    """What the labels must be, where input or output name channels or quantities; None where labels say more."""
    if isinstance(output, RegressOutput):
        return tuple(quantity.name for quantity in output.quantities)
    if isinstance(output, AnomalyOutput) and isinstance(input, SeriesInput):
        return tuple(channel.name for channel in input.channels)
    return None


def input_from(tensor: TensorSpec, spec: ModelSpec) -> InputSpec:
    """Of a plain model of pictures what the user said, and for the rest the tensor's own size, RGB or grey, and the
    normalisation that its metadata states.

    Without metadata a uint8 or int8 tensor takes the pixels as they are, for its quantisation maps their range over its
    whole own, and uint8 without one has no other. A float or int16 tensor makes no such statement, so it must be given.
    """
    options = spec.input
    if not isinstance(options, ImageOptions):
        return options
    shape = tensor.shape
    # three axes may as well be a sensor's window: that it is a picture must be said
    channels = 1 if len(shape) == 3 and options.color == "gray" else shape[-1] if len(shape) == 4 else 0
    if channels not in (1, 3) or shape[0] != 1:
        raise ModelError(
            "input tensor is no picture", where=spec.path, found=str(tensor),
            expected="shape [1, height, width, 1|3], or [1, height, width] where --color gray is said",
            fix="readings of a sensor are described in a config: [pipeline.NAME.plain.input], kind series",
        )  # fmt: skip
    color: Literal["gray", "rgb"] = "gray" if channels == 1 else "rgb"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    stated = None if options.normalised else read_normalization(spec.path.read_bytes())
    if stated is not None and (tensor.quantised or tensor.dtype != np.uint8):
        mean, std = stated.mean, stated.std
    elif options.normalised:
        pass
    elif tensor.dtype in (np.float32, np.int16) or (tensor.dtype == np.int8 and not tensor.quantised):
        advice = "--mean 127.5 --std 127.5 for -1..1, --mean 0 --std 255 for 0..1"
        if tensor.dtype != np.float32 and not tensor.quantised:
            advice = "--mean 0 --std 1 for pixels as they are, --mean 128 --std 1 for pixel - 128"
        raise ModelError(
            f"takes {tensor.dtype.name} pixels, and nobody knows in which range", where=spec.path, expected="mean and std",
            fix=f"give them: {advice} (in a config: [pipeline.NAME.plain.input])",
        )  # fmt: skip
    elif tensor.quantised:
        # the quantisation maps 0..255 over the tensor's whole range: raw = pixel for uint8, pixel - 128 for int8
        low = float(np.iinfo(tensor.dtype.name).min - tensor.zero_point) * tensor.scale
        mean, std = (-low / tensor.scale,), (1 / tensor.scale,)
    try:
        return options.completed(shape[1], shape[2], color, mean, std)
    except ValueError as error:
        said = "what is said of it" if options.normalised else "its metadata" if stated else "its quantisation"
        raise ModelError(
            f"{said} does not fit input tensor {tensor}", where=spec.path, found=str(error),
            fix="give --mean and --std (in a config: [pipeline.NAME.plain.input])",
        ) from None  # fmt: skip


def read_network(spec: ModelSpec) -> bytes:
    """The flatbuffer that was checked when the spec was read, whatever is being written to its path meanwhile.

    Raises `ModelError` where it is another one by now.
    """
    if spec.bundle is not None:
        return spec.bundle.flatbuffer()
    try:
        data = spec.path.read_bytes()
    except OSError as error:
        raise ModelError("cannot be read", where=spec.path, found=error.strerror or str(error)) from None
    if hashlib.sha256(data).hexdigest() != spec.sha256:
        raise ModelError("changed while it was in use", where=spec.path)
    return data
