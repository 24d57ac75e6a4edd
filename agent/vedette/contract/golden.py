"""Golden vectors: real inputs with the results they must give, so that a device can prove a model to itself.

``golden.npz`` holds, for ``n`` inputs already preprocessed:

=====================  =======================================================================================
``inputs``             (n, height, width, channels), the input tensor's dtype
``offsets``            (n + 1,) int32: the float reference's results of input i are rows offsets[i]..offsets[i+1]
``boxes``              (m, 4) float32, fractions of the input tensor; (0, 4) where the task has none
``scores``             (m,) float32
``class_ids``          (m,) int32
``raw_K``              (r, ...) raw output K of the converter's machine for the first r inputs
``picture``            (h, w, 3) uint8 BGR, one small picture
``picture_tensor``     (height, width, channels), what preprocessing must make of it
=====================  =======================================================================================
"""

from __future__ import annotations

import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .boxes import iou
from .errors import BundleError
from .manifest import Tolerance
from .types import Classes, Detections, Float32Array, Int32Array, Result, Tensor, UInt8Array

MAX_EXPANDED: Final = 256 * 1024 * 1024  # bytes; a small npz can hide a large array
CONFIDENT: Final = 0.5  # reference results below this score are not judged
MATCH_IOU: Final = 0.5
MATCH_SCORE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Golden:
    """See the module. Checked when built."""

    inputs: Tensor
    offsets: Int32Array
    boxes: Float32Array
    scores: Float32Array
    class_ids: Int32Array
    raw: tuple[Tensor, ...]
    picture: UInt8Array
    picture_tensor: Tensor

    def __post_init__(self) -> None:
        n, m = len(self.inputs), len(self.scores)
        offsets = self.offsets
        if n < 1:
            raise ValueError("inputs: expected at least one, found none")
        if offsets.shape != (n + 1,) or offsets.dtype != np.int32:
            raise ValueError(f"offsets: expected shape ({n + 1},) int32, found {offsets.shape} {offsets.dtype}")
        if offsets[0] != 0 or offsets[-1] != m or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets: expected to rise from 0 to {m}")
        if self.boxes.shape not in ((m, 4), (0, 4)) or self.class_ids.shape != (m,):
            raise ValueError(f"boxes and class_ids: expected {m} rows, found {self.boxes.shape} {self.class_ids.shape}")
        if self.picture_tensor.shape != self.inputs.shape[1:] or self.picture_tensor.dtype != self.inputs.dtype:
            raise ValueError("picture_tensor: expected the shape and dtype of one input")
        for name, array, dtype in (
            ("boxes", self.boxes, np.float32),
            ("scores", self.scores, np.float32),
            ("class_ids", self.class_ids, np.int32),
        ):
            if array.dtype != dtype:
                raise ValueError(f"{name}: expected {np.dtype(dtype)}, found {array.dtype}")
        if self.picture.ndim != 3 or self.picture.shape[2] != 3 or self.picture.dtype != np.uint8:
            raise ValueError(
                f"picture: expected shape (height, width, 3) uint8, found {self.picture.shape} {self.picture.dtype}"
            )
        if not np.isfinite(self.scores).all() or not np.isfinite(self.boxes).all():
            raise ValueError("boxes and scores: expected finite numbers")

    def reference(self, index: int) -> Result:
        """The float reference's results for one input."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        if len(self.boxes):
            return Detections(self.boxes[rows], self.scores[rows], self.class_ids[rows])
        return Classes(self.scores[rows], self.class_ids[rows])


def from_results(
    inputs: Tensor, results: Sequence[Result], raw: Sequence[Tensor], picture: UInt8Array, picture_tensor: Tensor
) -> Golden:
    """Golden vectors out of what the float reference found in each input."""
    boxes = [r.boxes for r in results if isinstance(r, Detections)]
    return Golden(
        inputs=inputs,
        offsets=np.concatenate([[0], np.cumsum([len(r) for r in results])]).astype(np.int32),
        boxes=np.concatenate(boxes).astype(np.float32) if boxes else np.empty((0, 4), np.float32),
        scores=np.concatenate([r.scores for r in results]).astype(np.float32),
        class_ids=np.concatenate([r.class_ids for r in results]).astype(np.int32),
        raw=tuple(raw),
        picture=picture,
        picture_tensor=picture_tensor,
    )


def encode(golden: Golden) -> bytes:
    """As npz, the same bytes for the same arrays (and zlib)."""
    out = io.BytesIO()
    arrays: dict[str, Tensor] = {
        "inputs": golden.inputs,
        "offsets": golden.offsets,
        "boxes": golden.boxes,
        "scores": golden.scores,
        "class_ids": golden.class_ids,
        "picture": golden.picture,
        "picture_tensor": golden.picture_tensor,
    }
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """How well results agree with the reference, over all golden inputs.

    ``judged``: reference results with a score of at least 0.5. ``agreement``: the share of them found again (1.0 when
    there are none). ``mean_score_error``: mean absolute difference of the scores of those with the same label and place.
    """

    judged: int
    agreement: float
    mean_score_error: float

    def holds(self, tolerance: Tolerance) -> bool:
        """Whether the manifest's bound for this engine class is kept."""
        return self.agreement >= tolerance.min_agreement and self.mean_score_error <= tolerance.max_mean_score_error


def judge(golden: Golden, results: Sequence[Result]) -> Verdict:
    """Compares what was found in each golden input with the reference."""
    judged = found = 0
    errors: list[float] = []
    for index, result in enumerate(results):
        reference = golden.reference(index)
        chosen = np.flatnonzero(reference.scores >= CONFIDENT)
        if isinstance(reference, Classes):
            chosen = chosen[:1]  # the best class alone
        confident = reference.take(chosen)
        judged += len(confident)
        if isinstance(confident, Detections) and isinstance(result, Detections):
            partners = match(confident, result)
            for i, j in enumerate(partners):
                if j >= 0:
                    error = abs(float(confident.scores[i]) - float(result.scores[j]))
                    errors.append(error)
                    found += error <= MATCH_SCORE
        elif len(confident) and len(result):
            found += int(confident.class_ids[0] == result.class_ids[0])
            errors.append(abs(float(confident.scores[0]) - float(result.scores[0])))
    return Verdict(judged, found / judged if judged else 1.0, float(np.mean(errors)) if errors else 0.0)


def match(reference: Detections, found: Detections, *, min_iou: float = MATCH_IOU) -> list[int]:
    """For each reference detection, the position of its partner in ``found``, or -1.

    Partners have one label and overlap by at least ``min_iou``; each of ``found`` is taken once, best overlaps first.
    """
    partners = [-1] * len(reference)
    if not len(reference) or not len(found):
        return partners
    overlap = iou(reference.boxes, found.boxes)
    overlap[reference.class_ids[:, None] != found.class_ids[None, :]] = 0.0
    while True:
        best = int(np.argmax(overlap))
        i, j = divmod(best, overlap.shape[1])
        if overlap[i, j] < min_iou:
            return partners
        partners[i] = j
        overlap[i, :] = 0.0
        overlap[:, j] = 0.0
