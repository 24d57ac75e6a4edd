"""``vedette-convert build MODEL`` for networks whose results the agent does not decode: a plain ``.tflite``, proved.

No manifest, no labels, no golden vectors: what it is for, nobody said. What can be measured is measured all the same:
it loads and runs in every runtime, its float form says what TensorFlow says, its outputs are compared with the float form's
on the samples given, and both are timed by turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vedette.contract.errors import UserError
from vedette.contract.manifest import ImageInput
from vedette.contract.types import Float32Array, Tensor, TensorSpec
from vedette.durable import replacing
from vedette.engine import TfliteEngine, load_runtime

from . import calibrate, quantise
from .arrays import looks_like_arrays, read_arrays
from .gate import enforce, limits_rows
from .latency import Latency, time_both
from .load import Network
from .progress import Progress
from .quantise import Sample
from .quantise.samples import tensors
from .quantise.trace import sqnr_db
from .recipe.flags import Flags
from .recipe.quantisation import Quantise

ROUNDS = 100
POOR_DB = 10.0  # an error of a third of the values, in the root of the mean square


@dataclass(frozen=True, slots=True)
class OutputError:
    """How far an output is from the float network's, over all samples."""

    name: str
    shape: tuple[int, ...]
    sqnr_db: float
    """Signal-to-quantisation-noise ratio: 10 log10 (sum of squares / sum of squared errors)."""
    same_best: float | None
    """Share of samples whose largest value stands at the same place; None where the output is one number."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A flatbuffer and what was found out about it."""

    path: Path
    precision: str
    bytes_before: int
    bytes_after: int
    latency: Latency
    outputs: tuple[OutputError, ...]
    samples: int
    samples_sha256: str
    runtimes: tuple[str, ...]
    """Which loaded and ran it."""
    findings: tuple[str, ...]


def convert_bare(
    network: Network, data: Path, out: Path, flags: Flags, *, image: ImageInput | None, progress: Progress
) -> Converted:
    """``data``: arrays (`vedette_converter.arrays`), or pictures where ``image`` says how they become the input.

    Writes ``out`` whole or not at all. Raises `GateError` where a limit of ``flags`` does not hold, `UserError`,
    `ModelError`, `FaultError`.
    """
    options = flags.quantise
    if not out.parent.is_dir() or out.is_dir():
        raise UserError("network cannot be written", where=out, expected="a file in a folder that exists")
    make, count, sha256 = _samples(network, data, options, image)
    runtime = load_runtime()
    original = quantise.to_float32(network)
    step = progress.begin("calibration", count)
    made = quantise.convert(network, options, make, float32=original, on_sample=step)
    runtimes = quantise.prove(made)
    limits = [quantise.limits_of(image)] if image is not None else []
    findings = quantise.calibration_findings(make(), limits) if options.calibrated else []
    with tempfile.TemporaryDirectory(prefix="vedette-convert-") as folder:
        engines: list[TfliteEngine] = []
        for name, flatbuffer in (("float32", original), (options.precision, made)):
            path = Path(folder) / f"{name}-{len(engines)}.tflite"
            path.write_bytes(flatbuffer)
            engines.append(quantise.load_proven(path, runtime))
        before, after = engines
        first = tensors(next(make()))
        quantise.expect_same(before, network, *first)
        compared = progress.begin("outputs", count)
        peaks = quantise.Peaks(before.outputs)
        errors = _compare(before, after, make, compared, peaks)
        findings += [*_poor(errors), *peaks.findings(after.outputs)]
        # by turns; networks of several inputs are timed on the first sample's tensors as they lie in the buffers
        latency = time_both(before, after, (_raw(before, first)[0], _raw(after, first)[0]), ROUNDS)
    rows = limits_rows(latency, len(made), max_ratio=None, min_speedup=flags.min_speedup,
                       max_latency_ms=flags.max_latency_ms, max_bytes=flags.max_bytes)  # fmt: skip
    enforce(rows, by_flags=True)
    try:
        with replacing(out) as half:
            half.write_bytes(made)
    except OSError as error:
        raise UserError("network cannot be written", where=out, found=error.strerror or str(error)) from None
    return Converted(
        out, options.precision, len(original), len(made), latency, errors, count, sha256, tuple(runtimes),
        tuple(findings),
    )  # fmt: skip


def _samples(
    network: Network, data: Path, options: Quantise, image: ImageInput | None
) -> tuple[quantise.Samples, int, str]:
    if looks_like_arrays(data):
        arrays = read_arrays(data, network.inputs).draw(options.pictures, options.seed)
        return arrays.samples, len(arrays), arrays.sha256
    if image is None:
        raise UserError(
            "this network takes no picture", where=data, expected="arrays, .npy or .npz, of " + ", ".join(
                str(spec) for spec in network.inputs), found="no arrays",
        )  # fmt: skip
    calibration = calibrate.choose(data, options.pictures, options.seed)
    return (lambda: calibration.samples(image)), len(calibration.pictures), calibration.data.sha256


