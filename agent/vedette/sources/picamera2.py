"""CSI cameras of a Raspberry Pi through the Picamera2 library, where it can be imported.

It comes with Raspberry Pi OS (``python3-picamera2``), built against Debian's numpy 1: a virtual environment with numpy 2
cannot import it (raspberrypi/picamera2 issue 1211). ``rpicam://`` reads the same cameras without it.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np

from vedette import clock
from vedette.contract.errors import MissingPackageError, SourceError, SourceLostError, SourceStalledError
from vedette.contract.types import UInt8Array

from .base import Reading
from .camera import camera_number, read_camera_url
from .registry import SourceOptions

KEYS: Final = ("width", "height", "fps")
DEFAULT_SIZE: Final = (640, 480)  # pixels
MAX_AGE_NS: Final = 10_000_000_000  # a sensor's stamp older than this, or in the future, is of another clock


class Picamera2Source:
    """See `vedette.sources.base.Source`. Live: the camera goes on without us."""

    def __init__(self, options: SourceOptions) -> None:
        """``picamera2://0?width=1280&height=720&fps=30``.

        Raises `SourceError` for a malformed URL, `MissingPackageError` where the library cannot be imported.
        """
        place, self._mode = read_camera_url(options, allowed=KEYS)
        self._number = camera_number(place, options.url)
        self._where = f"picamera2://{self._number}"
        if self._mode.width % 2 or self._mode.height % 2:
            raise SourceError(
                "a size that cannot be", where=options.url, expected="an even width and height",
                found=f"{self._mode.width}x{self._mode.height}",
            )  # fmt: skip
        self._read_timeout_s = options.read_timeout_s
        self._open_timeout_s = options.open_timeout_s
        self._library = _import(self._number)
        self._camera: Any = None
        self._started = False

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def endless(self) -> bool:
        """A camera's end is a loss."""
        return True

    def open(self) -> None:
        """Raises `SourceLostError`: a camera that is away or taken may be there later."""
        found = len(self._library.Picamera2.global_camera_info())
        if self._number >= found:
            raise SourceLostError(
                "no such camera", where=self._where, found=f"{found} cameras", fix="rpicam-hello --list-cameras"
            )
        mode = self._mode
        size = (mode.width, mode.height) if mode.width else DEFAULT_SIZE
        try:
            self._camera = self._library.Picamera2(self._number)
            # what Picamera2 calls RGB888 lies in memory as B, G, R
            configuration = self._camera.create_video_configuration(
                main={"size": size, "format": "RGB888"}, controls={"FrameRate": mode.fps} if mode.fps else {}
            )
            self._camera.configure(configuration)
            self._camera.start()
        except (RuntimeError, OSError) as error:
            raise SourceLostError("cannot be opened", where=self._where, found=_root(error)) from None
        self._started = False

    def read(self, into: UInt8Array | None) -> Reading | None:
        """See `Source.read`. ``into`` is not used: the library copies into arrays of its own.

        ``capture_ns`` counts from the sensor's stamp (its first row, CLOCK_BOOTTIME), where there is one.
        """
        timeout_s = self._read_timeout_s if self._started else max(self._open_timeout_s, self._read_timeout_s)
        try:
            request = self._camera.wait(self._camera.capture_request(wait=False), timeout=timeout_s)
        except TimeoutError:
            raise SourceStalledError(f"no frame for {timeout_s:g} s", where=self._where) from None
        except (RuntimeError, OSError) as error:
            raise SourceLostError("broke off", where=self._where, found=_root(error)) from None
        begun = time.perf_counter_ns()
        try:
            stamp = int(request.get_metadata().get("SensorTimestamp", 0))
            age_ns = clock.now_ns() - stamp
            pixels = request.make_array("main")
        finally:
            request.release()
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise SourceLostError(
                "no picture",
                where=self._where,
                expected="(height, width, 3) uint8",
                found=f"{pixels.shape} {pixels.dtype}",
            )
        self._started = True
        waited_ns = age_ns if 0 < age_ns < MAX_AGE_NS else 0
        return Reading(pixels, waited_ns + time.perf_counter_ns() - begun)

    def close(self) -> None:
        """See `Source.close`."""
        if self._camera is not None:
            camera, self._camera = self._camera, None
            camera.close()


def _import(number: int) -> Any:
    way_out = f"or use rpicam://{number}, which needs no Python package and reads the same camera"
    try:
        import picamera2
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "cannot be imported", where="picamera2", found=str(error),
            fix="sudo apt install python3-picamera2, in an environment made with --system-site-packages and numpy<2; "
            + way_out,
        ) from None  # fmt: skip
    except (ImportError, ValueError, AttributeError) as error:
        # ValueError: "numpy.dtype size changed", from an extension that was compiled against numpy 1
        raise MissingPackageError(
            "cannot be imported", where="picamera2", found=str(error),
            fix=f"its compiled parts need Debian's numpy 1, and this is numpy {np.__version__}: pip install 'numpy<2' "
            f"'opencv-python-headless<4.11', {way_out}",
        ) from None  # fmt: skip
    return picamera2


def _root(error: BaseException) -> str:
    """What began it: the library wraps libcamera's own error once or twice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)
