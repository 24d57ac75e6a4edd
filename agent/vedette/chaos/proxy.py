"""A TCP proxy that does to connections what networks do: cut, reset, refuse, stall, swallow, delay, lose.

What a lost packet looks like to whoever uses TCP is a pause until it is sent again: the retransmission timeout, which is
0.2 s at least on Linux and doubles with each loss in a row (RFC 6298, section 5.5). That is what ``loss`` makes of it.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from vedette.contract.errors import FaultError
from vedette.demo.broker import LOOPBACK

SEGMENT: Final = 1460  # bytes; what Ethernet's packets carry of a TCP stream
QUEUE_BYTES: Final = 256 * 1024  # on their way in one direction; whoever sends more has to wait
RETRANSMIT_S: Final = (0.2, 3.2)  # the first timeout, and the longest
_IDLE_S: Final = 1.0
_RST: Final = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: close(2) resets


@dataclass(frozen=True, slots=True)
class Conditions:
    """What becomes of bytes, in both directions.

    ``refused``: connections are reset and new ones refused, as where nobody listens. ``silent``: nothing goes through, and
    nothing is closed. ``swallowed``: everything is taken and nothing passed on; such a connection is reset when this ends.
    ``delay_s``: how much later they arrive. ``loss``: share of the packets that have to be sent again, 0 to below 1.
    """

    refused: bool = False
    silent: bool = False
    swallowed: bool = False
    delay_s: float = 0.0
    loss: float = 0.0


class _Way:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.queue: deque[tuple[float, bytes]] = deque()  # when each may go on
        self.bytes = 0
        self.ended = False  # the source sends no more
        self.passed_on = False  # and the target knows it


@dataclass(slots=True, eq=False)
class _Pair:
    ways: tuple[_Way, _Way]
    swallowed: bool = False

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.ways[0].source, self.ways[0].target


class Proxy:
    """Listens on loopback and hands on to ``host:port``. A context; its methods may be called by any thread, and what they
    ask for is done when they return. ``connections``: how many were taken since the start."""

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        """Raises `OSError` where the host is not known."""
        self._address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._random = random.Random(seed)
        self._conditions = Conditions()
        self._pairs: list[_Pair] = []
        self.connections = 0
        self._asked: SimpleQueue[tuple[Callable[[], None], threading.Event]] = SimpleQueue()
        self._stopped = False
        # keeps the port while nobody listens on it: a socket that is bound alone refuses
        self._reserved = _bound(0)
        self.port = int(self._reserved.getsockname()[1])
        self._listener: socket.socket | None = None
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop)
        self._thread.join()
        for sock in (self._wake, self._woken, self._reserved):
            sock.close()

    def become(self, conditions: Conditions) -> None:
        """From now on it is like this."""
        self._do(lambda: self._become(conditions))

    def heal(self) -> None:
        """From now on all is well."""
        self.become(Conditions())

    def cut(self) -> None:
        """Ends every connection in good order (FIN); new ones are taken."""
        self._do(lambda: self._drop_all(reset=False))

    def reset(self) -> None:
        """Ends every connection with a reset (RST); new ones are taken."""
        self._do(lambda: self._drop_all(reset=True))

    def _do(self, work: Callable[[], None]) -> None:
        done = threading.Event()
        self._asked.put((work, done))
        with contextlib.suppress(BlockingIOError):  # it is as awake as it can be
            self._wake.send(b"\0")
        if not done.wait(10):
            raise FaultError("the proxy does nothing more", where=f"port {self.port}")

    # the thread

    def _run(self) -> None:
        while not self._stopped:
            try:
                work, done = self._asked.get_nowait()
            except Empty:
                self._turn()
            else:
                work()
                done.set()

    def _stop(self) -> None:
        self._stopped = True
        self._drop_all(reset=True)
        self._deafen()

    def _listen(self) -> None:
        self._listener = _bound(self.port)
        self._listener.listen(64)
        self._listener.setblocking(False)

    def _deafen(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _become(self, conditions: Conditions) -> None:
        self._conditions = conditions
        if conditions.refused:
            self._deafen()
            self._drop_all(reset=True)
        elif self._listener is None:
            self._listen()
        if not conditions.swallowed:
            for pair in [pair for pair in self._pairs if pair.swallowed]:
                self._drop(pair, reset=True)

    def _drop_all(self, *, reset: bool) -> None:
        for pair in list(self._pairs):
            self._drop(pair, reset=reset)

    def _drop(self, pair: _Pair, *, reset: bool) -> None:
        self._pairs.remove(pair)
        for sock in pair.sockets:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            sock.close()

    def _turn(self) -> None:
        """Waits for something to do, and does it."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            wait_s = _IDLE_S
            if not self._conditions.silent:
                if self._listener is not None:
                    selector.register(self._listener, selectors.EVENT_READ)
                for pair in self._pairs:
                    wait_s = min(wait_s, self._register(selector, pair))
            ready = {key.fileobj: events for key, events in selector.select(wait_s)}
        if self._woken in ready:
            self._woken.recv(4096)
            return  # what is asked for comes first
        if self._listener is not None and self._listener in ready:
            self._accept(self._listener)
        if self._conditions.silent:
            return
        for pair in list(self._pairs):
            try:
                for way in pair.ways:
                    if ready.get(way.source, 0) & selectors.EVENT_READ:
                        self._read(pair, way)
                    self._write(way)
            except OSError:
                self._drop(pair, reset=True)
                continue
            if all(way.passed_on for way in pair.ways):
                self._drop(pair, reset=False)

    def _register(self, selector: selectors.BaseSelector, pair: _Pair) -> float:
        """How long there is nothing to do for it, if no socket has anything."""
        wanted = dict.fromkeys(pair.sockets, 0)
        wait_s = _IDLE_S
        for way in pair.ways:
            if not way.ended and way.bytes < QUEUE_BYTES:
                wanted[way.source] |= selectors.EVENT_READ
            if way.queue:
                left_s = way.queue[0][0] - time.monotonic()
                if left_s <= 0:
                    wanted[way.target] |= selectors.EVENT_WRITE
                else:
                    wait_s = min(wait_s, left_s)
        for sock, events in wanted.items():
            if events:
                selector.register(sock, events)
        return wait_s

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it has gone again
        family, kind, protocol, _, address = self._address
        server = socket.socket(family, kind, protocol)
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            server.connect_ex(address)  # whether it came about, reading or writing will say
        self._pairs.append(_Pair((_Way(client, server), _Way(server, client))))
        self.connections += 1

    def _read(self, pair: _Pair, way: _Way) -> None:
        try:
            data = way.source.recv(SEGMENT)
        except BlockingIOError:
            return
        if self._conditions.swallowed:
            pair.swallowed = True
            way.ended = way.ended or not data
            return
        if not data:
            way.ended = True
            return
        due = time.monotonic() + self._conditions.delay_s + self._retransmitted_s()
        if way.queue:
            due = max(due, way.queue[-1][0])  # bytes keep their order
        way.queue.append((due, data))
        way.bytes += len(data)

    def _retransmitted_s(self) -> float:
        waited_s, timeout_s = 0.0, RETRANSMIT_S[0]
        while self._conditions.loss and self._random.random() < self._conditions.loss:
            waited_s += timeout_s
            timeout_s = min(2 * timeout_s, RETRANSMIT_S[1])
        return waited_s

    def _write(self, way: _Way) -> None:
        while way.queue and way.queue[0][0] <= time.monotonic():
            due, data = way.queue[0]
            try:
                sent = way.target.send(data)
            except BlockingIOError:
                return
            way.bytes -= sent
            if sent < len(data):
                way.queue[0] = (due, data[sent:])
                return
            way.queue.popleft()
        if way.ended and not way.queue and not way.passed_on:
            way.passed_on = True
            way.target.shutdown(socket.SHUT_WR)


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((LOOPBACK, port))
    return sock
