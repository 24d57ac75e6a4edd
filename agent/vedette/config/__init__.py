"""TOML -> frozen structs. Unknown keys are refused, with file, line and the nearest right name.

Every option stands with its unit and default in ``systemd/vedette.toml``, which a test compares with these structs.
"""

from .mistakes import MAX_BYTES, Places
from .reading import default_device, default_state_dir, load_config, parse_config
from .tables import (
    RESERVED,
    Config,
    EngineConfig,
    IntervalsConfig,
    MqttConfig,
    OutboxConfig,
    PipelineConfig,
    SourceConfig,
)

__all__ = [
    "MAX_BYTES",
    "RESERVED",
    "Config",
    "EngineConfig",
    "IntervalsConfig",
    "MqttConfig",
    "OutboxConfig",
    "PipelineConfig",
    "Places",
    "SourceConfig",
    "default_device",
    "default_state_dir",
    "load_config",
    "parse_config",
]
