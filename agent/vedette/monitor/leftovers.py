"""What a broker still keeps of pipelines that their agent has no more."""

from __future__ import annotations

from typing import Final

import msgspec

from .place import PIPELINE_TOPICS, Place

MAX_PIPELINES: Final = 4096  # of all devices; those beyond are not looked after


class Leftovers:
    """Belongs to the listening thread. Status and retained messages may come in any order."""

    def __init__(self) -> None:
        self._has: dict[str, list[str]] = {}  # the pipelines of each device, by its status
        self._kept: dict[tuple[str, str], bool] = {}  # device and pipeline of what is retained; whether it was told

    def note(self, place: Place, payload: bytes, *, retained: bool) -> list[Place]:
        """Takes a message; the pipelines that have just been found to be gone, each once."""
        if place.name == "status":
            try:
                self._has[place.device] = msgspec.json.decode(payload, type=_Status).pipelines
            except (ValueError, RecursionError):
                return []  # its line says so
            asked = [key for key in self._kept if key[0] == place.device]
        elif retained and payload and place.name in PIPELINE_TOPICS and len(self._kept) < MAX_PIPELINES:
            asked = [(place.device, place.pipeline)]
            self._kept.setdefault(asked[0], False)
        else:
            return []
        has = self._has.get(place.device)
        gone = [key for key in asked if has is not None and key[1] not in has and not self._kept[key]]
        for key in gone:
            self._kept[key] = True
        return [Place(*key, "") for key in gone]


class _Status(msgspec.Struct, frozen=True):
    pipelines: list[str]
