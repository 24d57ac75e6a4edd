"""Values that pass between the stages. Frozen; units and shapes are stated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

UInt8Array: TypeAlias = NDArray[np.uint8]
Float32Array: TypeAlias = NDArray[np.float32]
Int32Array: TypeAlias = NDArray[np.int32]
Int64Array: TypeAlias = NDArray[np.int64]
Tensor: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """A picture as cameras give it: brightness in full, colour in half the size, by ITU-R BT.601.

    ``luma``: Y, (height, width) uint8, both even; ``blue``, ``red``: Cb and Cr, half of that each way. Rows may be padded.
    ``full_range``: they take all 8 bits, as in JPEG (JFIF 1.02); else as in video, Y 16..235, Cb and Cr 16..240.
    """

    luma: UInt8Array
    blue: UInt8Array
    red: UInt8Array
    full_range: bool = True

    def __post_init__(self) -> None:
        height, width = self.luma.shape
        expected = (height // 2, width // 2)
        if height % 2 or width % 2 or self.blue.shape != expected or self.red.shape != expected:
            raise ValueError(
                f"luma must be of even size and chroma of half of it, but got {self.luma.shape}, {self.blue.shape} and "
                f"{self.red.shape}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """As of the same picture in BGR."""
        height, width = self.luma.shape
        return height, width, 3


@dataclass(frozen=True, slots=True, eq=False)
class Jpeg:
    """A picture as cameras compress it, decoded by whoever needs it, and in what size: see `vedette.contract.jpeg`.

    ``data``: (n,) uint8, the whole of it (ITU-T T.81). ``height``, ``width``: in full, pixels. ``scan``: where its header
    ends, bytes. ``decoded``: by how many times smaller, what was made of it so far. ``decoding``: held by whoever does: what
    others wait for may be what they need.
    """

    data: UInt8Array
    height: int
    width: int
    scan: int
    decoded: dict[int, UInt8Array] = field(default_factory=dict)
    decoding: Lock = field(default_factory=Lock)

    @property
    def shape(self) -> tuple[int, int, int]:
        """As of the same picture in BGR."""
        return self.height, self.width, 3


Picture: TypeAlias = UInt8Array | Planes | Jpeg
"""(height, width, 3) uint8 BGR, or that of which it can be made: see `vedette.contract.bgr`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture from a source.

    ``pixels``: planes where the source gives them and whoever is fed takes them; JPEG where the source gives that. ``seq``:
    counts what the source gave, from 1, dropped frames included.
    ``captured_ns``: CLOCK_BOOTTIME in nanoseconds when the frame was complete in memory, of JPEG not yet decoded.
    ``capture_ns``: how long reading it took, and decoding what is decoded, nanoseconds.
    ``ahead_ns``: of a file that is read flat out, how far its own time has got ahead of the clock's; negative where it fell
    behind.
    """

    seq: int
    captured_ns: int
    capture_ns: int
    pixels: Picture
    ahead_ns: int = 0

    @property
    def scene_ns(self) -> int:
        """When it is in what it shows: between two frames as long as was between them when they were filmed."""
        return self.captured_ns + self.ahead_ns

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[0])

    def without_pixels(self) -> Frame:
        """Of the same size, black and in no memory: for whoever still asks when it came, and lets its memory go."""
        return Frame(self.seq, self.captured_ns, self.capture_ns, _black(self.pixels.shape), self.ahead_ns)


@lru_cache(maxsize=8)
def _black(shape: tuple[int, ...]) -> UInt8Array:
    return np.broadcast_to(np.uint8(0), shape)


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings of one sensor that arrived together, in the order they arrived.

    ``values``: (n, channels) float32, in the sensor's units, finite. ``times_ns``: (n,) int64, nanoseconds: by the
    sensor's own clock where ``timed`` (any zero, it may jump or run backwards), else CLOCK_BOOTTIME of arrival.
    ``arrived_ns``: CLOCK_BOOTTIME when the last of them was complete in memory. ``anew``: they continue nothing, as those
    of a recording that begins again.
    """

    values: Float32Array
    times_ns: Int64Array
    arrived_ns: int
    timed: bool
    anew: bool = False

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.times_ns.shape != self.values.shape[:1]:
            raise ValueError(
                f"values must have shape (n, channels) and times_ns (n,), but got shapes {self.values.shape} and "
                f"{self.times_ns.shape}"
            )

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of readings of the length that a network takes.

    ``values``: (length, channels) float32, in the sensor's units, at the network's rate. ``seq``: counts the windows of
    its source, from 1, dropped ones included. ``captured_ns``: CLOCK_BOOTTIME when its last reading was complete in
    memory. ``first_ns``, ``last_ns``: the times of its first and last sample by the sensor's clock (`Readings`).
    """

    seq: int
    captured_ns: int
    first_ns: int
    last_ns: int
    values: Float32Array


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output tensor of a network, as its flatbuffer states it.

    Quantised tensors: ``real = (raw - zero_point) * scale`` (TFLite's quantisation spec); ``scale`` is 0.0 where the
    tensor is not quantised.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    scale: float = 0.0
    zero_point: int = 0

    @property
    def quantised(self) -> bool:
        """Whether raw values stand for real ones."""
        return self.scale != 0.0

    @property
    def elements(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    def allocate(self) -> Tensor:
        """A buffer of this tensor's shape and dtype, zeroed, for its caller to own."""
        return np.zeros(self.shape, self.dtype)

    def to_real(self, raw: Tensor) -> Float32Array:
        """Raw values as float32 reals; float tensors come back as they are."""
        if not self.quantised:
            return raw.astype(np.float32, copy=False)
        return (raw.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype.name}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector found in one picture, best score first.

    ``boxes``: (n, 4) float32, ``x_min, y_min, x_max, y_max``, as fractions of the picture's width and height.
    ``scores``: (n,) float32 in 0..1. ``class_ids``: (n,) int32, the line of ``labels.txt``, from 0.
    """

    boxes: Float32Array
    scores: Float32Array
    class_ids: Int32Array

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.boxes.shape != (n, 4) or self.class_ids.shape != (n,):
            raise ValueError(
                f"boxes must have shape ({n}, 4) and class_ids ({n},), but got shapes {self.boxes.shape} and "
                f"{self.class_ids.shape}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Detections:
        """Those chosen by a mask or by positions, in that order."""
        return Detections(self.boxes[index], self.scores[index], self.class_ids[index])

    @staticmethod
    def none() -> Detections:
        """No detection."""
        return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes a classifier saw in one picture, best score first.

    ``scores``: (n,) float32. ``class_ids``: (n,) int32, the line of ``labels.txt``, from 0.
    """

    scores: Float32Array
    class_ids: Int32Array

    def __post_init__(self) -> None:
        if self.class_ids.shape != self.scores.shape:
            raise ValueError(f"scores {self.scores.shape} and class_ids {self.class_ids.shape} must have one shape")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Classes:
        """Those chosen by a mask or by positions, in that order."""
        return Classes(self.scores[index], self.class_ids[index])


