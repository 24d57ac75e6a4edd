"""What the demo shows of a camera: boxes as the broker delivers them, and a picture of what is usual."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import median_low
from typing import Any, Final

import numpy as np
from rich.console import RenderableType

from vedette.contract.bgr import in_bgr
from vedette.contract.errors import UserError
from vedette.contract.manifest import ImageInput, task_of
from vedette.contract.types import Detections, UInt8Array
from vedette.models.model import read_model, share_folder
from vedette.mqtt.results import DetectionsMessage
from vedette.pictures.drawing import draw, write_picture
from vedette.sources import SourceOptions, is_program_url, make_source, masked_url
from vedette.sources.registry import Pace

from .listener import Heard
from .performance import temporary_picture
from .view import live, plain_line

CLIP: Final = "people-walking.mp4"
MODEL: Final = "coco-ssdlite-mobilenet-v2"
MAX_SEEK: Final = 20_000  # frames; to find the frame of the picture again


class SeenFrames(Heard):
    """What has been delivered of a detector."""

    def __init__(self) -> None:
        super().__init__({"detections": DetectionsMessage})
        self.labels: Counter[str] = Counter()
        self.newest: DetectionsMessage | None = None
        self._frames: Counter[int] = Counter()  # by how many objects they have; those without any aside
        self._surest: dict[int, DetectionsMessage] = {}  # of the frames with so many objects

    def note(self, topic: str, value: Any) -> None:
        """See `Heard.note`."""
        super().note(topic, value)
        if isinstance(value, DetectionsMessage):
            self.newest = value
            self.labels.update(o.label for o in value.objects)
            if count := len(value.objects):
                self._frames[count] += 1
                if count not in self._surest or _least(value) > _least(self._surest[count]):
                    self._surest[count] = value

    @property
    def picked(self) -> DetectionsMessage | None:
        """The frame to show: of those with as many objects as the median frame or more, the one in which the object that
        is least sure is surest. More objects, or higher scores in all, would pick a frame for its false ones."""
        if not self._frames:
            return None
        usual = median_low(self._frames.elements())
        return max((message for count, message in self._surest.items() if count >= usual), key=_least)


class CameraShow:
    """See `vedette.demo.performance.Show`."""

    pipeline = "clip"

    def __init__(self, *, model: str = MODEL, source: str | None, pace: Pace, picture: Path | None) -> None:
        """Raises `UserError` where the model or the source cannot be."""
        self.spec = read_model(model)
        if not isinstance(self.spec.input, ImageInput) or task_of(self.spec.output) != "detect":
            raise UserError(
                f"{self.spec.name} is nothing for this demo", expected="a detector of objects in pictures",
                fix="--sensor is for models of readings",
            )  # fmt: skip
        self.heard = SeenFrames()
        self._url = source or str(share_folder("media") / CLIP)
        self._pace = pace
        self._picture = picture
        opened = make_source(SourceOptions(self._url))
        if not _goes_on(self._url):
            opened.open()  # a file that is not there is said now, not by the agent
            opened.close()

    @property
    def source(self) -> str:
        """See `Show.source`."""
        return masked_url(self._url)

    def source_table(self) -> str:
        """See `Show.source_table`."""
        known = "://" in self._url or is_program_url(self._url)
        url = self._url if known else str(Path(self._url).resolve())
        return f"url = {json.dumps(url, ensure_ascii=False)}\nloop = true\npace = {json.dumps(self._pace)}\n"

    def live(self, broker: str, seconds_left: float, size: tuple[int, int]) -> RenderableType:
        """See `Show.live`."""
        heard = self.heard
        return live(heard, heard.newest, broker, seconds_left, size[0])

    def lines(self) -> list[str]:
        """See `Show.lines`."""
        return [plain_line(self.heard, self.heard.newest)]

    def summary(self, seconds: float) -> list[str]:
        """See `Show.summary`."""
        heard = self.heard
        labels = ", ".join(f"{label} {count}" for label, count in heard.labels.most_common(5)) or "nothing"
        per_second = heard.inferred / seconds if seconds else 0.0
        return [f"{heard.inferred} frames seen in {seconds:.1f} s ({per_second:.1f} a second)", f"found: {labels}"]

    def document(self, seconds: float) -> dict[str, Any]:
        """See `Show.document`."""
        heard = self.heard
        return {
            "frames": heard.samples,
            "fps": round(heard.inferred / seconds, 2) if seconds else 0.0,
            "labels": dict(heard.labels.most_common()),
        }

    def picture(self) -> Path | None:
        """Draws the picked message upon its very frame."""
        picked = self.heard.picked
        if picked is None:
            return None
        pixels = self._frame(picked)
        if pixels is None:
            return None
        found = Detections(
            np.array([o.box for o in picked.objects], np.float32).reshape(-1, 4),
            np.array([o.score for o in picked.objects], np.float32),
            np.array([o.class_id for o in picked.objects], np.int32),
        )
        path = self._picture or temporary_picture("vedette-demo", ".jpg")
        write_picture(path, draw(pixels, found, self.spec.labels))
        return path.resolve()

    def _frame(self, message: DetectionsMessage) -> UInt8Array | None:
        """Reads a file's frame once more: its seq counts frames, from 1, round after round. None for a camera."""
        if _goes_on(self._url):
            return None
        source = make_source(SourceOptions(self._url, pace="max"))
        source.open()
        frames = 0
        while source.read(None) is not None and frames < MAX_SEEK:
            frames += 1
        source.close()
        wanted = (message.frame.seq - 1) % frames
        source.open()
        for _ in range(wanted):
            source.read(None)
        reading = source.read(None)
        source.close()
        return in_bgr(reading.pixels) if reading else None


def _goes_on(url: str) -> bool:
    """Whether it is a camera: a frame of a file can be read again."""
    return is_program_url(url) or ("://" in url and not url.startswith(("file://", "images://")))


def _least(message: DetectionsMessage) -> float:
    return min(o.score for o in message.objects)
