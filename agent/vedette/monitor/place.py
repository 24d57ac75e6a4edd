"""Whose message it is and what it is about, by its topic; and which topics to ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

DEVICE_TOPICS: Final = ("status", "health", "ledger")
PIPELINE_TOPICS: Final = ("detections", "events", "state", "stats", "model", "settings", "snapshot")
EXCHANGE: Final = ("cmd", "reply")  # followed by a name, or an id
TOPICS: Final = (*DEVICE_TOPICS, *PIPELINE_TOPICS, *EXCHANGE)
MAX_NAME: Final = 64  # characters of a device's or a pipeline's name


@dataclass(frozen=True, slots=True)
class Place:
    """``pipeline``: empty of what concerns the whole device. ``name``: the topic. ``detail``: a command's name, a reply's
    id."""

    device: str
    pipeline: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.device}/{self.pipeline}" if self.pipeline else self.device


def place_of(topic: str, root: str) -> Place | None:
    """None of what is no agent's topic."""
    if not topic.startswith(f"{root}/"):
        return None
    levels = topic[len(root) + 1 :].split("/")
    if not all(levels) or any(len(level) > MAX_NAME for level in levels[:2]):
        return None
    match levels:
        case [device, name] if name in DEVICE_TOPICS:
            return Place(device, "", name)
        case [device, name, detail] if name in EXCHANGE:
            return Place(device, "", name, detail)
        case [device, pipeline, name]:
            return Place(device, pipeline, name)
    return None


def filters(root: str, *, device: str = "", pipeline: str = "", topics: Sequence[str] = ()) -> list[str]:
    """Topic filters of which no two match the same topic, so that nothing comes twice. Empty: all of them."""
    base = f"{root}/{device or '+'}"
    if not topics:
        return [f"{base}/{pipeline}/#" if pipeline else f"{base}/#"]
    found = []
    for topic in dict.fromkeys(topics):
        if topic in EXCHANGE:
            found.append(f"{base}/{topic}/+")
        else:
            found.append(f"{base}/{topic}" if topic in DEVICE_TOPICS else f"{base}/{pipeline or '+'}/{topic}")
    return found
