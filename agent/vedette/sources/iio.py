"""``iio:///sys/bus/iio/devices/iio:device0``: a sensor of Linux's industrial I/O subsystem, polled through sysfs.

A value is ``(raw + offset) * scale`` (Documentation/ABI/testing/sysfs-bus-iio), in the units that the kernel states for
the kind of channel: m/s2, rad/s, milli degrees. Channels are called as their files are, ``in_accel_x_raw`` is
``accel_x``. The buffered character device, which wants a trigger set up for it, is not read; polling reaches what the
bus does, some hundreds of readings a second over I2C.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import numpy as np

from vedette import clock
from vedette.contract.errors import SourceError, SourceLostError
from vedette.contract.types import Readings

from .lines import Tally
from .sensor import SensorOptions

BATCH_S: Final = 0.02  # how long readings are gathered before they are handed on
MAX_RATE_HZ: Final = 10_000.0
_LEAST_RATE_HZ: Final = 0.001
_VALUE_BYTES: Final = 64
_LARGEST: Final = float(np.finfo(np.float32).max)


class IioSource:
    """See `vedette.sources.sensor.SensorSource`. Readings are timed: by CLOCK_BOOTTIME as each was begun."""

    def __init__(self, folder: Path, channels: tuple[str, ...], rate_hz: float | None, options: SensorOptions) -> None:
        """``channels``: the device's own names for what the model wants, in the model's order. ``rate_hz``: None for the
        device's ``sampling_frequency``, or else what the options say.
        """
        self._folder = folder
        self._channels = channels
        self._rate_hz = rate_hz
        self._options = options
        self.tally = Tally()
        self._files: list[int] = []
        self._scale = self._offset = np.empty(0)
        self._interval_ns = 0
        self._due_ns = 0
        self._lost: SourceLostError | None = None  # what ended the last read, which had readings to hand on first

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def endless(self) -> bool:
        """An end is a device that is gone."""
        return True

    @property
    def reopens_when_silent(self) -> bool:
        """A driver may have been loaded anew."""
        return True

    def open(self) -> None:
        """Raises `SourceLostError` where the device is not there, `SourceError` where it lacks a channel or a rate."""
        if not self._folder.is_dir():
            raise SourceLostError("no such device", where=self._folder, expected="a folder with in_*_raw files")
        scales, offsets = [], []
        for channel in self._channels:
            raw = self._folder / f"in_{channel}_raw"
            processed = self._folder / f"in_{channel}_input"
            if not raw.exists() and not processed.exists():
                self.close()
                there = ", ".join(_channels(self._folder)) or "none"
                raise SourceError(
                    "no such channel", where=self._folder, expected=channel, found=there,
                    fix="name them in the model's order with ?channels=accel_x,accel_y,...",
                )  # fmt: skip
            self._files.append(self._open(raw if raw.exists() else processed))
            scales.append(self._attribute(channel, "scale", 1.0) if raw.exists() else 1.0)
            offsets.append(self._attribute(channel, "offset", 0.0) if raw.exists() else 0.0)
        self._scale, self._offset = np.array(scales), np.array(offsets)
        rate = self._rate_hz or self._attribute(self._channels[0], "sampling_frequency", 0.0) or self._options.rate_hz
        if not rate or rate < _LEAST_RATE_HZ:
            self.close()
            raise SourceError(
                "no rate", where=self._folder, expected=f"a sampling_frequency of {_LEAST_RATE_HZ:g} or more",
                found=f"{rate or 0:g}", fix="add ?rate=HZ to the URL",
            )  # fmt: skip
        self._interval_ns = round(1e9 / min(rate, MAX_RATE_HZ))
        self._due_ns = 0
        self._lost = None

    def read(self, timeout_s: float) -> Readings | None:
        """See `SensorSource.read`."""
        if self._lost is not None:
            raise self._lost
        rows: list[list[float]] = []
        times: list[int] = []
        now = clock.now_ns()
        until_ns, deadline_ns = now + int(BATCH_S * 1e9), now + int(timeout_s * 1e9)
        while True:
            if now - self._due_ns > 1_000_000_000:
                self._due_ns = now  # the first one; or much too late, and what was missed is not made up for
            limit_ns = until_ns if rows else deadline_ns
            if self._due_ns > limit_ns:
                time.sleep(0 if rows else max(0, limit_ns - now) / 1e9)
                break
            time.sleep(max(0, self._due_ns - now) / 1e9)
            self._due_ns += self._interval_ns
            begun = clock.now_ns()
            try:
                row = self._poll()
            except SourceLostError as error:
                if not rows:
                    raise
                self._lost = error
                break
            if row is not None:
                rows.append(row)
                times.append(begun)
            now = clock.now_ns()
            if now >= until_ns:
                break
        values = (np.array(rows, np.float64).reshape(len(rows), len(self._channels)) + self._offset) * self._scale
        good = (np.abs(values) <= _LARGEST).all(axis=1)
        for row in values[~good]:  # a scale that is none of this device's
            self.tally.refuse("not_finite", ",".join(map(str, row)).encode())
        return Readings(values[good].astype(np.float32), np.array(times, np.int64)[good], clock.now_ns(), True)

    def close(self) -> None:
        """See `SensorSource.close`."""
        for descriptor in self._files:
            os.close(descriptor)
        self._files = []

    def _poll(self) -> list[float] | None:
        row = []
        for descriptor in self._files:
            try:
                text = os.pread(descriptor, _VALUE_BYTES, 0)
            except OSError as error:
                raise SourceLostError("cannot be read", where=self._folder, found=error.strerror) from None
            try:
                value = float(text)
            except ValueError:
                self.tally.refuse("not_a_number", text)
                return None
            if not abs(value) < 1e30:
                self.tally.refuse("not_finite", text)
                return None
            row.append(value)
        return row

    def _open(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise SourceLostError("cannot be opened", where=path, found=error.strerror) from None

    def _attribute(self, channel: str, name: str, default: float) -> float:
        """The channel's own, or that of its kind (``in_accel_scale``), or the device's."""
        kind = channel
        candidates = []
        while kind:
            candidates += [f"in_{kind}_{name}", f"in_{kind.rstrip('0123456789')}_{name}"]
            kind = kind.rpartition("_")[0]
        for candidate in (*candidates, name):
            path = self._folder / candidate
            try:
                value = float(path.read_bytes()[:_VALUE_BYTES])
                if not abs(value) <= _LARGEST:
                    raise ValueError(f"{value}")
                return value
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                self.close()
                raise SourceLostError("cannot be read", where=path, expected="a number", found=str(error)) from None
        return default


def _channels(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir() if path.name.startswith("in_")]
    return sorted({name[3:].rpartition("_")[0] for name in names if name.endswith(("_raw", "_input"))})
