"""`cv2.VideoCapture` with its odd corners filed off: one place that knows its properties."""

from __future__ import annotations

import os
import threading

import cv2
import numpy as np

from vedette.contract.types import UInt8Array

_environment = threading.Lock()  # FFmpeg's options go through an environment variable that is read while opening


def open_capture(
    url: str, *, ffmpeg_options: str = "", open_timeout_s: float = 10.0, read_timeout_s: float = 5.0
) -> cv2.VideoCapture | None:
    """Opens with FFmpeg, one decoding thread. None when it cannot be opened, which is all that OpenCV says."""
    parameters = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(open_timeout_s * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(read_timeout_s * 1000),
        cv2.CAP_PROP_N_THREADS, 1,
    ]  # fmt: skip
    with _environment:
        before = os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS")
        if ffmpeg_options:
            os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = ffmpeg_options
        try:
            capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, parameters)
        finally:
            if before is not None:
                os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = before
            else:
                os.environ.pop("OPENCV_FFMPEG_CAPTURE_OPTIONS", None)
    if not capture.isOpened():
        capture.release()
        return None
    return capture


def retrieve(capture: cv2.VideoCapture, into: UInt8Array | None) -> UInt8Array | None:
    """The grabbed frame, (height, width, 3) uint8 BGR, in ``into`` where it fits; None when decoding failed."""
    try:
        ok, pixels = capture.retrieve(into) if into is not None else capture.retrieve()
    except cv2.error:
        return None
    if not ok or pixels is None or pixels.ndim != 3:
        return None
    return np.asarray(pixels, np.uint8)
