"""What every message of the outbox is wrapped in when it is sent, and how large it may become."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from vedette import clock
from vedette.clock import ClockState
from vedette.delivery import Entry

from .topics import Topics

VERSION: Final = 1
MAX_PAYLOAD: Final = 128 * 1024  # bytes; AWS IoT Core's limit, and plenty
MAX_BODY: Final = MAX_PAYLOAD - 1024  # bytes; the rest is the envelope's, at its longest names


class Envelope(Struct, frozen=True):
    """The part that is written when a message is sent. ``ts``: capture by the wall clock, as it is set now; of a message
    of an earlier boot as it was last set then, and empty where not even that is known.

    ``mono_us``: CLOCK_BOOTTIME in microseconds of the boot ``boot`` (nanoseconds pass 2**53 after 104 days).
    """

    v: int
    id: str
    epoch: int
    seq: int
    ts: str
    mono_us: int
    boot: str
    clock: ClockState
    replay: bool
    device: str
    pipeline: str


_encoder = msgspec.json.Encoder()


def render(entry: Entry, topics: Topics, *, replay: bool) -> bytes:
    """The message as it goes out now: envelope and body as one JSON object."""
    if entry.boot == clock.boot_id():
        captured = clock.wall_time(entry.captured_ns)
    else:
        captured = "" if entry.wall_ns is None else clock.rfc3339(entry.wall_ns)
    envelope = Envelope(
        v=VERSION,
        id=topics.message_id(entry.key),
        epoch=entry.key.epoch,
        seq=entry.key.seq,
        ts=captured,
        mono_us=entry.captured_ns // 1000,
        boot=entry.boot,
        clock=entry.clock,
        replay=replay,
        device=topics.device,
        pipeline=entry.key.stream.pipeline,
    )
    return _encoder.encode(envelope)[:-1] + b"," + entry.body[1:]


def message_of(body: type[Struct], description: str) -> type[Struct]:
    """The struct of a whole message: the envelope's fields and this body's, as a consumer reads them."""
    hints = msgspec.structs.fields(Envelope)
    return msgspec.defstruct(
        body.__name__.removesuffix("Body") + "Message",
        [(field.name, field.type) for field in hints],
        bases=(body,),
        module=body.__module__,
        namespace={"__doc__": description},
        frozen=True,
        kw_only=True,
        omit_defaults=True,
    )
