"""Progress bars on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """Progress bars on stderr, kept apart from what native code is kept from writing there."""

    def __init__(self, quiet: bool | None = None) -> None:
        """``quiet``: draw nothing; where stderr is no terminal without it."""
        self._file = os.fdopen(os.dup(2), "w", encoding="utf-8")
        self._progress = Progress(
            TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=self._file), disable=not sys.stderr.isatty() if quiet is None else quiet,
        )  # fmt: skip
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()

    def begin(self, step: str, total: int) -> Callable[[], None]:
        """See `vedette_converter.progress.Progress`."""
        task: TaskID = self._progress.add_task(step, total=total, note="")
        self._task = task
        return lambda: self._progress.advance(task)

    def note(self, text: str) -> None:
        """See `vedette_converter.progress.Progress`."""
        if self._task is not None:
            self._progress.update(self._task, note=text)
