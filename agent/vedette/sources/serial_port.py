"""``serial:///dev/ttyUSB0?baud=115200``: lines from a serial port."""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from vedette.contract.errors import MissingPackageError, SourceError, SourceLostError
from vedette.contract.types import Readings

from .descriptor import READ_BYTES, Gatherer, LineStream
from .lines import LineCutter, LineParser, Tally
from .sensor import SensorOptions, no_readings

MAX_BAUD: Final = 12_000_000  # what the fastest USB bridges claim


class SerialSource:
    """See `vedette.sources.sensor.SensorSource`. pyserial sets the port up; reading is the system's own."""

    def __init__(self, device: str, baud: int, columns: tuple[str, ...], options: SensorOptions) -> None:
        """Raises `MissingPackageError` without pyserial."""
        self._serial = _pyserial()
        self._device = device
        self._baud = baud
        self._columns = columns
        self._channels = options.channels
        self.tally = Tally()
        self._port: Any = None
        self._gatherer = Gatherer()
        self._stream: LineStream

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def endless(self) -> bool:
        """An end is a plug that was pulled."""
        return True

    @property
    def reopens_when_silent(self) -> bool:
        """A device may have to be set up anew."""
        return True

    def open(self) -> None:
        """Raises `SourceLostError`: a device that is not there may be plugged in later."""
        try:
            self._port = self._serial.Serial(self._device, self._baud, timeout=0, exclusive=True)
        except (self._serial.SerialException, OSError) as error:
            number = getattr(error, "errno", None)
            text = os.strerror(number) if number else str(error)
            fix = "add the agent's user to the group that owns it, often dialout" if number == errno.EACCES else ""
            raise SourceLostError("cannot be opened", where=self._device, found=text, fix=fix) from None
        except ValueError as error:
            raise SourceError("the port refuses its settings", where=self._device, found=str(error)) from None
        parser = LineParser(self._channels, self.tally, columns=self._columns)
        self._stream = LineStream(parser, LineCutter(self.tally, joined_midway=True))
        self._gatherer = Gatherer(self._port.fileno())

    def read(self, timeout_s: float) -> Readings | None:
        """See `SensorSource.read`."""
        if not self._gatherer.wait(timeout_s):
            return no_readings(len(self._channels))
        data, end = self._drain()
        if data or not end:
            return self._stream.take(data)  # an end is there the next time, too
        raise SourceLostError("broke off", where=self._device, found=end)

    def close(self) -> None:
        """See `SensorSource.close`."""
        if self._port is not None:
            self._port.close()
            self._port = None
            self._stream.broken()

    def _drain(self) -> tuple[bytes, str]:
        """All that has come; a terminal gives 4095 bytes at a time, however much it holds. And why no more will come."""
        data = b""
        while len(data) < READ_BYTES:
            try:
                piece = os.read(self._port.fileno(), READ_BYTES)
            except BlockingIOError:
                return data, ""
            except OSError as error:
                return data, error.strerror or str(error)
            if not piece:
                # pyserial's settings make "nothing more" look like this; where it could be read, it is the end
                return data, "its end, as when it is unplugged"
            data += piece
        return data, ""


def _pyserial() -> Any:
    try:
        import serial
    except ImportError:
        raise MissingPackageError(
            "pyserial is not installed", expected="it, for serial:// sources", fix="pip install 'vedette[serial]'"
        ) from None
    return serial
