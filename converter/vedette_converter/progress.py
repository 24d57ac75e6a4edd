"""Who wants to know how far a long step is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Told of what is going on."""

    def begin(self, step: str, total: int) -> Callable[[], None]:
        """A new step of ``total`` parts; the one before is over. The function it returns counts one."""
        ...

    def note(self, text: str) -> None:
        """A few words beside the present step, in place of the last: a loss, an accuracy."""
        ...


class Silent:
    """Progress that nobody watches."""

    def begin(self, step: str, total: int) -> Callable[[], None]:
        """See `Progress`."""
        return lambda: None

    def note(self, text: str) -> None:
        """See `Progress`."""
