"""systemd-timedated's word on the clock, for a process that may not ask the kernel itself: one property, over D-Bus.

timedated asks the kernel (adjtimex(2)), so what it says holds for systemd-timesyncd, chrony, ntpd and all others alike. It
is started by the question and ends itself 30 s after the last one. Both messages are as the D-Bus specification has them
("Message Protocol", "Authentication Protocol"); EXTERNAL authentication is what the kernel says of the peer.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import BinaryIO, Final

BUS: Final = Path("/run/dbus/system_bus_socket")
TIMEOUT_S: Final = 1.0  # of each wait for the bus

_CALL, _RETURN, _ERROR = 1, 2, 3  # message types; signals are 4
_PATH, _INTERFACE, _MEMBER, _DESTINATION, _SIGNATURE = 1, 2, 3, 6, 8  # header fields
_HEAD: Final = (
    16  # bytes: byte order, type, flags, version; sizes of the body and of the header's fields around the serial
)
_MAX_MESSAGE: Final = 4096  # bytes; what is asked for has some 80
_MAX_MESSAGES: Final = 8  # the greeting's answer, a signal that gives us a name, and ours


def ntp_synchronized(bus: Path = BUS) -> bool | None:
    """timedated's NTPSynchronized (org.freedesktop.timedate1(5)): whether the clock is right to 16 s by the kernel's own
    account. None where nobody answers. Waits for `TIMEOUT_S` at most between two messages."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(bus))
            with connection.makefile("rb") as answers:
                connection.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\n")
                if not answers.readline(_MAX_MESSAGE).startswith(b"OK "):
                    return None
                connection.sendall(_GREETING + _QUESTION)
                return _boolean(answers)
    except OSError:
        return None  # no bus, no timedated, or none that answers in time


def _boolean(answers: BinaryIO) -> bool | None:
    """The variant with a boolean that answers the second of two calls; None where something else came."""
    answered = 0
    for _ in range(_MAX_MESSAGES):
        head = answers.read(_HEAD)
        if len(head) < _HEAD or head[:1] not in (b"l", b"B"):
            return None
        order = "<" if head[:1] == b"l" else ">"
        body_size, _, fields_size = struct.unpack(f"{order}III", head[4:])
        fields_size += -fields_size % 8
        if body_size + fields_size > _MAX_MESSAGE:
            return None
        answers.read(fields_size)
        body = answers.read(body_size)
        answered += head[1] in (_RETURN, _ERROR)
        if answered == 2:
            known = head[1] == _RETURN and len(body) == 8 and body[:4] == b"\1b\0\0"  # a variant, its signature: b
            return bool(struct.unpack(f"{order}I", body[4:])[0]) if known else None
    return None


def _call(serial: int, destination: str, path: str, interface: str, member: str, *strings: str) -> bytes:
    """A method call with strings as its arguments."""
    fields = b""
    for code, kind, value in (
        (_PATH, b"o", path), (_INTERFACE, b"s", interface), (_MEMBER, b"s", member), (_DESTINATION, b"s", destination),
    ):  # fmt: skip
        fields = _aligned(fields, 8) + bytes([code, 1]) + kind + b"\0" + _string(value)
    if strings:
        fields = (
            _aligned(fields, 8) + bytes([_SIGNATURE, 1]) + b"g\0" + bytes([len(strings)]) + b"s" * len(strings) + b"\0"
        )
    body = b""
    for value in strings:
        body = _aligned(body, 4) + _string(value)
    head = struct.pack("<cBBBIII", b"l", _CALL, 0, 1, len(body), serial, len(fields))
    return _aligned(head + fields, 8) + body


def _string(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode() + b"\0"


def _aligned(written: bytes, to: int) -> bytes:
    return written + bytes(-len(written) % to)


_GREETING: Final = _call(1, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
_QUESTION: Final = _call(
    2, "org.freedesktop.timedate1", "/org/freedesktop/timedate1", "org.freedesktop.DBus.Properties", "Get",
    "org.freedesktop.timedate1", "NTPSynchronized",
)  # fmt: skip
