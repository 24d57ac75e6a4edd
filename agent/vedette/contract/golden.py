"""Golden vectors: real inputs with the results they must give, so that a device can prove a model to itself.

``golden.npz`` holds, for ``n`` inputs already preprocessed:

======================  ======================================================================================
``inputs``              (n, ...) the input tensor without its first axis, in its dtype
``offsets``             (n + 1,) int32: the float reference's results of input i are rows offsets[i]..offsets[i+1]
``boxes``               (m, 4) float32, fractions of the input tensor; (0, 4) where the task has none
``scores``              (m,) float32
``class_ids``           (m,) int32
``raw_K``               (r, ...) raw output K of the converter's machine for the first r inputs
======================  ======================================================================================

For the task anomaly there is one row an input, with class id 1 where its score is above the threshold, else 0; for the
task regress there are no rows:

======================  ======================================================================================
``threshold``           () float32, above 0; anomaly alone
``values``              (n, q) float32, the float reference's; regress alone
``value_scale``         (q,) float32, above 0: the size of each value, in its unit, that differences are measured by
======================  ======================================================================================

What proves that preprocessing is the same, for an input of kind image or series:

======================  ======================================================================================
``picture``             (h, w, 3) uint8 BGR, one small picture
``picture_tensor``      (height, width, channels), what preprocessing must make of it
``recording``           (r, channels) float32, some readings in the sensor's units
``recording_times_ns``  (r,) int64, their times by the sensor's clock
``window_tensor``       (...) one input: what preprocessing must make of the first window of the recording
======================  ======================================================================================
"""

from __future__ import annotations

import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from .errors import BundleError
from .types import (
    Anomaly,
    Classes,
    Detections,
    Float32Array,
    Int32Array,
    Int64Array,
    Result,
    Tensor,
    UInt8Array,
    Values,
)

MAX_EXPANDED: Final = 256 * 1024 * 1024  # bytes; a small npz can hide a large array


@dataclass(frozen=True, slots=True)
class Golden:
    """See the module. Checked when built."""

    inputs: Tensor
    offsets: Int32Array
    boxes: Float32Array
    scores: Float32Array
    class_ids: Int32Array
    raw: tuple[Tensor, ...]
    threshold: Float32Array | None = None
    values: Float32Array | None = None
    value_scale: Float32Array | None = None
    picture: UInt8Array | None = None
    picture_tensor: Tensor | None = None
    recording: Float32Array | None = None
    recording_times_ns: Int64Array | None = None
    window_tensor: Tensor | None = None

    def __post_init__(self) -> None:
        n, m = len(self.inputs), len(self.scores)
        if n < 1:
            raise ValueError("inputs: expected at least one, found none")
        _expect("offsets", self.offsets, (n + 1,), np.int32)
        if self.offsets[0] != 0 or self.offsets[-1] != m or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets: expected to rise from 0 to {m}")
        _expect("boxes", self.boxes, (m if len(self.boxes) else 0, 4), np.float32)
        _expect("scores", self.scores, (m,), np.float32)
        _expect("class_ids", self.class_ids, (m,), np.int32)
        self._check_anomaly()
        self._check_values()
        self._check_proof()

    def _check_anomaly(self) -> None:
        if self.threshold is None:
            return
        _expect("threshold", self.threshold, (), np.float32, above_0=True)
        if len(self.boxes) or (np.diff(self.offsets) != 1).any():
            raise ValueError("threshold: expected one row an input beside it, and no boxes")
        if ((self.scores > self.threshold) != self.class_ids).any():
            raise ValueError("class_ids: expected 1 where the score is above the threshold, else 0")

    def _check_values(self) -> None:
        if self.values is None and self.value_scale is None:
            return
        if self.values is None or self.value_scale is None or self.values.ndim != 2:
            raise ValueError("values and value_scale: expected both, with shapes (inputs, values) and (values,)")
        _expect("values", self.values, (len(self.inputs), self.values.shape[1]), np.float32)
        _expect("value_scale", self.value_scale, self.values.shape[1:], np.float32, above_0=True)
        if len(self.scores) or self.threshold is not None:
            raise ValueError("values: expected no rows and no threshold beside them")

    def _check_proof(self) -> None:
        picture, recording = self.picture, self.recording
        times_ns = self.recording_times_ns
        if picture is not None and recording is None and times_ns is None and self.window_tensor is None:
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise ValueError(
                    f"picture: expected shape (height, width, 3) uint8, found {picture.shape} {picture.dtype}"
                )
            name, tensor = "picture_tensor", self.picture_tensor
        elif recording is not None and picture is None and self.picture_tensor is None:
            if recording.ndim != 2 or times_ns is None:
                raise ValueError("recording: expected shape (readings, channels), and recording_times_ns beside it")
            _expect("recording", recording, recording.shape, np.float32)
            _expect("recording_times_ns", times_ns, recording.shape[:1], np.int64)
            name, tensor = "window_tensor", self.window_tensor
        else:
            raise ValueError("expected a picture and its tensor, or a recording, its times and its window's tensor")
        if tensor is None or tensor.shape != self.inputs.shape[1:] or tensor.dtype != self.inputs.dtype:
            raise ValueError(f"{name}: expected the shape and dtype of one input")

    def reference(self, index: int) -> Result:
        """The float reference's results for one input; of an anomaly without the single channels' errors."""
        if self.values is not None:
            return Values(self.values[index])
        if self.threshold is not None:
            return Anomaly(float(self.scores[index]), float(self.threshold), np.empty(0, np.float32))
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        if len(self.boxes):
            return Detections(self.boxes[rows], self.scores[rows], self.class_ids[rows])
        return Classes(self.scores[rows], self.class_ids[rows])


