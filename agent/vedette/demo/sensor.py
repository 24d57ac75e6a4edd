"""What the demo shows of a sensor: the readings of a recording beside what the broker delivers of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote

import msgspec
from rich.console import RenderableType

from vedette.contract.errors import UserError
from vedette.contract.manifest import SeriesInput, task_of
from vedette.models.model import read_model, share_folder
from vedette.pictures.drawing import write_picture
from vedette.sources import SensorOptions, is_sensor_url, make_sensor_source, masked_url
from vedette.sources.registry import Pace
from vedette.sources.sensor_urls import MAX_SPEED

from .performance import START_S, temporary_picture
from .plot import plot
from .recording import Recording, read_whole
from .seen import SeenEvent, SeenWindows
from .sensor_view import Moment, live, plain_line

RECORDING: Final = "shoulder-exercises.csv"
MODEL: Final = "watch-activity"
TOLD: Final = 8  # events in the summary
EVERY_S: Final = 0.5  # between two states


class SensorShow:
    """See `vedette.demo.performance.Show`."""

    pipeline = "sensor"

    def __init__(
        self, *, model: str, source: str | None, pace: Pace, speed: float | None, seconds: float, picture: Path | None
    ) -> None:
        """``speed``: of a recording; None: as fast as it takes to show all of it in ``seconds``, and at least its own.

        Raises `UserError` where the model or the source cannot be.
        """
        self.spec = read_model(model)
        if not isinstance(self.spec.input, SeriesInput):
            raise UserError(f"{self.spec.name} takes pictures", fix="leave --sensor out, or name a model of readings")
        self._series = self.spec.input
        self.heard = SeenWindows(self.spec)
        self._pace = pace
        self._picture = picture
        self._told = 0  # events, as lines
        self._url = _as_url(source or str(share_folder("media") / RECORDING))
        self._recording = self._read()
        self._speed = 1.0
        if self._recording is not None and pace == "native":
            self._speed = self._chosen_speed(speed, seconds, self._recording)
            self._url = _with_speed(self._url, self._speed)
        elif speed is not None:
            raise UserError("--speed", expected="a recording with times, at its native pace", found=self.source)

    @property
    def source(self) -> str:
        """See `Show.source`."""
        return masked_url(self._url)

    def source_table(self) -> str:
        """See `Show.source_table`."""
        lines = f"url = {json.dumps(self._url, ensure_ascii=False)}\nloop = true\npace = {json.dumps(self._pace)}\n"
        if task_of(self.spec.output) != "regress":
            lines += f"[pipeline.{self.pipeline}.steady]\nevery_s = {EVERY_S}\n"
        return lines

    def live(self, broker: str, seconds_left: float, size: tuple[int, int]) -> RenderableType:
        """See `Show.live`."""
        return live(self._moment, broker, seconds_left, size)

    def lines(self) -> list[str]:
        """See `Show.lines`."""
        new = self.heard.events - self._told
        self._told = self.heard.events
        events = [self._line(event) for event in list(self.heard.round.events)[-new:]] if new else []
        return [*events, plain_line(self._moment)]

    def summary(self, seconds: float) -> list[str]:
        """See `Show.summary`."""
        heard = self.heard
        lines = [f"{heard.inferred} windows seen in {seconds:.1f} s"]
        if heard.stats is not None and (sensor := heard.stats.sensor) is not None:
            malformed = sum(sensor.malformed.values())
            lines.append(
                f"readings: {sensor.readings}, {sensor.gaps} gaps, {sensor.late} late, {malformed} malformed"
                + (f"; {self._speed:g} times as fast as made" if self._speed != 1.0 else "")
            )
        events = list(heard.first.events)
        lines += ["events:" if events else "no events", *(f"  {self._line(event)}" for event in events[:TOLD])]
        if heard.events > min(TOLD, len(events)):
            lines.append(f"  and {heard.events - min(TOLD, len(events))} more")
        return lines

    def document(self, seconds: float) -> dict[str, Any]:
        """See `Show.document`."""
        heard = self.heard
        moment = self._moment
        sensor = heard.stats.sensor if heard.stats else None
        return {
            "windows": heard.samples,
            "windows_per_s": round(heard.inferred / seconds, 2) if seconds else 0.0,
            "speed": self._speed,
            "sensor": msgspec.to_builtins(sensor),
            "events": [
                {"kind": event.kind, "holds": event.held, "at_s": moment.seconds(event)} for event in heard.first.events
            ],
            "state": msgspec.to_builtins(heard.state),
        }

    def picture(self) -> Path | None:
        """Draws the recording, once through, and what was delivered of it."""
        if self._recording is None or not self.heard.first.windows:
            return None
        path = self._picture or temporary_picture("vedette-demo-sensor", ".png")
        write_picture(path, plot(self._moment, self.heard.first, self._recording))
        return path.resolve()

    @property
    def _moment(self) -> Moment:
        return Moment(self.heard, self.spec, self._series, self._recording, self._speed)

    def _line(self, event: SeenEvent) -> str:
        return f"{self._moment.clock(event):>9}  {event.text}"

    def _read(self) -> Recording | None:
        """What is wrong with a recording is said now, not by the agent; a sensor is left to it."""
        if not is_sensor_url(self._url):
            raise UserError("--source", expected="a sensor's URL, or a .csv or .ndjson file", found=self.source)
        channels = tuple(channel.name for channel in self._series.channels)
        source = make_sensor_source(SensorOptions(self._url, channels, pace=self._pace))
        if source.endless:
            return None
        source.open()
        source.close()
        return read_whole(SensorOptions(self._url, channels, pace="max"))

    def _chosen_speed(self, asked: float | None, seconds: float, recording: Recording) -> float:
        if asked is not None:
            if not 0.01 <= asked <= MAX_SPEED:
                raise UserError("--speed", expected=f"0.01 to {MAX_SPEED:g}", found=f"{asked:g}")
            return asked
        if stated := parse_qs(self._url.partition("?")[2]).get("speed"):
            return float(stated[0])
        needed = recording.seconds / max(1.0, seconds - START_S)
        return min(MAX_SPEED, max(1.0, math.ceil(needed * 2) / 2))


def _as_url(source: str) -> str:
    """A file as the URL that says the same."""
    suffix = Path(source).suffix.lower()
    if "://" in source or source[:5].lower() == "exec:" or suffix not in (".csv", ".ndjson", ".jsonl"):
        return source
    return f"{'csv' if suffix == '.csv' else 'ndjson'}://{quote(str(Path(source).resolve()))}"


def _with_speed(url: str, speed: float) -> str:
    place, _, query = url.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith("speed=")]
    return f"{place}?{'&'.join([*kept, f'speed={speed:.10g}'])}"
