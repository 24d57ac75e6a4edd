"""One run: what is asked for, and where it is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vedette.contract.manifest import ImageInput, SsdAnchors, SsdOutput
from vedette.engine import Runtime, TfliteEngine

from .. import quantise
from ..progress import Progress
from ..zoo import ssdlite
from .teacher import Teacher
from .wanted import Wanted


@dataclass(frozen=True, slots=True)
class Room:
    """See the module."""

    wanted: Wanted
    teacher: Teacher
    size: tuple[int, int]
    folder: Path
    runtime: Runtime
    progress: Progress

    @property
    def input(self) -> ImageInput:
        """Of the small network."""
        return msgspec.structs.replace(self.teacher.input, height=self.size[0], width=self.size[1])

    @property
    def anchors(self) -> SsdAnchors:
        """Of the small network."""
        return msgspec.structs.replace(self.teacher.anchors, feature_maps=ssdlite.feature_maps(*self.size))

    @property
    def output(self) -> SsdOutput:
        """Of the small network."""
        return msgspec.structs.replace(self.teacher.output, anchors=self.anchors)

    def engine(self, flatbuffer: bytes, name: str, threads: int = 1) -> TfliteEngine:
        """A flatbuffer in an engine, proved."""
        path = self.folder / f"{name}.tflite"
        path.write_bytes(flatbuffer)
        return quantise.load_proven(path, self.runtime, threads=threads)


def cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))
