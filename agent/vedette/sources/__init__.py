"""Where frames come from: each source opens a URL. `open_source` knows which file reads which."""

from .base import Grabber, Slot, Source, SourceStatus
from .registry import SourceOptions, make_source, masked_url
from .supervise import Outcome

__all__ = ["Grabber", "Outcome", "Slot", "Source", "SourceOptions", "SourceStatus", "make_source", "masked_url"]
