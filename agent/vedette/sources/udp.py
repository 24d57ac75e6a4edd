"""``udp://127.0.0.1:9000``: datagrams of one or more lines."""

from __future__ import annotations

import logging
import socket
import struct
from typing import Final

from vedette import clock
from vedette.contract.errors import SourceLostError
from vedette.contract.types import Readings

from .descriptor import MOST_BYTES, Gatherer
from .lines import LineParser, Tally
from .sensor import Arrivals, SensorOptions, no_readings

log = logging.getLogger(__name__)

BUFFER_BYTES: Final = 4 << 20  # asked for; the system may give less (net.core.rmem_max)
DATAGRAMS: Final = 4096  # read at once at most
_DATAGRAM_BYTES: Final = 65_535
_SO_MEMINFO: Final = 55  # asm-generic/socket.h, Linux 4.12
_MEMINFO: Final = struct.Struct("9I")  # linux/sock_diag.h; the last is SK_MEMINFO_DROPS


class UdpSource:
    """See `vedette.sources.sensor.SensorSource`. What the kernel drops for want of room is counted as lost."""

    def __init__(self, host: str, port: int, columns: tuple[str, ...], options: SensorOptions) -> None:
        self._host = host
        self._port = port
        self._columns = columns
        self._channels = options.channels
        self.tally = Tally()
        self._socket: socket.socket | None = None
        self._gatherer = Gatherer()
        self._parser: LineParser
        self._arrivals = Arrivals()
        self._lost_before = 0

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def endless(self) -> bool:
        """A socket has no end."""
        return True

    @property
    def reopens_when_silent(self) -> bool:
        """A new socket hears no more than this one."""
        return False

    def open(self) -> None:
        """Raises `SourceLostError` where the address cannot be bound: its network may come up later."""
        where = f"udp {self._host}:{self._port}"
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            self._socket.bind(address)
        except OSError as error:
            self.close()
            raise SourceLostError("cannot listen", where=where, found=error.strerror or str(error)) from None
        self._socket.setblocking(False)
        self._lost_before = self.tally.lost
        self._arrivals = Arrivals()
        self._parser = LineParser(self._channels, self.tally, columns=self._columns)
        self._gatherer = Gatherer(self._socket.fileno())

    def read(self, timeout_s: float) -> Readings | None:
        """See `SensorSource.read`."""
        assert self._socket is not None
        if not self._gatherer.wait(timeout_s):
            self._count_lost()
            return no_readings(len(self._channels))
        receive = self._socket.recv
        datagrams: list[bytes] = []
        size = 0
        try:
            while len(datagrams) < DATAGRAMS and size < MOST_BYTES:
                datagrams.append(receive(_DATAGRAM_BYTES))
                size += len(datagrams[-1])
        except BlockingIOError:
            pass  # all of them
        except OSError as error:
            raise SourceLostError("broke off", where=f"udp {self._host}", found=error.strerror or str(error)) from None
        self._count_lost()
        lines = b"".join([d if d.endswith(b"\n") else d + b"\n" for d in datagrams])
        return self._arrivals.readings(self._parser.parse(lines), clock.now_ns())

    def close(self) -> None:
        """See `SensorSource.close`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _count_lost(self) -> None:
        assert self._socket is not None
        try:
            drops = _MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[-1]
        except OSError as error:
            log.debug("the system does not say what it drops: %s", error)
            return
        lost = self._lost_before + drops
        if lost > self.tally.lost and self.tally.lost == 0:
            log.warning("udp %s:%d: datagrams come faster than they are read; the losses are counted", self._host,
                        self._port)  # fmt: skip
        self.tally.lost = lost
