"""What goes over MQTT: topics, payloads, and the link that delivers the outbox. docs/WIRE.md is the contract."""

from .connection import LinkOptions
from .link import Link, LinkStatus
from .topics import Topics

__all__ = ["Link", "LinkOptions", "LinkStatus", "Topics"]
