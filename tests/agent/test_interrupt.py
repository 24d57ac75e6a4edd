"""Ctrl-C while a program is still being imported."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys

import pytest

# what a terminal's Ctrl-C does at the worst moment: in the middle of an import
INTERRUPTED = """
import os, signal, sys
from importlib import import_module

program, at, *sys.argv = sys.argv[1:]

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == at:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
sys.exit(import_module(f"{program}.__main__").main())
"""


def interrupted(program: str, at: str, *words: str, first: str = "") -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec(program) is None:
        pytest.skip(f"{program} is not installed")
    code = f"{first}\n{INTERRUPTED}"
    return subprocess.run(
        [sys.executable, "-c", code, program, at, program, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("program", "at", "words"),
    [
        ("vedette", "argparse", ["check", "-c", "/nowhere"]),
        ("vedette", "vedette.config", ["run", "-c", "/nowhere"]),
        ("vedette_converter", "argparse", ["lint", "/nowhere"]),
    ],
)
def test_it_ends_at_once_and_without_a_word(program: str, at: str, words: list[str]) -> None:
    done = interrupted(program, at, *words)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_command_hears_it() -> None:
    done = interrupted("vedette", "vedette.config", "check", "-c", "/nowhere")
    assert (done.returncode, done.stderr) == (130, "")


def test_what_ignores_it_from_the_start_goes_on() -> None:
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    done = interrupted("vedette", "vedette.config", "check", "-c", "/nowhere", first=ignored)
    assert done.returncode == 2
    assert done.stderr.startswith("vedette: error: /nowhere: ")
