"""Lines for systemd's journal carry their level, all others do not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vedette.journal import Formatter


@pytest.mark.parametrize("in_journal", [True, False])
def test_level_stands_before_a_line_only_in_the_journal(tmp_path: Path, in_journal: bool) -> None:
    with (tmp_path / "stderr").open("w+") as stderr:
        status = os.fstat(stderr.fileno())
        inode = status.st_ino if in_journal else status.st_ino + 1
        done = subprocess.run(
            [sys.executable, "-m", "vedette", "run", "-c", str(tmp_path / "none.toml")],
            env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{inode}"}, stderr=stderr, check=False, timeout=60,
        )  # fmt: skip
        stderr.seek(0)
        line = stderr.read()
    assert done.returncode == 2
    assert line.startswith("<3>vedette: error: " if in_journal else "vedette: error: ")
    assert line.count("\n") == 1


def test_what_somebody_else_has_named_never_begins_a_line_of_its_own() -> None:
    record = logging.LogRecord(
        "x", logging.WARNING, "x", 1, "%s is broken", ("a\n<3>vedette: all is lost\x1b[2J",), None
    )
    assert Formatter().format(record) == r"WARNING a\n<3>vedette: all is lost\x1b[2J is broken"
