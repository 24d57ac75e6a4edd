"""Does this machine get the results that the bundle was proved to give?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vedette.contract.decode import make_decoder
from vedette.contract.errors import SelfTestError
from vedette.contract.golden import Golden, Verdict, judge
from vedette.contract.image import ImagePreprocessor
from vedette.contract.manifest import Manifest
from vedette.contract.types import Tensor, TensorSpec

from .base import Engine

MAX_PREPROCESSING_STEPS = 2  # grey levels of 256: OpenCV 4 and 5 round their bilinear weights differently


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The outcome. ``passed`` is None where the bundle has no bound for this engine class, so that nothing was judged."""

    passed: bool | None
    verdict: Verdict
    preprocessing_steps: int
    """The largest difference between the golden picture's tensor and what preprocessing made of it here, in grey levels
    (raw steps where one is more than a level)."""
    reason: str


def run_self_test(engine: Engine, manifest: Manifest, labels: int, golden: Golden, where: object) -> SelfTest:
    """Runs every golden input and judges the decoded results. Raises `SelfTestError` when they do not fit the engine."""
    inputs, outputs = engine.allocate()
    tensor = engine.inputs[0]
    if golden.inputs.shape[1:] != tensor.shape[1:] or golden.inputs.dtype != tensor.dtype:
        raise SelfTestError(
            "golden inputs do not fit the network", where=where, expected=str(tensor),
            found=f"{golden.inputs.dtype} {list(golden.inputs.shape[1:])}",
        )  # fmt: skip
    decoder = make_decoder(manifest.output, engine.outputs, labels, score_threshold=_lowest(manifest))
    results = []
    for sample in golden.inputs:
        np.copyto(inputs[0][0], sample)
        engine.invoke(inputs, outputs)
        results.append(decoder(outputs))
    verdict = judge(golden, results)
    ImagePreprocessor(manifest.input, tensor)(golden.picture, inputs[0])
    steps = _grey_levels(inputs[0][0], golden.picture_tensor, tensor, manifest.input.std)
    engine_class = engine.description.engine_class
    tolerance = manifest.tolerances.get(engine_class)
    if steps > MAX_PREPROCESSING_STEPS:
        reason = f"preprocessing differs by {steps} of 256 steps, at most {MAX_PREPROCESSING_STEPS} are allowed"
        return SelfTest(False, verdict, steps, reason)
    if tolerance is None:
        return SelfTest(None, verdict, steps, f"the bundle states no tolerance for {engine_class}")
    passed = verdict.holds(tolerance)
    reason = (
        f"{engine_class}: agreement {verdict.agreement:.3f} of {verdict.judged} (at least {tolerance.min_agreement:.3f}), "
        f"mean score error {verdict.mean_score_error:.3f} (at most {tolerance.max_mean_score_error:.3f})"
    )
    return SelfTest(passed, verdict, steps, reason)


def _grey_levels(a: Tensor, b: Tensor, tensor: TensorSpec, std: tuple[float, ...]) -> int:
    raw = np.abs(a.astype(np.float64) - b.astype(np.float64))
    # real = (p - mean) / std and raw = real / scale + zero_point, so a step of raw is scale * std of a grey level
    levels = raw * (tensor.scale if tensor.quantised else 1.0) * np.asarray(std, np.float64)
    if tensor.dtype != np.float32:
        levels = np.minimum(levels, raw)  # one level may tip one coarse step
    return int(np.rint(levels.max()))


def _lowest(manifest: Manifest) -> float:
    # a reference detection just above 0.5 may come back just below it, and is judged by its score's distance
    return min(manifest.output.score_threshold, 0.3)
