"""Tries a model file in a child process before this one trusts it.

A truncated or hostile flatbuffer can take the process down that loads it (SIGSEGV inside the runtime). A bundle is
protected by its digests; a plain ``.tflite`` file has none, so it is loaded and run once at arm's length.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from vedette.contract.errors import ModelError, VedetteError

TIMEOUT_S: Final = 120.0  # a large float network's first run on a slow device
# not "-m vedette.engine.probe": runpy warns of a module that its package has imported already, and -W error heeds it
_CHILD: Final = "import sys; from vedette.engine.probe import _child; sys.exit(_child(*sys.argv[1:]))"
_REFUSED: Final = 3  # the child's exit code for "the runtime said no", its last line saying why


def probe(path: Path, runtime: str = "auto") -> None:
    """Loads the file and runs it once on zeros, in a child. Raises `ModelError` where that does not go well."""
    command = [sys.executable, "-c", _CHILD, str(path), runtime]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError("does not finish one run", where=path, expected=f"at most {TIMEOUT_S:g} s") from None
    if done.returncode == 0:
        return
    if done.returncode == _REFUSED:
        raise ModelError("cannot be run", where=path, found=" ".join(done.stdout.split()))
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ModelError(
            "crashes the runtime that loads it",
            where=path,
            found=name,
            fix="the file is truncated or corrupt: get it again",
        )
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    raise ModelError("cannot be run", where=path, found=lines[-1] if lines else f"exit code {done.returncode}")


def _child(path: str, runtime_name: str) -> int:
    from .runtime import load_runtime
    from .tflite import TfliteEngine

    try:
        engine = TfliteEngine(Path(path), load_runtime(runtime_name))
        inputs, outputs = engine.allocate()
        engine.invoke(inputs, outputs)
    except VedetteError as error:
        print(error.found.strip() or error.line())
        return _REFUSED
    return 0
