"""Where commands print tables and colours."""

from __future__ import annotations

from typing import Any

import rich.console


class Console(rich.console.Console):
    """rich's, for whose output nobody need stay to the end. What stands between colons, as in 2001:db8:b:1, stays."""

    def __init__(self, **options: Any) -> None:
        """As of rich's."""
        super().__init__(emoji=False, **options)

    @property
    def can_rewrite(self) -> bool:
        """Whether what stands there can be written anew: no file and no pipe, and no terminal that only goes on
        (TERM=dumb), on which rich shows nothing of a `Live`."""
        return self.is_terminal and not self.is_dumb_terminal

    def on_broken_pipe(self) -> None:
        """Whoever read our output has gone (vedette show | head), and nothing is wrong: rich would end with exit code 1, and
        without a word. `vedette.cli.main` takes it from here."""
        raise BrokenPipeError
