"""Frame -> input tensor: resize, colour, quantise, into a buffer the caller owns.

The arithmetic, for a pixel ``p`` (0..255) of channel ``c``::

    real = (p - mean[c]) / std[c]                      what the network was trained on
    raw  = round(real / scale) + zero_point            where the tensor is quantised, saturated to its dtype

A pixel has 256 values, so ``p -> raw`` is a table of 256 entries a channel, made once: an int8 network never sees a
float. Where the table is ``p`` itself or ``p - 128``, not even a table is needed, nor where it falls behind ``p - 128`` by
one from some value on, as it does for a network trained on -1..1: 255 steps of real values do not fit 255 steps of pixels
evenly, and a vectorised comparison takes less time than looking up every byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import ModelError, PictureError
from .jpeg import decode, reduction
from .manifest import ImageInput
from .planes import resized_luma, resized_to_bgr
from .types import Float32Array, Jpeg, Picture, Planes, Tensor, TensorSpec, UInt8Array

MIN_SIDE: Final = 8  # pixels; less than one cell of any detector's finest feature map
# of a pixel's 256 values that are told apart in a quantised tensor; fewer are a mistaken mean or std
MIN_LEVELS: Final = 16
MAX_PIXELS: Final = 100_000_000  # 300 MB as BGR; a larger picture is refused before it is decoded

_INTERPOLATION: Final = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "nearest": cv2.INTER_NEAREST}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the frame lies in the input tensor, so that boxes find their way back.

    ``frame = (tensor - offset) * scale`` for x and y, each as a fraction of its own picture's side.
    """

    offset_x: float
    offset_y: float
    scale_x: float
    scale_y: float

    def to_frame(self, boxes: Float32Array) -> Float32Array:
        """Boxes (n, 4) in fractions of the input tensor -> fractions of the frame, cut off at its edges."""
        if not self.whole:
            offset = np.array([self.offset_x, self.offset_y, self.offset_x, self.offset_y], np.float32)
            scale = np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y], np.float32)
            boxes = (boxes - offset) * scale
        inside = np.maximum(boxes, np.float32(0.0))
        return np.minimum(inside, np.float32(1.0), out=inside)

    def points_to_frame(self, points: Float32Array) -> Float32Array:
        """Points (..., 2), x and y, in fractions of the input tensor -> fractions of the frame, not cut off."""
        offset = np.array([self.offset_x, self.offset_y], np.float32)
        scale = np.array([self.scale_x, self.scale_y], np.float32)
        return np.asarray((points - offset) * scale, np.float32)

    @property
    def whole(self) -> bool:
        """Whether the frame fills the input tensor."""
        return self.offset_x == 0.0 and self.offset_y == 0.0 and self.scale_x == 1.0 and self.scale_y == 1.0

    @property
    def seen(self) -> tuple[float, float, float, float]:
        """The part of the input tensor in which the frame is, bars left out: x_min, y_min, x_max, y_max as fractions."""
        return (
            max(0.0, self.offset_x),
            max(0.0, self.offset_y),
            min(1.0, self.offset_x + 1 / self.scale_x),
            min(1.0, self.offset_y + 1 / self.scale_y),
        )


@dataclass(frozen=True, slots=True)
class _Geometry:
    """For one frame size: which part of the frame goes to which part of the canvas."""

    crop: tuple[slice, slice]
    target: tuple[slice, slice]
    size: tuple[int, int]  # width, height of the target, pixels
    placement: Placement


def as_bgr(pixels: Tensor) -> UInt8Array:
    """Any decoded picture -> (height, width, 3) uint8 BGR: grey is spread, alpha is dropped, 16 bits become 8.

    Raises `PictureError` for anything that is no picture.
    """
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.size == 0:
        raise PictureError(
            "not a picture", expected="shape (height, width[, 1|3|4]) uint8", found=f"{pixels.shape} {pixels.dtype}"
        )
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8)
    if channels == 4:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR), np.uint8)
    if channels != 3:
        raise PictureError("not a picture", expected="1, 3 or 4 channels", found=f"{channels}")
    return pixels


def refuse_small(width: int, height: int) -> None:
    """Raises `PictureError` for a picture of less than `MIN_SIDE` pixels a side."""
    if height < MIN_SIDE or width < MIN_SIDE:
        raise PictureError(
            "picture too small", expected=f"at least {MIN_SIDE}x{MIN_SIDE} pixels", found=f"{width}x{height}"
        )


def refuse_name(video: Path) -> None:
    """Raises `PictureError` for a name that is no UTF-8: given one, OpenCV ends the program by SIGSEGV."""
    try:
        str(video).encode()
    except UnicodeEncodeError:
        raise PictureError("a video's name is no UTF-8", where=video, fix="give it another name") from None


