"""Does this machine get the results that the bundle was proved to give?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vedette.contract.decode import make_decoder
from vedette.contract.errors import SelfTestError
from vedette.contract.golden import Golden
from vedette.contract.image import ImagePreprocessor
from vedette.contract.manifest import AnomalyOutput, ImageInput, Manifest, RegressOutput, SeriesInput
from vedette.contract.types import Readings, Tensor, TensorSpec
from vedette.contract.verdict import Verdict, judge
from vedette.contract.window import SeriesPreprocessor, WindowBuilder

from .base import Engine

MAX_PREPROCESSING_STEPS = 2  # grey levels of 256: OpenCV 4 and 5 round their bilinear weights differently
MAX_SERIES_STEPS = 1  # of the tensor, where it is quantised: a value between two may go either way
SERIES_STEP = 1e-3  # of a float tensor: its values have a standard deviation of about 1


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The outcome. ``passed`` is None where the bundle has no bound for this engine class, so that nothing was judged."""

    passed: bool | None
    verdict: Verdict
    preprocessing_steps: int
    """The largest difference between the golden tensor and what preprocessing made of the golden picture or recording
    here: in grey levels (raw steps where one is more than a level), or of a series in raw steps (`SERIES_STEP` where the
    tensor is float)."""
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
    decoder = make_decoder(
        manifest.output, engine.outputs, labels, inputs=engine.inputs, input_spec=manifest.input,
        score_threshold=_lowest(manifest),
    )  # fmt: skip
    results = []
    for sample in golden.inputs:
        np.copyto(inputs[0][0], sample)
        engine.invoke(inputs, outputs)
        results.append(decoder(outputs, inputs))
    verdict = judge(golden, results)
    steps, allowed = _preprocessing(manifest.input, golden, tensor, inputs[0], where)
    engine_class = engine.description.engine_class
    tolerance = manifest.tolerances.get(engine_class)
    if steps > allowed:
        unit = "of 256 steps" if isinstance(manifest.input, ImageInput) else "steps"
        return SelfTest(
            False, verdict, steps, f"preprocessing differs by {steps} {unit}, at most {allowed} are allowed"
        )
    if tolerance is None:
        return SelfTest(None, verdict, steps, f"the bundle states no tolerance for {engine_class}")
    passed = verdict.holds(tolerance)
    reason = (
        f"{engine_class}: agreement {verdict.agreement:.3f} of {verdict.judged} (at least {tolerance.min_agreement:.3f}), "
        f"mean score error {verdict.mean_score_error:.3f} (at most {tolerance.max_mean_score_error:.3f})"
    )
    return SelfTest(passed, verdict, steps, reason)


def _preprocessing(
    spec: ImageInput | SeriesInput, golden: Golden, tensor: TensorSpec, out: Tensor, where: object
) -> tuple[int, int]:
    """How far preprocessing is off here, and how far it may be. ``out``: a buffer of the tensor's."""
    if isinstance(spec, ImageInput) and golden.picture is not None and golden.picture_tensor is not None:
        ImagePreprocessor(spec, tensor)(golden.picture, out)
        return _grey_levels(out[0], golden.picture_tensor, tensor, spec.std), MAX_PREPROCESSING_STEPS
    if isinstance(spec, SeriesInput) and golden.recording is not None and golden.window_tensor is not None:
        assert golden.recording_times_ns is not None
        readings = Readings(golden.recording, golden.recording_times_ns, 0, timed=True)
        fits = golden.recording.shape[1] == len(spec.channels)
        windows = WindowBuilder(spec).push(readings) if fits else []
        if not windows:
            raise SelfTestError(
                "golden recording makes no window", where=where,
                expected=f"{spec.length} or more readings of {len(spec.channels)} channels",
                found=f"shape {golden.recording.shape}",
            )  # fmt: skip
        SeriesPreprocessor(spec, tensor)(windows[0].values, out)
        off = np.abs(out[0].astype(np.float64) - golden.window_tensor.astype(np.float64)).max()
        return int(np.rint(off / (1.0 if tensor.dtype != np.float32 else SERIES_STEP))), MAX_SERIES_STEPS
    raise SelfTestError(
        "golden vectors do not fit the manifest's input", where=where,
        expected="a picture" if isinstance(spec, ImageInput) else "a recording",
        found="a picture" if golden.recording is None else "a recording",
    )  # fmt: skip


def _grey_levels(a: Tensor, b: Tensor, tensor: TensorSpec, std: tuple[float, ...]) -> int:
    raw = np.abs(a.astype(np.float64) - b.astype(np.float64))
    # real = (p - mean) / std and raw = real / scale + zero_point, so a step of raw is scale * std of a grey level
    levels = raw * (tensor.scale if tensor.quantised else 1.0) * np.asarray(std, np.float64)
    if tensor.dtype != np.float32:
        levels = np.minimum(levels, raw)  # one level may tip one coarse step
    return int(np.rint(levels.max()))


def _lowest(manifest: Manifest) -> float | None:
    """From which score on results are decoded; None: as the manifest says."""
    if isinstance(manifest.output, AnomalyOutput | RegressOutput):
        return None
    # a reference detection just above 0.5 may come back just below it, and is judged by its score's distance
    return min(manifest.output.score_threshold, 0.3)
