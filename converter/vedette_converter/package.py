"""What the steps made -> one bundle: golden vectors, tolerances, manifest.

Deterministic: the same flatbuffer, labels, pictures and evaluation, the same bytes. Latencies differ from run to run
and stand in ``measurements.json``, outside the content's digest.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import cv2
import msgspec
import numpy as np

import vedette
from vedette.contract import golden as golden_module
from vedette.contract.bundle import Bundle, digests, write_bundle
from vedette.contract.errors import FaultError, ModelError, UserError
from vedette.contract.golden import Golden
from vedette.contract.image import MIN_SIDE
from vedette.contract.manifest import (
    Dataset,
    EngineClass,
    Evaluation,
    InputSpec,
    LatencyBudget,
    Manifest,
    OutputSpec,
    Source,
    Tolerance,
)
from vedette.contract.types import Classes, Detections, Result, Tensor, UInt8Array
from vedette.contract.verdict import CONFIDENT, Verdict
from vedette.engine import Runtime, TfliteEngine, run_self_test
from vedette.engine.tflite import Kernels

from .latency import Latency
from .pictures import list_pictures, read_picture
from .recipe import RecipeFile
from .subject import Subject

LEAST_INPUTS: Final = 32
NAMED: Final = 20  # pictures in an error
PARTS_TRIED: Final = 4096
CLEAR: Final = 0.7  # score of a golden part: well above CONFIDENT, which is what is judged
PICTURE_SIDE: Final = 160  # pixels of the golden picture's longer side
KERNELS: Final[tuple[Kernels, ...]] = ("default", "builtin", "reference")
_TOOLS: Final = ("tensorflow", "ai-edge-litert", "numpy", "opencv-python-headless", "pycocotools", "msgspec")


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that goes into a bundle but the manifest."""

    flatbuffer: bytes
    labels: bytes
    golden: Golden
    evaluation: Sequence[Evaluation]
    calibration: Dataset
    source_sha256: str
    input: InputSpec
    output: OutputSpec


def make_golden(before: Subject, after: Subject, folder: Path, raw: int, *, classifies: bool) -> Golden:
    """Golden vectors of a folder's pictures: inputs as ``after`` takes them, results as ``before`` sees them.

    Raises `UserError` where there are too few pictures or the float network is sure of nothing in them.
    """
    pictures = list_pictures(folder)
    if not classifies and len(pictures) < LEAST_INPUTS:
        raise UserError("too few golden pictures", where=folder, expected=f"{LEAST_INPUTS}", found=str(len(pictures)))
    inputs: list[Tensor] = []
    results: list[Result] = []
    outputs: list[list[Tensor]] = []
    for pixels, found in _sure_parts(before, folder) if classifies else _sure_pictures(before, pictures):
        results.append(found)
        inputs.append(after.preprocess(pixels))
        after.on_tensor()
        if len(outputs) < raw:
            outputs.append(after.raw())
    small = _small(read_picture(pictures[0]))
    stacked = [np.stack(tensors) for tensors in zip(*outputs, strict=True)]
    return golden_module.from_results(np.stack(inputs), results, stacked, small, after.preprocess(small))


def _sure_pictures(before: Subject, pictures: Sequence[Path]) -> Iterator[tuple[UInt8Array, Result]]:
    unsure: list[tuple[Path, float]] = []
    for path in pictures:
        pixels = read_picture(path)
        found = before.on_tensor(before.preprocess(pixels))
        if not isinstance(found, Detections):
            raise FaultError("the recipe's decoder finds no boxes", found=type(found).__name__)
        if not (found.scores >= CONFIDENT).any():
            unsure.append((path, float(found.scores.max(initial=0.0))))
            continue
        yield pixels, found
    if unsure:
        (first, best), *others = unsure
        named = ", ".join(path.name for path, _ in others[:NAMED]) + (", ..." if len(others) > NAMED else "")
        raise UserError(
            "proves nothing as a golden picture", where=first, expected=f"a detection with score >= {CONFIDENT:g}",
            found=f"{best:.2f} at best" + (f", and {len(others)} more such: {named}" if others else ""),
            fix=f"leave them out: {len(pictures) - len(unsure)} are left, and {LEAST_INPUTS} needed",
        )  # fmt: skip