class ImagePreprocessor:
    """Puts frames into an input tensor as one manifest says. Owned by one thread: it keeps scratch buffers."""

    def __init__(self, spec: ImageInput, tensor: TensorSpec) -> None:
        """Raises `ModelError` when the tensor is not what the manifest says."""
        expected = (1, spec.height, spec.width, spec.channels)
        if tensor.shape != expected and not (spec.color == "gray" and tensor.shape == expected[:3]):
            raise ModelError(
                f"input tensor {tensor.name}", expected=f"shape {list(expected)}", found=f"{list(tensor.shape)}"
            )
        if tensor.dtype not in (np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.float32), np.dtype(np.int16)):
            raise ModelError(
                f"input tensor {tensor.name}", expected="dtype uint8, int8, int16 or float32", found=tensor.dtype.name
            )
        self.spec = spec
        self.tensor = tensor
        self._shape = expected  # also of a grey network without an axis for channels
        self._interpolation = _INTERPOLATION[spec.interpolation]
        self._canvas = np.full((spec.height, spec.width, 3), spec.pad_value, np.uint8)
        grey = (spec.height, spec.width) if spec.color == "gray" else (0, 0)
        self._grey = np.full(grey, spec.pad_value, np.uint8)  # of planes
        self._colored = np.empty((spec.height, spec.width, spec.channels), np.uint8)
        self._table = pixel_table(spec, tensor)
        pixel = np.arange(256)[:, None]
        self._identity = tensor.dtype == np.uint8 and bool((self._table == pixel).all())
        self._flip = tensor.dtype == np.int8 and bool((self._table == pixel - 128).all())
        self._step = _step(self._table - (pixel - 128)) if tensor.dtype == np.int8 else None
        self._stepped = self._scratch_for_steps()
        self._direct = self._identity or self._flip or self._step is not None
        # cv2.LUT wants (1, 256[, channels])
        self._lut = np.ascontiguousarray(self._table.reshape(1, 256, -1))
        self._frame_shape: tuple[int, ...] = ()
        self._geometry: _Geometry
        self._jpeg_shape: tuple[int, ...] = ()
        self._reduction = 1  # of JPEG of that shape

    def __call__(self, pixels: Picture, out: Tensor) -> Placement:
        """Writes the picture into ``out``, a C-contiguous array of the tensor's shape and dtype.

        ``pixels``: (height, width, 3) uint8 BGR, planes or JPEG, at least 8 pixels a side. Raises `PictureError` otherwise.
        """
        if out.shape != self.tensor.shape or out.dtype != self.tensor.dtype:
            # OpenCV would put its result into a new array and leave this one as it was
            raise ValueError(
                f"out must be {self.tensor.dtype} with shape {self.tensor.shape}, but got {out.dtype} {out.shape}"
            )
        if isinstance(pixels, Jpeg):
            pixels = self._decoded(pixels)
        if pixels.shape != self._frame_shape or not (isinstance(pixels, Planes) or pixels.dtype == np.uint8):
            self._geometry = self._plan(pixels)
            self._frame_shape = pixels.shape
            self._canvas[...] = self._grey[...] = self.spec.pad_value
        out = out.reshape(self._shape)  # a view
        geometry = self._geometry
        color = self.spec.color
        # a buffer fewer: what a frame touches is out of the caches when the next one comes
        colored = out[0].view(np.uint8) if self._direct else self._colored
        if isinstance(pixels, Planes) and color == "gray":  # BGR's grey is Y, by the same weights
            brightness = self._grey[geometry.target]
            resized_luma(pixels, geometry.crop, geometry.size, self._interpolation, brightness)
            colored = self._grey[:, :, np.newaxis]
        else:
            target = self._canvas[geometry.target]
            if isinstance(pixels, Planes):
                resized_to_bgr(pixels, geometry.crop, geometry.size, self._interpolation, target)
            else:
                cv2.resize(pixels[geometry.crop], geometry.size, dst=target, interpolation=self._interpolation)
            if color == "rgb":
                cv2.cvtColor(self._canvas, cv2.COLOR_BGR2RGB, dst=colored)
            elif color == "gray":
                cv2.cvtColor(self._canvas, cv2.COLOR_BGR2GRAY, dst=colored[:, :, 0])
            else:
                colored = self._canvas
        if self._flip:
            # p - 128 in two's complement is p with its highest bit flipped
            np.bitwise_xor(colored, 128, out=out[0].view(np.uint8))
        elif self._step is not None:
            raw = out[0].view(np.uint8)
            np.greater_equal(colored, self._step, out=self._stepped)
            np.subtract(colored, self._stepped.view(np.uint8), out=raw)
            np.bitwise_xor(raw, 128, out=raw)
        elif self._identity:
            if not np.may_share_memory(colored, out):
                np.copyto(out[0], colored)
        elif self.tensor.dtype == np.float32 or self.tensor.dtype == np.int8 or self.tensor.dtype == np.uint8:
            cv2.LUT(colored, self._lut, dst=out[0])
        else:
            channel = np.arange(colored.shape[2]) if self._table.shape[1] > 1 else 0
            out[0] = self._table[colored, channel]
        return geometry.placement

    def _scratch_for_steps(self) -> NDArray[np.bool_]:
        """(height, width, channels): the canvas itself, which is in the caches, where nobody needs it once its colours have
        been taken and the next frame writes all of it."""
        spec = self.spec
        shape = (spec.height, spec.width, spec.channels)
        if spec.color == "bgr" or spec.resize == "letterbox":
            return np.empty(shape, np.bool_)
        return self._canvas.reshape(-1)[: math.prod(shape)].view(np.bool_).reshape(shape)

    def _decoded(self, jpeg: Jpeg) -> UInt8Array:
        """In full, or as much smaller as it may be for what it is resized to."""
        if jpeg.shape != self._jpeg_shape:
            self._reduction = self._reduction_of(jpeg)
            self._jpeg_shape = jpeg.shape
        return decode(jpeg, self._reduction)

    def _reduction_of(self, jpeg: Jpeg) -> int:
        if self.spec.interpolation == "nearest":  # of pixels as they are
            return 1
        geometry = self._plan(jpeg)
        rows, columns = geometry.crop
        least_width, least_height = (max(side, MIN_SIDE) for side in geometry.size)
        return reduction(rows.stop - rows.start, columns.stop - columns.start, least_height, least_width)

    def _plan(self, pixels: Picture) -> _Geometry:
        if isinstance(pixels, np.ndarray) and (pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8):
            raise PictureError(
                "not a frame", expected="shape (height, width, 3) uint8", found=f"{pixels.shape} {pixels.dtype}"
            )
        height, width = pixels.shape[:2]
        refuse_small(width, height)
        spec = self.spec
        whole = (slice(0, height), slice(0, width))
        everywhere = (slice(0, spec.height), slice(0, spec.width))
        if spec.resize == "stretch":
            return _Geometry(whole, everywhere, (spec.width, spec.height), Placement(0.0, 0.0, 1.0, 1.0))
        if spec.resize == "letterbox":
            factor = min(spec.width / width, spec.height / height)
            w = min(spec.width, max(1, round(width * factor)))
            h = min(spec.height, max(1, round(height * factor)))
            x = (spec.width - w) // 2
            y = (spec.height - h) // 2
            placement = Placement(x / spec.width, y / spec.height, spec.width / w, spec.height / h)
            return _Geometry(whole, (slice(y, y + h), slice(x, x + w)), (w, h), placement)
        # center-crop: the largest part of the frame with the tensor's aspect ratio
        factor = min(width / spec.width, height / spec.height)
        w = min(width, max(1, round(spec.width * factor)))
        h = min(height, max(1, round(spec.height * factor)))
        x = (width - w) // 2
        y = (height - h) // 2
        # frame = tensor * (w / width) + x / width = (tensor - (-x / w)) * (w / width)
        placement = Placement(-x / w, -y / h, w / width, h / height)
        return _Geometry((slice(y, y + h), slice(x, x + w)), everywhere, (spec.width, spec.height), placement)


