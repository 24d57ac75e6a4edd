"""Keeps messages until the broker has acknowledged them. The interface is `vedette.delivery.Outbox`."""

from .epoch import Epoch, next_epoch
from .memory import MemoryOutbox

__all__ = ["Epoch", "MemoryOutbox", "next_epoch"]
