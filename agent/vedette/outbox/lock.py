"""One agent to a state folder: a second one would count the same epochs, and send the same messages.

``STATE_DIR/outbox.lock`` is locked (flock) for as long as an outbox is open there, in a file or in memory. The kernel lets
it go when a process dies; the file itself stays, and says nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from vedette.contract.errors import StateError

FILE: Final = "outbox.lock"


class FolderLock:
    """Held until it is closed."""

    def __init__(self, folder: Path) -> None:
        """Raises `StateError` where another agent has it, `OSError` where nobody can lock anything there now."""
        self._fd = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise StateError(
                "state folder is in use", where=folder, expected="one agent to a folder", found="another one has it",
                fix="stop that one, or give each a state_dir of its own",
            ) from None  # fmt: skip
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Lets it go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