def _expect(name: str, array: Tensor, shape: tuple[int, ...], dtype: DTypeLike, *, above_0: bool = False) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name}: expected shape {shape} {np.dtype(dtype)}, found {array.shape} {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers")
    if above_0 and not (array > 0).all():
        raise ValueError(f"{name}: expected numbers above 0")


def from_results(
    inputs: Tensor, results: Sequence[Result], raw: Sequence[Tensor], picture: UInt8Array, picture_tensor: Tensor
) -> Golden:
    """Golden vectors out of what the float reference found in each input, with a picture and what it must become."""
    return _assemble(inputs, results, raw, picture=picture, picture_tensor=picture_tensor)


def from_windows(
    inputs: Tensor,
    results: Sequence[Result],
    raw: Sequence[Tensor],
    recording: Float32Array,
    recording_times_ns: Int64Array,
    window_tensor: Tensor,
    *,
    value_scale: Float32Array | None = None,
) -> Golden:
    """As `from_results`, with a recording, and what its first window must become.

    ``value_scale``: (q,) float32, above 0, for results that are values: a difference of so much is one of size 1, such as
    the standard deviation of what each value may be.
    """
    return _assemble(
        inputs, results, raw, recording=recording, recording_times_ns=recording_times_ns, window_tensor=window_tensor,
        value_scale=value_scale,
    )  # fmt: skip


def _assemble(inputs: Tensor, results: Sequence[Result], raw: Sequence[Tensor], **rest: Tensor | None) -> Golden:
    if len({type(r) for r in results}) != 1:
        raise ValueError("results: expected some, all of one kind")
    rows = [r for r in map(_as_rows, results) if r is not None]
    boxes = [r.boxes for r in rows if isinstance(r, Detections)]
    values = [r.values for r in results if isinstance(r, Values)]
    thresholds = {r.threshold for r in results if isinstance(r, Anomaly)}
    if len(thresholds) > 1:
        raise ValueError(f"results: expected one threshold, found {sorted(thresholds)}")
    counts = [len(r) for r in rows] if rows else [0] * len(results)
    return Golden(
        inputs=inputs,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        boxes=np.concatenate(boxes).astype(np.float32) if boxes else np.empty((0, 4), np.float32),
        scores=np.concatenate([np.empty(0, np.float32), *(r.scores for r in rows)]).astype(np.float32),
        class_ids=np.concatenate([np.empty(0, np.int32), *(r.class_ids for r in rows)]).astype(np.int32),
        raw=tuple(raw),
        threshold=np.array(thresholds.pop(), np.float32) if thresholds else None,
        values=np.stack(values).astype(np.float32) if values else None,
        **rest,
    )


def _as_rows(result: Result) -> Detections | Classes | None:
    if isinstance(result, Anomaly):
        score = np.array([result.score], np.float32)
        return Classes(score, (score > np.float32(result.threshold)).astype(np.int32))
    if isinstance(result, Values):
        return None
    if not isinstance(result, Detections | Classes):
        raise ValueError(f"results: golden vectors hold no {type(result).__name__}")
    return result


def encode(golden: Golden) -> bytes:
    """As npz, the same bytes for the same arrays (and zlib)."""
    out = io.BytesIO()
    arrays: dict[str, Tensor] = {
        field.name: array for field in fields(golden)
        if field.name != "raw" and (array := getattr(golden, field.name)) is not None
    }  # fmt: skip
    arrays.update({f"raw_{k}": raw for k, raw in enumerate(golden.raw)})
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def decode(data: bytes, where: object) -> Golden:
    """Parses strictly, never unpickles. Raises `BundleError`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            expanded = sum(entry.file_size for entry in archive.infolist())
        if expanded > MAX_EXPANDED:
            raise BundleError(
                "golden vectors too large", where=where, expected=f"at most {MAX_EXPANDED} bytes", found=f"{expanded}"
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names = set(arrays.files)
            raw_names = sorted(name for name in names if name.startswith("raw_"))
            loaded = {name: arrays[name] for name in names}
        for name, array in loaded.items():
            if not isinstance(array, np.ndarray):  # numpy hands a member that is no .npy out as bytes
                raise ValueError(f"{name}: expected an array")
        return Golden(
            **{name: array for name, array in loaded.items() if name not in raw_names},
            raw=tuple(loaded[f"raw_{k}"] for k in range(len(raw_names))),
        )
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, ValueError, TypeError,
            KeyError, EOFError, OSError, NotImplementedError, SyntaxError, RuntimeError, MemoryError,
            OverflowError) as error:  # fmt: skip
        raise BundleError("bad golden vectors", where=where, found=str(error) or type(error).__name__) from None
