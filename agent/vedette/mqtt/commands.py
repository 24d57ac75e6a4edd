"""Commands: a message on ``.../cmd/<name>`` -> a handler -> one reply on ``.../reply/<id>``.

Everything about a message is checked before a handler sees it, in this order, and the first that fails is the reply:
JSON with an id; not retained; not an id that was answered before; not expired; a known name; the very fields of it.

Nothing old is carried out: the link's session begins anew on each connection, so that no broker keeps commands for an
agent that was away, and a retained one is refused. ``expires`` bounds what else may hold a command up, a bridge, say, or a
sender's own queue.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Final, TypeAlias, TypedDict, cast

import msgspec
from msgspec import Struct

from vedette import clock
from vedette.clock import ClockState
from vedette.contract.errors import VedetteError

from .envelope import VERSION
from .inbox import Incoming
from .requests import (
    REQUESTS,
    CommandId,
    Enable,
    Ping,
    Refusal,
    Reload,
    ReplyError,
    ReplyMessage,
    Request,
    Snapshot,
    Threshold,
)
from .topics import Topics

log = logging.getLogger(__name__)

REMEMBERED: Final = 256  # replies kept for commands that come twice; QoS 1 delivers again within seconds
MAX_LIFE_S: Final = 86_400.0  # how far ahead an expiry may be; one that is further away bounds nothing
MAX_ANSWER: Final = 16 * 1024  # bytes of a reply

Answer: TypeAlias = Mapping[str, Any] | None
"""What goes into the reply's ``result``: what JSON can hold."""
Later: TypeAlias = "Answer | Future[Answer]"
"""An answer, or one that comes when the work is done: the reply waits for it, the link does not."""


class Handlers(TypedDict, total=False):
    """Who carries out what, on the link's thread: they must return at once, and may raise `VedetteError` to refuse.

    A command without a handler is answered with ``not_supported``. ``ping`` is answered without one.
    """

    ping: Callable[[Ping], Later]
    reload: Callable[[Reload], Later]
    enable: Callable[[Enable], Later]
    threshold: Callable[[Threshold], Later]
    snapshot: Callable[[Snapshot], Later]


class _Head(Struct, frozen=True):
    """What must be there before a reply can be sent."""

    id: CommandId


class _Life(Struct, frozen=True):
    """What is looked at of a command that is wrong in another way."""

    expires: str | float | None = None


class _RefusedError(Exception):
    """Why a command is not carried out. ``code`` and one line."""

    def __init__(self, code: Refusal, message: str) -> None:
        super().__init__(message)
        self.code: Refusal = code


