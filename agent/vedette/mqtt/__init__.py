"""What goes over MQTT: topics, payloads, and the link that delivers the outbox. docs/WIRE.md is the contract."""

from .link import Link, LinkOptions, LinkStatus
from .topics import Topics

__all__ = ["Link", "LinkOptions", "LinkStatus", "Topics"]
