"""Where frames and readings come from: each source opens a URL.

`make_source` knows which file reads a camera's or a video's, `make_sensor_source` which reads a sensor's.
"""

from .base import FROZEN, STOPPED, UNDECODABLE, Grabber, Source, SourceStatus, Tap
from .registry import SourceOptions, is_program_url, make_source, masked_url
from .sensor import Listener, ListenerStatus, SensorOptions, SensorSource
from .sensor_urls import is_sensor_url, make_sensor_source
from .slot import Slot
from .supervise import Outcome

__all__ = [
    "FROZEN",
    "STOPPED",
    "UNDECODABLE",
    "Grabber",
    "Listener",
    "ListenerStatus",
    "Outcome",
    "SensorOptions",
    "SensorSource",
    "Slot",
    "Source",
    "SourceOptions",
    "SourceStatus",
    "Tap",
    "is_program_url",
    "is_sensor_url",
    "make_sensor_source",
    "make_source",
    "masked_url",
]
