"""What an agent can be told to do on ``<root>/<device>/cmd/<name>``, and what it answers on ``.../reply/<id>``."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from vedette.mqtt_text import NAME

CommandId = Annotated[str, Meta(pattern=NAME)]
Name = Annotated[str, Meta(pattern=NAME)]
Expiry: TypeAlias = Annotated[str, Meta(max_length=64)] | Annotated[float, Meta(ge=0.0, le=1e11)]
"""RFC 3339 with a zone, or seconds since 1970. The sender's wall clock and the agent's must agree as far as it matters."""

Refusal = Literal["retained", "expired", "unknown_command", "invalid", "reused", "not_supported", "refused", "fault"]
"""``reused``: the id belongs to another command. ``refused``: the agent understood, and says why it does not do it."""


class Request(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every command has."""

    id: CommandId
    expires: Expiry
    v: Literal[1] = 1


class Ping(Request, frozen=True, kw_only=True):
    """``cmd/ping``: is anybody there?"""


class Reload(Request, frozen=True, kw_only=True):
    """``cmd/reload``: take over what the configuration file says now, as far as that goes without a restart."""


class Enable(Request, frozen=True, kw_only=True):
    """``cmd/enable``: a pipeline on or off. Off, it takes no frames and infers nothing."""

    pipeline: Name
    on: bool


class Threshold(Request, frozen=True, kw_only=True):
    """``cmd/threshold``: the least score that counts, of one label or of all that have none of their own."""

    pipeline: Name
    value: Annotated[float, Meta(ge=0.0, le=1e9)]
    label: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


class Snapshot(Request, frozen=True, kw_only=True):
    """``cmd/snapshot``: the next picture of a pipeline, as a JPEG."""

    pipeline: Name


REQUESTS: Final[dict[str, type[Request]]] = {
    "ping": Ping,
    "reload": Reload,
    "enable": Enable,
    "threshold": Threshold,
    "snapshot": Snapshot,
}
"""Name of a command -> what it is told with."""


class ReplyError(Struct, frozen=True):
    """Why not. ``message``: one line for people."""

    code: Refusal
    message: str


class ReplyMessage(Struct, frozen=True):
    """The one answer to a command. ``result``: what it brought, null where it was not done."""

    v: int
    id: str
    command: str
    ok: bool
    error: ReplyError | None
    result: dict[str, Any] | None


class SettingsMessage(Struct, frozen=True):
    """How a pipeline is set now, by the configuration or by commands since. Retained, on ``.../settings``.

    ``threshold``: of labels that have none of their own in ``thresholds``.
    """

    v: int
    device: str
    pipeline: str
    epoch: int
    enabled: bool
    threshold: float
    thresholds: dict[str, float]


REQUEST_MESSAGES: Final[dict[str, type[Struct]]] = {
    **{f"cmd-{name}": kind for name, kind in REQUESTS.items()},
    "reply": ReplyMessage,
    "settings": SettingsMessage,
}
"""Schema name -> struct."""