def _step(off: Tensor) -> np.uint8 | None:
    """From which pixel on it is -1, where it is 0 before and -1 from there on, in every channel; None where it is not."""
    first = int(np.argmin(off[:, 0]))
    expected = np.where(np.arange(256) < first, 0, -1)[:, None]
    return np.uint8(first) if (off == expected).all() else None


def pixel_table(spec: ImageInput, tensor: TensorSpec) -> Tensor:
    """What each pixel value becomes: (256, 1) or (256, channels) in the tensor's dtype, by the module's arithmetic."""
    mean = np.asarray(spec.mean, np.float64)
    std = np.asarray(spec.std, np.float64)
    real = (np.arange(256, dtype=np.float64)[:, None] - mean) / std
    if tensor.quantised:
        limits = np.iinfo(tensor.dtype.name)
        # the spec's own rounding (TFLite's Quantize op): half away from zero
        steps = real / tensor.scale
        rounded = np.trunc(steps + np.copysign(0.5, steps)) + tensor.zero_point
        table = np.asarray(np.clip(rounded, limits.min, limits.max), tensor.dtype)
        if len(np.unique(table)) < MIN_LEVELS:
            low, high = ((limit - tensor.zero_point) * tensor.scale for limit in (limits.min, limits.max))
            raise ModelError(
                f"input tensor {tensor.name}: (pixel - mean) / std leaves {len(np.unique(table))} of a pixel's 256 values",
                expected=f"numbers over the range of its quantisation, {low:.4g}..{high:.4g}",
                found=f"{real.min():.4g}..{real.max():.4g}", fix="set mean and std, or leave both out",
            )  # fmt: skip
        return table
    if tensor.dtype == np.float32:
        return real.astype(np.float32)
    limits = np.iinfo(tensor.dtype.name)
    if real.min() < limits.min or real.max() > limits.max:
        raise ModelError(
            f"input tensor {tensor.name}: (pixel - mean) / std does not fit its dtype",
            expected=f"{limits.min}..{limits.max} for {tensor.dtype.name}",
            found=f"{real.min():g}..{real.max():g}",
            fix="set mean and std in [input]",
        )
    return np.rint(real).astype(tensor.dtype)