class Commands:
    """See the module. `receive` belongs to the link's thread; `counts` may be called by any. A reply that comes later is
    sent by the thread that did the work."""

    def __init__(
        self,
        topics: Topics,
        handlers: Handlers,
        publish: Callable[[str, bytes], object],
        alert: Callable[[str], None],
        *,
        clock_state: Callable[[], ClockState] = clock.clock_state,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """``publish``: a topic and a reply, sent at QoS 1, not retained. ``alert``: hears of what cannot be replied to."""
        self._topics = topics
        self._handlers = handlers
        self._publish = publish
        self._alert = alert
        self._clock_state = clock_state
        self._wall_s = wall_s
        self._lock = threading.Lock()
        # id -> digest of the command, reply: None while it is being carried out
        self._answered: OrderedDict[str, tuple[bytes, bytes | None]] = OrderedDict()
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Commands since the start by what became of them: done, repeated, no_id, and every `Refusal`."""
        with self._lock:
            return dict(self._counts)

    def receive(self, message: Incoming) -> None:
        """Carries out one command and replies; or says in one reply why not."""
        name = message.topic.rsplit("/", 1)[-1]
        try:
            command_id = msgspec.json.decode(message.payload, type=_Head).id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._count("no_id")
            self._alert(
                f"a command on {message.topic[:200]!r} cannot be replied to: no JSON object with an id: {error}"
            )
            return
        if message.retained:
            # not remembered: the same command, sent as it should be, is carried out
            text = "a retained command would be carried out again on every connection; send it without the retain flag"
            self._send(command_id, self._refuse(command_id, name, _RefusedError("retained", text)))
            return
        digest = hashlib.blake2b(name.encode() + b"\0" + message.payload, digest_size=16).digest()
        with self._lock:
            before = self._answered.get(command_id)
        if before is not None:
            reused = _RefusedError(
                "reused", f"the id {command_id} was that of another command; each needs one of its own"
            )
            if before[0] == digest:
                self._count("repeated")
            reply = before[1] if before[0] == digest else self._refuse(command_id, name, reused)
            if reply is not None:  # else it comes once the work is done
                self._send(command_id, reply)
            return
        try:
            answer = self._call(self._checked(name, message.payload), name)
        except (VedetteError, _RefusedError) as error:
            self._settle(command_id, digest, self._failed(command_id, name, error))
            return
        except Exception as error:
            log.exception("command %s", name)
            self._settle(command_id, digest, self._failed(command_id, name, error))
            return
        if not isinstance(answer, Future):
            self._settle(command_id, digest, self._answer(command_id, name, answer))
            return
        self._remember(command_id, digest, None)

        def settle(done: Future[Answer]) -> None:
            error = done.exception()
            if error is None:
                reply = self._answer(command_id, name, done.result())
            else:
                reply = self._failed(command_id, name, error)
            self._settle(command_id, digest, reply)

        answer.add_done_callback(settle)

    def _settle(self, command_id: str, digest: bytes, reply: bytes) -> None:
        self._remember(command_id, digest, reply)
        self._send(command_id, reply)

    def _remember(self, command_id: str, digest: bytes, reply: bytes | None) -> None:
        with self._lock:
            self._answered[command_id] = (digest, reply)
            if len(self._answered) > REMEMBERED:
                self._answered.popitem(last=False)

    def _answer(self, command_id: str, name: str, answer: Answer) -> bytes:
        """The reply to what was done."""
        try:
            reply = ReplyMessage(VERSION, command_id, name, True, None, dict(answer or {}))
            encoded = msgspec.json.encode(reply)
            if len(encoded) > MAX_ANSWER:
                raise ValueError(f"a reply of {len(encoded)} bytes")
        except Exception as error:
            log.exception("command %s", name)
            return self._failed(command_id, name, error)
        self._count("done")
        log.info("command %s %s: done", name, command_id)
        return encoded

    def _failed(self, command_id: str, name: str, error: BaseException) -> bytes:
        """The reply to what was not."""
        if isinstance(error, _RefusedError):
            return self._refuse(command_id, name, error)
        if isinstance(error, VedetteError):
            return self._refuse(command_id, name, _RefusedError("refused", error.line()))
        return self._refuse(command_id, name, _RefusedError("fault", f"a fault of ours: {error!r}"[:500]))

    def _checked(self, name: str, payload: bytes) -> Request:
        kind = REQUESTS.get(name)
        if kind is None:
            self._check_expiry(payload)
            known = ", ".join(REQUESTS)
            raise _RefusedError("unknown_command", f"unknown command {name[:64]!r}: expected one of {known}")
        try:
            request = msgspec.json.decode(payload, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._check_expiry(payload)
            raise _RefusedError("invalid", f"{name}: {error}; it takes {', '.join(kind.__struct_fields__)}") from None
        self._check_not_expired(request.expires)
        return request

    def _check_expiry(self, payload: bytes) -> None:
        """An expired command is expired, whatever else is wrong with it."""
        try:
            expires = msgspec.json.decode(payload, type=_Life).expires
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # what is wrong with it is said by whoever asked
        if expires is not None:
            self._check_not_expired(expires)

    def _check_not_expired(self, expires: str | float) -> None:
        """With a clock that nobody disciplines, an expiry in the past still refuses, for that is the safe side; one far
        ahead does not, for such a clock is mostly behind."""
        expires_s = _seconds(expires) if isinstance(expires, str) else float(expires)
        left_s = expires_s - self._wall_s()
        unsynced = self._clock_state() == "unsynced"
        doubt = "; this device's clock is not synchronised" if unsynced else ""
        if left_s <= 0:
            raise _RefusedError("expired", f"expired {abs(left_s):.1f} s ago by this device's clock{doubt}")
        if left_s > MAX_LIFE_S and not unsynced:
            raise _RefusedError(
                "invalid",
                f"expires: expected within {MAX_LIFE_S:g} s, found in {left_s:.6g} s (seconds, not milliseconds)",
            )

    def _call(self, request: Request, name: str) -> Later:
        handler = cast("Mapping[str, Callable[[Request], Later]]", self._handlers).get(name)
        if handler is None and isinstance(request, Ping):
            return {"clock": self._clock_state()}
        if handler is None:
            raise _RefusedError("not_supported", f"{name}: not supported by this agent as it is configured")
        return handler(request)

    def _refuse(self, command_id: str, name: str, refused: _RefusedError) -> bytes:
        self._count(refused.code)
        log.warning("command %r %s refused: %s", name[:64], command_id, refused)
        error = ReplyError(refused.code, str(refused))
        return msgspec.json.encode(ReplyMessage(VERSION, command_id, name[:64], False, error, None))

    def _send(self, command_id: str, reply: bytes) -> None:
        self._publish(self._topics.reply(command_id), reply)

    def _count(self, outcome: str) -> None:
        with self._lock:
            self._counts[outcome] += 1


def _seconds(text: str) -> float:
    """RFC 3339 -> seconds since 1970."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _RefusedError(
            "invalid", f"expires: expected 2026-11-22T15:04:05Z or seconds since 1970, found {text[:64]!r}"
        ) from None
    return moment.timestamp()
