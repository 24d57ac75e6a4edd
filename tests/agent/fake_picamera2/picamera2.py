"""Stands in for the Picamera2 library and a camera, in the few calls that the agent makes: there is no Raspberry Pi here.

Names, arguments and errors are those of the library's sources. A test sets what the camera does in `plan`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

plan: dict[str, Any] = {}
opened: list[Picamera2] = []


class Picamera2:
    """One camera."""

    @staticmethod
    def global_camera_info() -> list[dict[str, Any]]:
        return [{"Model": "imx219", "Num": number} for number in range(plan.get("cameras", 1))]

    def __init__(self, camera_num: int = 0) -> None:
        if "busy" in plan:
            try:
                raise RuntimeError(plan["busy"])
            except RuntimeError as error:
                raise RuntimeError("Camera __init__ sequence did not complete.") from error
        self.number = camera_num
        self.configuration: dict[str, Any] = {}
        self.frames = 0
        self.held = 0
        self.closed = False
        opened.append(self)

    def create_video_configuration(self, main: dict[str, Any], controls: dict[str, Any]) -> dict[str, Any]:
        return {"main": main, "controls": controls}

    def configure(self, configuration: dict[str, Any]) -> None:
        self.configuration = configuration

    def start(self) -> None:
        self.frames = 0

    def capture_request(self, wait: bool) -> str:
        assert wait is False
        return "job"

    def wait(self, job: str, timeout: float) -> Request:
        assert job == "job" and timeout > 0
        self.frames += 1
        if self.frames > plan.get("frames", 1000):
            raise plan["error"]
        self.held += 1
        return Request(self)

    def close(self) -> None:
        self.closed = True


class Request:
    """One frame, held until it is released."""

    def __init__(self, camera: Picamera2) -> None:
        self._camera = camera

    def get_metadata(self) -> dict[str, Any]:
        return {"SensorTimestamp": time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 40_000_000}

    def make_array(self, name: str) -> np.ndarray[Any, Any]:
        main = self._camera.configuration[name]
        width, height = main["size"]
        assert main["format"] == "RGB888"
        return np.full((height, width, plan.get("channels", 3)), self._camera.frames, np.uint8)

    def release(self) -> None:
        self._camera.held -= 1
