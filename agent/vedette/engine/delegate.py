"""Which accelerator: a library that TFLite calls an external delegate, and the options it takes.

A delegate is native code of somebody else's, with a device behind it that may be unplugged: it is only ever loaded in a
process of its own, see `vedette.engine.isolated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vedette.contract.errors import ConfigError

EDGETPU: Final = "edgetpu"
EDGETPU_LIBRARY: Final = "libedgetpu.so.1"  # as Coral's packages libedgetpu1-std and -max install it
EDGETPU_MEMBER: Final = "edgetpu.tflite"  # of a bundle


@dataclass(frozen=True, slots=True)
class Delegate:
    """``name``: as messages say it. ``library``: a path, or a name for the system's loader (dlopen(3))."""

    name: str
    library: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def compiled(self) -> bool:
        """Whether it runs networks that were compiled for it (a bundle's ``edgetpu.tflite``), no others."""
        return self.name == EDGETPU


def find_delegate(setting: str, options: Mapping[str, str] | None = None, *, where: str = "delegate") -> Delegate:
    """``setting``: ``edgetpu``, or an absolute path to a library. A path to libedgetpu is the Edge TPU's, too.

    Raises `ConfigError` for another name, and for a path where there is no file.
    """
    given = dict(options or {})
    if setting == EDGETPU:
        return Delegate(EDGETPU, EDGETPU_LIBRARY, given)
    path = Path(setting)
    if not path.is_absolute():
        raise ConfigError(
            "no such delegate", where=where, expected=f'"{EDGETPU}", or an absolute path to a library',
            found=repr(setting),
        )  # fmt: skip
    try:
        if not path.is_file():
            raise ConfigError("no such library", where=where, found=setting)
    except OSError as error:
        raise ConfigError("no library", where=f"{where}: {setting}", found=error.strerror or str(error)) from None
    stem = path.name.split(".")[0].removeprefix("lib")
    return Delegate(EDGETPU if stem == EDGETPU else stem, setting, given)