@dataclass(frozen=True, slots=True)
class Poses:
    """Bodies, hands or faces that a network found in one picture by their key points, best score first.

    ``scores``: (n,) float32 in 0..1. ``keypoints``: (n, k, 3) float32, ``x, y, score`` of each point, in the order of
    ``labels.txt``; x and y as fractions of the picture, a little outside 0..1 where the network puts a point there.
    ``boxes``: (n, 4) float32 as in `Detections`, or None where the network has none.
    """

    scores: Float32Array
    keypoints: Float32Array
    boxes: Float32Array | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.keypoints.ndim != 3 or self.keypoints.shape[0] != n or self.keypoints.shape[2] != 3:
            raise ValueError(f"keypoints must have shape ({n}, k, 3), but got shape {self.keypoints.shape}")
        if self.boxes is not None and self.boxes.shape != (n, 4):
            raise ValueError(f"boxes must have shape ({n}, 4), but got shape {self.boxes.shape}")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Poses:
        """Those chosen by a mask or by positions, in that order."""
        boxes = None if self.boxes is None else self.boxes[index]
        return Poses(self.scores[index], self.keypoints[index], boxes)


@dataclass(frozen=True, slots=True)
class Segments:
    """Which classes cover how much of one picture, largest share first.

    ``class_ids``: (n,) int32, the line of ``labels.txt``, from 0. ``shares``: (n,) float32, of the picture's area, above
    0. ``boxes``: (n, 4) float32 as in `Detections`, around all the class's pixels. ``centroids``: (n, 2) float32,
    ``x, y``, their mean, as fractions of the picture.
    """

    class_ids: Int32Array
    shares: Float32Array
    boxes: Float32Array
    centroids: Float32Array

    def __post_init__(self) -> None:
        n = len(self.class_ids)
        if self.shares.shape != (n,) or self.boxes.shape != (n, 4) or self.centroids.shape != (n, 2):
            raise ValueError(
                f"shares must have shape ({n},), boxes ({n}, 4) and centroids ({n}, 2), but got shapes "
                f"{self.shares.shape}, {self.boxes.shape} and {self.centroids.shape}"
            )

    def __len__(self) -> int:
        return len(self.class_ids)

    def take(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Segments:
        """Those chosen by a mask or by positions, in that order."""
        return Segments(self.class_ids[index], self.shares[index], self.boxes[index], self.centroids[index])


@dataclass(frozen=True, slots=True)
class Anomaly:
    """How far a window is from what the network has learned to reproduce.

    ``score``: the reconstruction's error over the whole window, in normalised units (see
    `vedette.contract.manifest.AnomalyOutput`). ``threshold``: above it the window counts as anomalous.
    ``errors``: (channels,) float32, the same error of each channel alone, in the order of ``labels.txt``.
    """

    score: float
    threshold: float
    errors: Float32Array

    @property
    def anomalous(self) -> bool:
        """Whether the score is above the threshold."""
        return self.score > self.threshold


@dataclass(frozen=True, slots=True)
class Values:
    """What a regression network estimates. ``values``: (n,) float32, in the units and order of its manifest."""

    values: Float32Array


Scored: TypeAlias = Detections | Classes
"""Results with a score and a class each."""

Result: TypeAlias = Scored | Poses | Segments | Anomaly | Values
