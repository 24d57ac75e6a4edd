"""Standard streams, whatever a program is started with: closed, full, without a reader, in a small alphabet."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable


def run(program: Callable[[], int], complain: Callable[[str], None]) -> int:
    """The program's exit code; 0 where the reader of its output has gone (``| head``), for nothing is wrong then; 1 where
    the output cannot be written (a full disk), and ``complain`` is told why."""
    _prepare()
    try:
        try:
            return program()
        finally:
            sys.stdout.flush()  # here, where it is known what to make of an error
    except BrokenPipeError:
        _discard()
        return 0
    except OSError:
        why = _unwritable()
        if why is None:
            raise
        complain(f"output cannot be written: found {why}")
        return 1


def _prepare() -> None:
    """A closed stream becomes /dev/null, so that no file opened later has its number. What an alphabet lacks is written as
    its code."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            setattr(sys, name, os.fdopen(opened, "w" if number else "r", encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _unwritable() -> str | None:
    """Why stdout takes nothing; None where it does."""
    try:
        print(flush=True)
    except OSError as error:
        _discard()
        return error.strerror or str(error)
    return None


def _discard() -> None:
    """What stdout still holds is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
