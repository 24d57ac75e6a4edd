"""One command to one agent, and its reply: what ``vedette command`` does."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from vedette import clock
from vedette.contract.errors import BrokerRefusedError, BrokerUnreachableError, RetryableError

from .connection import POLL_S, Connection, LinkOptions
from .inbox import Incoming
from .requests import ReplyMessage
from .topics import Topics

NO_SUBSCRIBERS: Final = 0x10
"""PUBACK's reason where a message matched nobody (MQTT 5, section 3.4.2.1); a broker may say it, and Mosquitto does."""


def send_command(
    options: LinkOptions, topics: Topics, name: str, fields: Mapping[str, Any], *, timeout_s: float = 10.0
) -> ReplyMessage:
    """Sends a command that expires when nobody waits for its reply any more, and waits for it.

    ``options``: the broker; the client id gets a part of its own. ``fields``: what `vedette.mqtt.requests` names beside
    ``id`` and ``expires``. Raises `BrokerRefusedError`, `BrokerUnreachableError`, or `RetryableError` without a reply.
    """
    command_id = uuid.uuid4().hex
    replies: list[ReplyMessage] = []
    refused: list[int] = []
    settled: list[int] = []

    def heard(message: Incoming) -> None:
        if message.topic == topics.reply(command_id):
            replies.append(parse_reply(message.payload, message.topic))

    connection = Connection(
        replace(options, client_id=f"vedette-command-{command_id[:12]}"),
        None,
        settled=lambda mid, reason: settled.append(reason),
        heard=heard,
        unheard=lambda topic_filter, reason: refused.append(reason),
    )
    deadline_ns = clock.now_ns() + int(timeout_s * 1e9)

    def wait(until: list[Any] | None) -> bool:
        """Whether it came about in time; ``until`` has something in it, or None: the broker has answered SUBSCRIBE."""
        while not (connection.subscribed if until is None else until):
            if clock.now_ns() >= deadline_ns:
                return False
            connection.poll(POLL_S)
            if connection.closed:
                raise BrokerUnreachableError("the connection broke", where=topics.command(name), found=connection.why)
        return True

    try:
        connection.connect()
        connection.subscribe(topics.reply(command_id))
        if not wait(None) or refused:
            raise BrokerRefusedError(
                "the broker does not let this client hear the reply", where=topics.reply(command_id),
                found=f"reason {refused[0]:#04x}" if refused else "no SUBACK", fix="check the broker's access rules",
            )  # fmt: skip
        told = {"id": command_id, "expires": round(time.time() + timeout_s, 3), **fields}
        connection.publish(topics.command(name), msgspec.json.encode(told), qos=1)
        wait(settled)
        if settled and settled[0] >= 0x80:
            raise BrokerRefusedError(
                "the broker does not let this client send the command", where=topics.command(name),
                found=f"reason {settled[0]:#04x}", fix="check the broker's access rules",
            )  # fmt: skip
        nobody = settled[:1] == [NO_SUBSCRIBERS]  # the broker has thrown the command away: there is nothing to wait for
        if nobody or not wait(replies):
            raise RetryableError(
                "no reply", where=topics.command(name), expected=f"one within {timeout_s:g} s",
                found="nobody who is subscribed to it" if nobody else "silence",
                fix=f"is the agent running, and this its name? {topics.status} says how it is",
            )  # fmt: skip
    finally:
        connection.close(politely=True)
    return replies[0]


def parse_reply(payload: bytes, topic: str) -> ReplyMessage:
    """What was answered on this topic. Raises `RetryableError` where it is no reply: anybody may have sent it."""
    try:
        return msgspec.json.decode(payload, type=ReplyMessage)
    except (ValueError, RecursionError) as error:  # msgspec's own are ValueErrors, too
        raise RetryableError(
            "no reply of an agent", where=topic, expected="JSON as docs/WIRE.md has it", found=error
        ) from None
