"""How hot the board is, beside what it bears: read from /sys, for `vedette.flow.governor`.

What a zone bears is its least passive trip point, from which on the kernel slows something down to cool it (Linux,
Documentation/driver-api/thermal/sysfs-api.rst), less `MARGIN`, so that the agent gives way before the clock does. A
Raspberry Pi has none, for its firmware does that, from 80 °C on (Raspberry Pi documentation, "Frequency management and
thermal control").
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vedette.flow.governor import Heat
from vedette.sysfs import matching, text

from .health import PLATFORM, THROTTLED_FILES, celsius, read_throttled, throttled_words

MARGIN: Final = 3.0  # degrees Celsius below the point from which on the kernel slows the processor down
PI_CELSIUS: Final = 80.0
PLAUSIBLE: Final = (40.0, 120.0)  # of trip points: those that can be set stand at 0 or below until somebody does
HELD_BACK: Final = 0b110
"""Of the firmware's bits: a clock that is capped or throttled, for heat or for too little voltage. The soft limit of a Pi
3B+ is not one of them: it takes a seventh of the clock from 60 °C on, and that is all that need be done about it."""
UNDER_VOLTAGE: Final = 0b001


class Thermometer:
    """The board's temperatures, each beside its limit. Owned by one thread."""

    def __init__(self, max_celsius: float = 0.0, root: Path = Path("/")) -> None:
        """``max_celsius``: the limit of every zone; 0: of each what it says itself. ``root``: where /proc and /sys are."""
        self._flags = matching(root / PLATFORM.relative_to("/"), THROTTLED_FILES)
        self._zones = [
            (zone / "temp", limit)
            for zone in matching(root / "sys/class/thermal", "thermal_zone*")
            if (limit := max_celsius or _limit(zone, root)) is not None
        ]

    def read(self) -> Heat:
        """As it is now. What cannot be read now, is left out."""
        readings = [(heat, limit) for file, limit in self._zones if (heat := celsius(file)) is not None]
        hottest, limit = max(readings, key=lambda reading: reading[0] - reading[1], default=(None, None))
        bits = read_throttled(self._flags) or 0
        bits = bits & (HELD_BACK | UNDER_VOLTAGE) if bits & HELD_BACK else 0
        return Heat(hottest, limit, ", ".join(words.removesuffix(" now") for words in throttled_words(bits)))


def _limit(zone: Path, root: Path) -> float | None:
    """What a zone bears; None where nobody says it."""
    trips = []
    for kind in matching(zone, "trip_point_*_type"):
        if text(kind) == "passive":
            trip = celsius(kind.with_name(kind.name.removesuffix("type") + "temp"))
            if trip is not None and PLAUSIBLE[0] <= trip <= PLAUSIBLE[1]:
                trips.append(trip)
    if trips:
        return min(trips) - MARGIN
    return PI_CELSIUS if "raspberrypi," in text(root / "proc/device-tree/compatible") else None