def _raw(engine: TfliteEngine, sample: tuple[Float32Array, ...]) -> list[Tensor]:
    """A sample's reals as an engine's input tensors."""
    made = []
    for spec, real in zip(engine.inputs, sample, strict=True):
        if not spec.quantised:
            made.append(real.astype(spec.dtype))
            continue
        limits = np.iinfo(spec.dtype.name)
        raw = np.round(real / np.float32(spec.scale)) + spec.zero_point
        made.append(np.clip(raw, limits.min, limits.max).astype(spec.dtype))
    return made


def _compare(
    before: TfliteEngine,
    after: TfliteEngine,
    make: quantise.Samples,
    on_sample: Callable[[], None],
    peaks: quantise.Peaks,
) -> tuple[OutputError, ...]:
    specs = before.outputs
    signal, noise = np.zeros(len(specs)), np.zeros(len(specs))
    same = np.zeros(len(specs))
    count = 0

    def run(engine: TfliteEngine, sample: Sample) -> list[Float32Array]:
        inputs, outputs = engine.allocate()
        for buffer, raw in zip(inputs, _raw(engine, tensors(sample)), strict=True):
            np.copyto(buffer, raw)
        engine.invoke(inputs, outputs)
        return [spec.to_real(raw) for spec, raw in zip(engine.outputs, outputs, strict=True)]

    for sample in make():
        reals = run(before, sample)
        peaks.add(reals)
        for number, (wanted, found) in enumerate(zip(reals, run(after, sample), strict=True)):
            signal[number] += float(np.square(wanted, dtype=np.float64).sum())
            noise[number] += float(np.square(wanted.astype(np.float64) - found).sum())
            same[number] += int(np.argmax(wanted) == np.argmax(found))
        count += 1
        on_sample()
    return tuple(
        OutputError(
            spec.name, spec.shape, sqnr_db(signal[n], noise[n]), same[n] / count if _size(spec) > 1 else None
        )
        for n, spec in enumerate(specs)
    )  # fmt: skip


def _poor(errors: tuple[OutputError, ...]) -> list[str]:
    return [
        f"output {error.name}: {error.sqnr_db:.1f} dB, so quantisation leaves little of what the network says: try "
        "--quantise mixed, or float16"
        for error in errors
        if error.sqnr_db < POOR_DB
    ]


def _size(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape))


def _speed(ratio: float) -> str:
    """``ratio``: of the new latency to float's."""
    if ratio <= 1:
        return f"{1 / ratio:.2f} times faster"
    return f"{ratio:.2f} times slower: `vedette-convert lint` says which operations cost it"


def markdown(made: Converted) -> str:
    """Before and after, a row a figure."""
    latency = made.latency
    lines = [
        f"**{made.path.name}** on {latency.machine}",
        "",
        f"|  | float32 | {made.precision} | change |",
        "| --- | ---: | ---: | --- |",
        f"| flatbuffer | {made.bytes_before / 1e3:.1f} KB | {made.bytes_after / 1e3:.1f} KB | "
        f"{made.bytes_before / made.bytes_after:.2f} times smaller |",
        f"| latency, median of {latency.rounds}, {latency.threads} thread, {latency.runtime} | "
        f"{latency.before.p50_ms:.3f} ms | {latency.after.p50_ms:.3f} ms | {_speed(latency.ratio)} |",
        f"| p90, p99 | {latency.before.p90_ms:.3f}, {latency.before.p99_ms:.3f} ms | "
        f"{latency.after.p90_ms:.3f}, {latency.after.p99_ms:.3f} ms |  |",
        "",
        f"| output, {made.samples} samples | shape | SQNR | same place largest |",
        "| --- | --- | ---: | ---: |",
    ]
    for error in made.outputs:
        same = "" if error.same_best is None else f"{error.same_best:.1%}"
        lines.append(f"| {error.name} | {list(error.shape)} | {error.sqnr_db:.1f} dB | {same} |")
    lines += ["", f"Runs with: {', '.join(made.runtimes)}. No manifest: say --decoder and --labels where it is used."]
    lines += [f"- note: {finding}" for finding in made.findings]
    return "\n".join(lines)


def as_object(made: Converted) -> dict[str, Any]:
    """The same for programs."""
    return {
        "error": None,
        "flatbuffer": str(made.path),
        "precision": made.precision,
        "flatbuffer_bytes": {"before": made.bytes_before, "after": made.bytes_after},
        "p50_ms": {"before": made.latency.before.p50_ms, "after": made.latency.after.p50_ms},
        "samples": made.samples,
        "samples_sha256": made.samples_sha256,
        "runtimes": list(made.runtimes),
        "outputs": [
            {"name": e.name, "shape": list(e.shape), "sqnr_db": e.sqnr_db, "same_best": e.same_best}
            for e in made.outputs
        ],
        "findings": list(made.findings),
    }
