"""What goes over MQTT: topics, payloads, and the link that delivers the outbox. docs/WIRE.md is the contract."""

from .connection import LinkOptions
from .inbox import Incoming, Subscription
from .link import Link, LinkStatus
from .topics import Topics

__all__ = ["Incoming", "Link", "LinkOptions", "LinkStatus", "Subscription", "Topics"]
