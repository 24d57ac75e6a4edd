"""Windows as small pictures with what either network makes of them, for a build's report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from vedette.contract.errors import FaultError
from vedette.contract.manifest import AnomalyOutput, ClassifyOutput, RegressOutput
from vedette.contract.types import Anomaly, Classes, Float32Array, Result, Values

from ..progress import Progress
from ..recipe import Evaluate
from ..report.samples import TOP, Look, SamplePicture, Seen
from ..subject import Subject
from .judge import look
from .windows import Windows

CANDIDATES: Final = 96  # windows that are looked at
WIDTH, HEIGHT, MARGIN = 420, 200, 10  # pixels
# BGR; told apart by people who see red and green alike (Okabe and Ito, 2008)
_COLOURS: Final = ((178, 114, 0), (0, 159, 230), (115, 158, 0), (167, 121, 204), (66, 94, 213), (233, 180, 86))


def sample_windows(
    subjects: tuple[Subject, Subject], windows: Windows, count: int,
    output: ClassifyOutput | AnomalyOutput | RegressOutput, labels: Sequence[str], options: Evaluate, progress: Progress,
) -> Look:  # fmt: skip
    """``count`` of them, or all where there are fewer; half of those where the networks differ, as far as there are such."""
    chosen = windows.draw(CANDIDATES, options.seed)
    before, after = look(subjects, chosen, progress.begin("samples", len(chosen)))
    reach = _reach(before, options.near)
    seen = [_pair(one, other, labels, output, reach) for one, other in zip(before, after, strict=True)]
    differing = [number for number, (first, _) in enumerate(seen) if first and first[0].alone]
    same = [number for number in range(len(seen)) if number not in differing]
    worst = differing[: max(count // 2, count - len(same))]
    pictures = []
    agreeing = min(count - len(worst), len(same))
    spread = np.linspace(0, len(same) - 1, agreeing).astype(int)  # they lie in the order of labels and recordings
    for number in [*(same[place] for place in spread), *worst]:
        recording = chosen.recordings[chosen.recording[number]]
        name = f"{recording.path.parent.name}/{recording.path.name}"
        pictures.append(
            SamplePicture(name, "image/png", draw(chosen.values[number]), WIDTH, HEIGHT, *seen[number])
        )  # fmt: skip
    return Look(tuple(pictures), len(chosen), len(same))


def draw(values: Float32Array) -> bytes:
    """PNG of a window, (length, channels): a line a channel, each over its own range; bars for a window of one sample."""
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    length, channels = values.shape
    low, high = values.min(axis=0), values.max(axis=0)
    if length == 1:
        low, high = np.full(channels, values.min()), np.full(channels, values.max())
    share = (values - low) / np.maximum(high - low, 1e-30)
    y = np.rint(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN)).astype(np.int32)
    x = np.rint(np.linspace(MARGIN, WIDTH - MARGIN, max(2, length if length > 1 else channels + 1))).astype(np.int32)
    for channel in range(channels):
        colour = _COLOURS[channel % len(_COLOURS)]
        if length == 1:
            corner = (int(x[channel]) + 2, HEIGHT - MARGIN)
            cv2.rectangle(canvas, corner, (int(x[channel + 1]) - 2, int(y[0, channel])), colour, cv2.FILLED)
        else:
            line = np.stack([x, y[:, channel]], axis=1)
            cv2.polylines(canvas, [line.reshape(-1, 1, 2)], False, colour, 1, cv2.LINE_AA)
    fits, encoded = cv2.imencode(".png", canvas)
    if not fits:
        raise FaultError("a window cannot be drawn")
    return encoded.tobytes()


def _pair(
    before: Result, after: Result, labels: Sequence[str], output: object, reach: Float32Array
) -> tuple[tuple[Seen, ...], tuple[Seen, ...]]:
    if isinstance(before, Classes) and isinstance(after, Classes):
        differs = bool(before.class_ids[:1].tolist() != after.class_ids[:1].tolist())
        first, second = (
            tuple(
                Seen(labels[int(number)], float(score), None, differs and not place)
                for place, (number, score) in enumerate(zip(found.class_ids[:TOP], found.scores[:TOP], strict=True))
            )
            for found in (before, after)
        )
        return first, second
    if isinstance(before, Anomaly) and isinstance(after, Anomaly):
        differs = before.anomalous != after.anomalous
        return tuple(
            (
                Seen(
                    "anomaly" if found.anomalous else "normal", found.score / (2 * found.threshold), None, differs,
                    f"{found.score:.3g}",
                ),
            )
            for found in (before, after)
        )  # type: ignore[return-value]  # fmt: skip
    assert isinstance(before, Values) and isinstance(after, Values)  # nothing else is decoded of windows
    differs = bool((np.abs(before.values - after.values) > reach).any())
    return tuple(
        tuple(Seen(label, 0.0, None, differs, f"{v:.4g}") for label, v in zip(labels, found.values, strict=True))
        for found in (before, after)
    )  # type: ignore[return-value]


def _reach(results: Sequence[Result], near: float) -> Float32Array:
    values = [found.values for found in results if isinstance(found, Values)]
    return np.asarray(near * np.ptp(np.array(values), axis=0), np.float32) if values else np.empty(0, np.float32)
