"""Every error that vedette raises on purpose.

::

    VedetteError
    ├── UserError                 the user can mend it; commands end with exit code 2
    │   ├── ConfigError           a key of the configuration
    │   ├── ModelError            a model file that cannot be used
    │   │   └── BundleError       a bundle that is malformed, truncated, oversized or tampered with
    │   ├── PictureError          a picture that cannot be used
    │   ├── ReadingsError         readings that cannot be used
    │   ├── SourceError           a source that cannot be opened at all (no such file, unknown scheme)
    │   ├── KeyFileError          a key for signatures that cannot be used
    │   ├── StateError            the state folder cannot be used
    │   ├── BrokerRefusedError    the broker answered, and said no (credentials, client id, protocol)
    │   └── MissingPackageError   an optional package is not installed
    ├── RetryableError            it may pass by itself; tried again with back-off
    │   ├── SourceLostError       the source ended or broke off although it should go on
    │   ├── SourceStalledError    no new frame within the deadline
    │   └── BrokerUnreachableError  no broker answered, or the connection broke
    └── FaultError                ours, or this machine's; exit code 1
        ├── SelfTestError         a model loads but gives other results than it was proved to give
        └── EngineFaultError      the runtime failed while running
            ├── EngineHungError     no answer within its deadline
            ├── EngineCrashedError  the process that ran it ended
            ├── EngineRefusedError  it does not start, or answers with an error
            └── EngineWrongError    it answers, and not what it was proved to answer
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MAX_PART: Final = 2000  # characters of one part of a line; a key that somebody made up may have a million


class VedetteError(Exception):
    """One line that says where, what was expected, what was found, and what to do.

    ``where`` is a file, or ``file: key``, or ``file:line: key``. Every part may be empty.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        where: object = "",
        expected: object = "",
        found: object = "",
        fix: str = "",
    ) -> None:
        self.problem = problem
        self.where = str(where)
        self.expected = str(expected)
        self.found = str(found)
        self.fix = fix
        super().__init__(self.line())

    def line(self) -> str:
        """The whole error as one line of bounded length, control characters made visible."""
        text = f"{_short(self.where)}: {_short(self.problem)}" if self.where else _short(self.problem)
        if self.expected:
            text += f": expected {_short(self.expected)}"
        if self.found:
            text += f"{',' if self.expected else ':'} found {_short(self.found)}"
        if self.fix:
            text += f"; {_short(self.fix)}"
        return one_line(text)


@contextmanager
def placed(where: object) -> Iterator[None]:
    """What is raised inside says this place before its own: ``file:line: key``, of whoever named the file it is about."""
    try:
        yield
    except VedetteError as error:
        raise type(error)(
            error.problem, where=f"{where}: {error.where}" if error.where else where, expected=error.expected,
            found=error.found, fix=error.fix,
        ) from None  # fmt: skip


def one_line(text: str) -> str:
    """Control characters and ends of line made visible, so that nobody's text becomes two lines of a log."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _short(part: str) -> str:
    return part if len(part) <= MAX_PART else f"{part[: MAX_PART - 40]} ... ({len(part)} characters)"


class UserError(VedetteError):
    """The user can mend it. Commands end with exit code 2."""

    exit_code = 2


class ConfigError(UserError):
    """A key of the configuration is unknown, missing or has a value that cannot be."""


class ModelError(UserError):
    """A model file cannot be used: missing, no TFLite model, or its tensors do not fit what is said of them."""


class BundleError(ModelError):
    """A bundle is malformed, truncated, oversized or tampered with. Names the file and the field."""


class PictureError(UserError):
    """A picture cannot be used: corrupt, too small, too large, or of a kind that is not read."""


class UndecodableError(PictureError):
    """What should be a picture cannot be decoded."""


class ReadingsError(UserError):
    """Readings cannot be used: a malformed recording, channels that are not there, numbers that are not finite."""


class SourceError(UserError):
    """A source cannot be opened at all: no such file or folder, an unknown scheme, a malformed URL."""


class KeyFileError(UserError):
    """A key that signs or verifies bundles cannot be used: no such file, of another kind, encrypted."""


class StateError(UserError):
    """The state folder is missing, read-only or full."""


class BrokerRefusedError(UserError):
    """The broker answered and said no: bad credentials, not authorised, protocol not supported."""


class MissingPackageError(UserError):
    """An optional package is not installed. Says the command that installs it."""


class RetryableError(VedetteError):
    """It may pass by itself. Tried again with back-off, counted and published."""


class SourceLostError(RetryableError):
    """A source that should go on broke off: the camera was unplugged, its server died."""


class SourceStalledError(RetryableError):
    """A source is open, but gave no frame within its deadline."""


class BrokerUnreachableError(RetryableError):
    """No broker answered, or the connection broke."""


class FaultError(VedetteError):
    """A fault of ours or of this machine. Commands end with exit code 1."""


class SelfTestError(FaultError):
    """A model loads, but on this machine its results are not those it was proved to give."""


class EngineFaultError(FaultError):
    """The runtime failed while running a model."""


class EngineHungError(EngineFaultError):
    """No answer within the deadline: of a delegate, or of the device behind it."""


class EngineCrashedError(EngineFaultError):
    """The process that ran the engine ended. Says by which signal or exit code."""


class EngineRefusedError(EngineFaultError):
    """The engine does not start, or answers with an error: no such device, a network that was compiled for another one."""


class EngineWrongError(EngineFaultError):
    """The engine answers, but not what it was proved to answer."""
