"""Opens the outbox that the configuration asks for, in an epoch of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from vedette.delivery import Durable, Outbox, Stream

from .aside import aside, put_aside
from .core import Bounds
from .disk import DiskOutbox
from .epoch import Epoch, next_epoch
from .lock import FolderLock
from .memory import MemoryOutbox
from .store import FILE, LOG_SUFFIXES, BrokenFileError, DiskError, Store
from .tally import FILE as TALLY

log = logging.getLogger(__name__)


def open_outbox(
    state_dir: Path,
    streams: Sequence[Stream],
    bounds: Bounds,
    *,
    durable: Durable,
    max_memory_bytes: int,
    on_alert: Callable[[str], None] = log.warning,
) -> tuple[Epoch, Outbox]:
    """Counts the epoch up and opens the outbox, with what earlier epochs have left in it.

    ``bounds``: of everything that waits. ``max_memory_bytes``: of what is in no file; all there is with ``memory``.
    ``on_alert``: a line of what went wrong and is not the end of it: a broken file was put aside, the disk takes nothing.
    Raises `StateError` where the folder cannot be used, or another agent uses it.
    """
    path = state_dir / FILE
    store = _open_store(state_dir, on_alert) if durable != "memory" or path.exists() else None
    lock = _lock(state_dir) if store is None else None  # a store has one of its own
    others = [path, state_dir / TALLY, *(aside(path, *LOG_SUFFIXES) if state_dir.is_dir() else ())]
    fresh = store is not None and not store.state.epoch  # it was made just now, or never used
    try:
        epoch = next_epoch(
            state_dir,
            streams,
            filed=None if store is None or fresh else store.state.epoch,
            others=others[1:] if fresh else others,
            on_alert=on_alert,
        )
    except BaseException:
        for held in (store, lock):
            if held is not None:
                held.close()
        raise
    if durable == "memory" and store is None:
        memory_bytes = min(bounds.max_bytes, max_memory_bytes)
        outbox: Outbox = MemoryOutbox(
            epoch.number, max_messages=bounds.max_messages, max_bytes=memory_bytes, max_age_s=bounds.max_age_s,
            when_full=bounds.when_full, lost=epoch.lost, lock=lock,
        )  # fmt: skip
        return epoch, outbox
    if lock is not None:
        lock.close()  # for the store that the outbox is going to open
    return epoch, DiskOutbox(
        state_dir, store, epoch.number, bounds, durable=durable, max_memory_bytes=max_memory_bytes, streams=streams,
        lost=epoch.lost, on_alert=on_alert, keep_epoch=epoch.keep,
    )  # fmt: skip


def _lock(folder: Path) -> FolderLock | None:
    """None where the disk does not let it be locked: the epoch says what is the matter with the folder, if anything is."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FolderLock(folder)
    except OSError:
        return None


def _open_store(folder: Path, on_alert: Callable[[str], None]) -> Store | None:
    """None where the disk does not let it be opened now: the outbox tries again."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return None  # the epoch says what is the matter with the folder
    path = folder / FILE
    for _ in range(2):
        try:
            return Store(folder)
        except DiskError:
            return None  # as the outbox will find, and say
        except BrokenFileError as error:
            try:
                kept = put_aside(path, *LOG_SUFFIXES)
            except OSError:
                return None
            on_alert(f"outbox: {path} is broken and was put aside as {kept.name}: {error}")
    return None
