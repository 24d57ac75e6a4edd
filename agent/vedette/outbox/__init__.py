"""Keeps messages until the broker has acknowledged them. The interface is `vedette.delivery.Outbox`."""

from .core import Bounds
from .disk import DiskOutbox
from .epoch import Epoch, next_epoch
from .memory import MemoryOutbox
from .opening import open_outbox

__all__ = ["Bounds", "DiskOutbox", "Epoch", "MemoryOutbox", "next_epoch", "open_outbox"]
