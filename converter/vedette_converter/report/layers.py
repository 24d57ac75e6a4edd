"""The product's operations one by one: where each runs, how much of the work it is, what quantisation lost by it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vedette.contract.errors import VedetteError

from .. import lint
from ..lint.report import place
from ..quantise import LayerError, Sample, Samples, layer_errors

SAMPLES: Final = 16  # calibration samples that errors are measured on: TFLite's own kernels are slow


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation of the bundle's network, in the order of execution."""

    index: int
    op: str
    """Such as CONV_2D."""
    name: str
    """Of its first output tensor."""
    output: str
    """``int8 1x19x19x96``."""
    where: str
    """``XNNPACK #1``, ``TFLite``, ``nowhere``."""
    on_target: bool
    why: str
    """It does not run on XNNPACK."""
    mac_share: float
    """Of the network's multiply-accumulates, 0..1."""
    sqnr_db: float | None
    """Of its output against the float network's, accumulated from the input on; infinite where both are equal. None
    where the float network has no such tensor."""


@dataclass(frozen=True, slots=True)
class Layers:
    """All of them, and one line."""

    rows: tuple[Layer, ...]
    summary: str
    samples: int
    """Calibration samples that the errors were measured on; 0 where they were not."""


def layers(base: bytes, product: bytes, samples: Samples | None, notes: list[str]) -> Layers | None:
    """``base``: the float flatbuffer that ``product`` was made of. What cannot be found out is said in ``notes``."""
    with tempfile.TemporaryDirectory(prefix="vedette-report-") as folder:
        path = Path(folder) / "product.tflite"
        path.write_bytes(product)
        try:
            report = lint.lint(path)
        except VedetteError as error:
            notes.append(f"where operations run is not known: {error.problem}")
            return None
    errors: Mapping[str, LayerError] = {}
    shown: list[Sample] = []
    if samples is not None:
        try:
            shown = list(itertools.islice(samples(), SAMPLES))
            errors = _errors(base, product, shown)
        except VedetteError as error:
            notes.append(f"errors by layer are not known: {error.problem}")
    total = report.graph.macs
    rows = tuple(
        Layer(
            verdict.op.index, verdict.op.kind, verdict.op.name, verdict.op.outputs[0].kind if verdict.op.outputs else "",
            place(report, verdict), verdict.on_target, verdict.refusal.why if verdict.refusal else "",
            verdict.op.macs / total if total else 0.0, _sqnr(errors.get(verdict.op.name)),
        )
        for verdict in report.verdicts
    )  # fmt: skip
    return Layers(rows, report.summary(), len(shown) if errors else 0)


def _errors(base: bytes, product: bytes, shown: Sequence[Sample]) -> Mapping[str, LayerError]:
    """By the tensor's name in the product, where the converter may have renamed the outputs."""
    found = layer_errors(base, product, lambda: iter(shown))
    before, after = lint.parse_graph(base, Path("float")), lint.parse_graph(product, Path("product"))
    renamed = {one.name: other.name for one, other in zip(before.outputs, after.outputs, strict=True)}
    return {name: error for error in found for name in (error.tensor, renamed.get(error.tensor, error.tensor))}


def _sqnr(error: LayerError | None) -> float | None:
    return None if error is None else error.sqnr_db