def _sure_parts(before: Subject, folder: Path) -> Iterator[tuple[UInt8Array, Result]]:
    """Square parts of the pictures, drawn by chance, of which the float network is sure: as many as are needed.

    A classifier's own pictures may not be redistributed, and it gives any picture some class; what proves a device is
    that it gives the same one.
    """
    rng = np.random.default_rng(0)
    pictures = [read_picture(path) for path in list_pictures(folder)]
    count = 0
    for attempt in range(PARTS_TRIED):
        pixels = pictures[attempt % len(pictures)]
        height, width = pixels.shape[:2]
        side = int(rng.integers(min(height, width) // 4, min(height, width) + 1))
        top, left = (int(rng.integers(0, space - side + 1)) for space in (height, width))
        part = np.ascontiguousarray(pixels[top : top + side, left : left + side])
        if side < MIN_SIDE:
            continue
        found = before.on_tensor(before.preprocess(part))
        if isinstance(found, Classes) and len(found) and found.scores[0] >= CLEAR:
            yield part, found
            count += 1
        if count == LEAST_INPUTS:
            return
    raise UserError(
        "the golden pictures prove nothing", where=folder, expected=f"{LEAST_INPUTS} parts with a score >= {CLEAR:g}",
        found=f"{count} of {PARTS_TRIED} tried",
        fix="give pictures like those the network was trained on; or --data samples.npy, the inputs themselves, for a plain "
        ".tflite that needs none",
    )  # fmt: skip


def _small(pixels: UInt8Array) -> UInt8Array:
    height, width = pixels.shape[:2]
    factor = PICTURE_SIDE / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def encode_golden(golden: Golden) -> bytes:
    """``golden.npz`` with its members in LZMA: a background that comes back lies megabytes away, out of deflate's 32 KB.

    Any reader of npz takes both (numpy reads by `zipfile`). The same bytes for the same arrays and the same liblzma.
    """
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(golden_module.encode(golden))) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as dense,
    ):
        for entry in plain.infolist():
            dense.writestr(zipfile.ZipInfo(entry.filename), plain.read(entry), zipfile.ZIP_LZMA)
    return packed.getvalue()


def make_manifest(file: RecipeFile, content: Content, members: Mapping[str, bytes]) -> Manifest:
    """The manifest without tolerances: `with_tolerances` measures them."""
    recipe = file.recipe
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        task=recipe.task,
        input=content.input,
        output=content.output,
        evaluation=list(content.evaluation),
        calibration=content.calibration,
        precision=recipe.quantise.precision,
        recipe=file.path.name,
        recipe_sha256=file.sha256,
        source=Source(
            url=recipe.source.url,
            sha256=content.source_sha256,
            licence=recipe.source.licence,
            attribution=recipe.source.attribution,
        ),
        seeds={"calibration": recipe.quantise.seed, "bootstrap": recipe.evaluate.seed},
        tools=tool_versions(),
        flatbuffer_bytes=len(content.flatbuffer),
        flatbuffer_sha256=hashlib.sha256(content.flatbuffer).hexdigest(),
        members=digests(members),
        tolerances={},
        latency_budget=LatencyBudget(yardstick=recipe.latency.yardstick, max_ratio=recipe.latency.max_ratio),
    )


def with_tolerances(
    manifest: Manifest, flatbuffer: Path, golden: Golden, labels: int, runtime: Runtime, file: RecipeFile
) -> tuple[Manifest, dict[EngineClass, Verdict], list[str]]:
    """The manifest with what the self-test may find in each engine class: what it finds here, and the recipe's margins.

    No agent runs the reference kernels by itself: where they lack an operation, the manifest states nothing of them, and
    the list says so. Raises `FaultError` where a self-test fails here for another reason than accuracy.
    """
    margins = file.recipe.golden
    verdicts: dict[EngineClass, Verdict] = {}
    tolerances: dict[EngineClass, Tolerance] = {}
    findings: list[str] = []
    for kernels in KERNELS:
        try:
            engine = TfliteEngine(flatbuffer, runtime, kernels=kernels)
        except ModelError as error:
            if kernels != "reference":
                raise FaultError(f"the {kernels} kernels cannot run the network", found=error.found) from None
            findings.append(
                f"TFLite's reference kernels lack what it needs, so that it is proved on others: {error.found}"
            )
            continue
        test = run_self_test(engine, manifest, labels, golden, flatbuffer.name)
        engine.close()
        if test.passed is False:
            raise FaultError(f"self-test on the {kernels} kernels", found=test.reason)
        name = engine.description.engine_class
        verdicts[name] = test.verdict
        # outwards to three decimals, so that what is written never judges harder than what was measured
        least = math.floor((test.verdict.agreement - margins.agreement_margin) * 1000) / 1000
        most = math.ceil((test.verdict.mean_score_error + margins.score_error_margin) * 1000) / 1000
        tolerances[name] = Tolerance(min_agreement=max(0.0, least), max_mean_score_error=min(1.0, most))
    return msgspec.structs.replace(manifest, tolerances=tolerances), verdicts, findings


def measurements(latency: Latency, flatbuffer_bytes: int, original_bytes: int) -> bytes:
    """``measurements.json``."""
    document = {
        "latency": {**asdict(latency), "ratio": round(latency.ratio, 3)},
        "flatbuffer_bytes": {"before": original_bytes, "after": flatbuffer_bytes},
    }
    return msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=1) + b"\n"


def tool_versions() -> dict[str, str]:
    """By the packages' names; those that are not installed are left out."""
    versions = {"vedette": vedette.__version__}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write(path: Path, content: Content, manifest: Manifest, members: Mapping[str, bytes]) -> Bundle:
    """The bundle, there whole or not at all. Raises `UserError` where it cannot be written."""
    try:
        return write_bundle(path, content.flatbuffer, manifest, members)
    except OSError as error:
        raise UserError("bundle cannot be written", where=path, found=error.strerror or str(error)) from None
