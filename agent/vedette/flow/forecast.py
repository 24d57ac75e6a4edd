"""When the engine will be free again, by how long things took of late: so that samples are taken neither late nor early."""

from __future__ import annotations

from typing import Final

EARLY_NS: Final = 300_000  # how much before the engine is free a camera's frame should be ready
PATIENCE: Final = 1 / 16  # of an inference, for which the engine may be kept waiting for a camera's next frame
LEISURE: Final = 2.0  # times all that a sample takes, from one to the next, from which on one thread does it all
AVERAGING: Final = 0.2  # weight of the newest time in a moving average


class Forecast:
    """Of one pipeline. Times are nanoseconds, at CLOCK_BOOTTIME; each step's are told by one thread at a time, and read by
    any."""

    def __init__(self) -> None:
        self._free_ns = 0
        self._prepare_ns = 0.0
        self._infer_ns = 0.0
        self._report_ns = 0.0

    def forget(self) -> None:
        """Everything: another model comes."""
        self._free_ns = 0
        self._prepare_ns = self._infer_ns = self._report_ns = 0.0

    def prepared(self, took_ns: float) -> None:
        """A sample was put into the input tensor."""
        self._prepare_ns = _averaged(self._prepare_ns, took_ns)

    def inferred(self, took_ns: float) -> None:
        """The engine ran."""
        self._infer_ns = _averaged(self._infer_ns, took_ns)

    def reported(self, took_ns: float) -> None:
        """A result was decoded and told."""
        self._report_ns = _averaged(self._report_ns, took_ns)

    def begins(self, at_ns: int, turns: float) -> None:
        """An inference begins then, or when the one before it ends; after so many it is this pipeline's turn again.

        Told when it does, and already when it is submitted: the time at which the engine will be free would until then be
        that of the inference before, and a frame taken for it an inference too early.
        """
        self._free_ns = at_ns + int(self._infer_ns * turns)

    def begins_next(self, now_ns: int, turns: float) -> None:
        """As `begins`, as soon as the engine is free."""
        self.begins(max(self._free_ns, now_ns), turns)

    @property
    def take_ns(self) -> int:
        """When to take the next sample, if the engine is not to wait for it."""
        return self._free_ns - int(self._prepare_ns) - EARLY_NS

    @property
    def patience_ns(self) -> int:
        """How long the engine may wait for a newer frame than the one that is there."""
        return int(PATIENCE * self._infer_ns)

    def is_leisure(self, since_ns: int) -> bool:
        """Whether so long from one sample to the next leaves time to do all of it before another one comes."""
        return bool(self._infer_ns) and since_ns >= LEISURE * (self._prepare_ns + self._infer_ns + self._report_ns)


def _averaged(average: float, newest: float) -> float:
    """The moving average with one more value, which is all of it where there was none: it is believed from the first on."""
    return average + (newest - average) * AVERAGING if average else newest
