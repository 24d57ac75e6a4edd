"""A report as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vedette.contract.errors import UserError
from vedette.durable import replacing, try_place

from ..measured import Measured
from .extras import Extras
from .page import page
from .table import markdown

_PAGES: Final = frozenset({".html", ".htm"})
_TABLES: Final = frozenset({".md", ".markdown"})


def expect_report(path: Path) -> None:
    """Raises `UserError` where no report can be written there: to be asked before long work, not after."""
    if path.suffix.lower() not in _PAGES | _TABLES:
        raise UserError(
            "report", where=path, expected="a name ending in .html or .md", found=path.suffix or "no suffix"
        )
    if not path.parent.is_dir() or path.is_dir():
        raise UserError("report cannot be written", where=path, expected="a file in a folder that exists")
    try:
        try_place(path)
    except OSError as error:
        raise UserError("report cannot be written", where=path, found=error.strerror or str(error)) from None


def write_report(path: Path, measured: Measured, extras: Extras | None = None) -> None:
    """``.html``: the page. ``.md``: the table alone. Never half a file. Raises `UserError`."""
    expect_report(path)
    text = page(measured, extras or Extras()) if path.suffix.lower() in _PAGES else markdown(measured) + "\n"
    try:
        with replacing(path) as half:
            half.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError("report cannot be written", where=path, found=error.strerror or str(error)) from None
