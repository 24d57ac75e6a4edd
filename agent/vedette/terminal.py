"""Where commands print tables and colours."""

from __future__ import annotations

import rich.console


class Console(rich.console.Console):
    """rich's, for whose output nobody need stay to the end."""

    def on_broken_pipe(self) -> None:
        """Whoever read our output has gone (vedette show | head), and nothing is wrong: rich would end with exit code 1, and
        without a word. `vedette.cli.main` takes it from here."""
        raise BrokenPipeError
