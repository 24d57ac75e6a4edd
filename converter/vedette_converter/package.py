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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import cv2
import msgspec
import numpy as np

import vedette
from vedette.contract import golden as golden_module
from vedette.contract.bundle import Bundle, digests, write_bundle
from vedette.contract.errors import FaultError, UserError
from vedette.contract.golden import CONFIDENT, Golden, Verdict
from vedette.contract.manifest import (
    Dataset,
    EngineClass,
    Evaluation,
    LatencyBudget,
    Manifest,
    Source,
    Tolerance,
)
from vedette.contract.types import Detections, Tensor, UInt8Array
from vedette.engine import Runtime, TfliteEngine, run_self_test
from vedette.engine.tflite import Kernels

from .detect import Detector
from .latency import Latency
from .pictures import list_pictures, read_picture
from .recipe import RecipeFile

LEAST_INPUTS: Final = 32
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


def make_golden(before: Detector, after: Detector, folder: Path, raw: int) -> Golden:
    """Golden vectors of every picture in a folder: inputs as ``after`` takes them, results as ``before`` sees them.

    Raises `UserError` where there are too few pictures or the float network is sure of nothing in one of them.
    """
    pictures = list_pictures(folder)
    if len(pictures) < LEAST_INPUTS:
        raise UserError("too few golden pictures", where=folder, expected=f"{LEAST_INPUTS}", found=str(len(pictures)))
    inputs: list[Tensor] = []
    results: list[Detections] = []
    outputs: list[list[Tensor]] = []
    for path in pictures:
        pixels = read_picture(path)
        found = before.on_tensor(before.preprocess(pixels))
        if not (found.scores >= CONFIDENT).any():
            raise UserError(
                "proves nothing as a golden picture", where=path, expected=f"a detection with score >= {CONFIDENT:g}",
                found=f"{found.scores.max(initial=0.0):.2f} at best",
            )  # fmt: skip
        results.append(found)
        inputs.append(after.preprocess(pixels))
        after.on_tensor()
        if len(outputs) < raw:
            outputs.append(after.raw())
    small = _small(read_picture(pictures[0]))
    stacked = [np.stack(tensors) for tensors in zip(*outputs, strict=True)]
    return golden_module.from_results(np.stack(inputs), results, stacked, small, after.preprocess(small))


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
        input=recipe.input,
        output=recipe.output,
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
) -> tuple[Manifest, dict[EngineClass, Verdict]]:
    """The manifest with what the self-test may find in each engine class: what it finds here, and the recipe's margins.

    Raises `FaultError` where a self-test fails here for another reason than accuracy.
    """
    margins = file.recipe.golden
    verdicts: dict[EngineClass, Verdict] = {}
    tolerances: dict[EngineClass, Tolerance] = {}
    for kernels in KERNELS:
        engine = TfliteEngine(flatbuffer, runtime, kernels=kernels)
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
    return msgspec.structs.replace(manifest, tolerances=tolerances), verdicts


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
