"""Tries a model file in a child process before this one trusts it.

A truncated or hostile flatbuffer can take the process down that loads it (SIGSEGV inside the runtime). A plain ``.tflite``
file has no digest that would protect it: it is loaded and run once at arm's length. A bundle's digests say that it is
whole, not that this machine's runtime survives it: it is self-tested there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from vedette.contract.errors import ModelError, VedetteError

from .selftest import SelfTest

TIMEOUT_S: Final = 120.0  # a large float network's first run on a slow device
# not "-m vedette.engine.probe": runpy warns of a module that its package has imported already, and -W error heeds it
_CHILD: Final = (
    "import sys; from vedette.engine.child import end_with; end_with(int(sys.argv[1])); "
    "from vedette.engine.probe import {0}; sys.exit({0}(*sys.argv[2:]))"
)
_REFUSED: Final = 3  # the child's exit code for "the runtime said no", its output saying why: see `_refuse`


def probe(path: Path, runtime: str = "auto") -> None:
    """Loads the file and runs it once on zeros, in a child. Raises `ModelError` where that does not go well."""
    _run(path, "_load", str(path), runtime)


def probe_bundle(path: Path, sha256: str, runtime: str = "auto", threads: int = 1) -> SelfTest:
    """Runs a bundle's golden vectors in a child, and says what came of it. ``sha256``: of the manifest.

    Raises `ModelError` where the child does not survive it, cannot run it, or finds another bundle there.
    """
    text = _run(path, "_self_test", str(path), sha256, runtime, str(threads))
    return msgspec.json.decode(text, type=SelfTest)


def _run(path: Path, function: str, *arguments: str) -> str:
    """What a function of this module prints, called in a child. The child ends with this process, however that ends."""
    lifeline, alive = os.pipe()
    command = [sys.executable, "-c", _CHILD.format(function), str(lifeline), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, pass_fds=(lifeline,)
        )
    except subprocess.TimeoutExpired:
        raise ModelError("does not finish one run", where=path, expected=f"at most {TIMEOUT_S:g} s") from None
    finally:
        os.close(lifeline)
        os.close(alive)
    if done.returncode == 0:
        return done.stdout
    if done.returncode == _REFUSED and done.stdout:
        raise ModelError(where=path, **msgspec.json.decode(done.stdout, type=dict[str, str]))
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


def _load(path: str, runtime_name: str) -> int:
    from .runtime import load_runtime
    from .tflite import TfliteEngine

    try:
        engine = TfliteEngine(Path(path), load_runtime(runtime_name))
        inputs, outputs = engine.allocate()
        engine.invoke(inputs, outputs)
    except VedetteError as error:
        return _refuse(path, error, error.found.strip() or error.line())
    return 0


def _self_test(path: str, sha256: str, runtime_name: str, threads: str) -> int:
    from vedette.contract import golden
    from vedette.contract.bundle import open_bundle

    from .runtime import load_runtime
    from .selftest import run_self_test
    from .tflite import TfliteEngine

    try:
        bundle = open_bundle(path)
        if bundle.sha256 != sha256:
            raise ModelError("changed while it was in use", where=path)
        engine = TfliteEngine(bundle.path, load_runtime(runtime_name), threads=int(threads))
        where = f"{path}: golden.npz"
        vectors = golden.decode(bundle.read("golden.npz"), where)
        outcome = run_self_test(engine, bundle.manifest, len(bundle.labels), vectors, where)
    except VedetteError as error:
        return _refuse(path, error, error.line())
    print(msgspec.json.encode(outcome).decode())
    return 0


def _refuse(path: str, error: VedetteError, found: str) -> int:
    """Prints a `ModelError` of this file without where, for the parent to raise: this one, if it says what to do."""
    said = {"problem": "cannot be run", "found": " ".join(found.split())}
    if error.fix and str(error.where) == path:
        said = {name: getattr(error, name) for name in ("problem", "expected", "found", "fix")}
    print(msgspec.json.encode(said).decode())
    return _REFUSED
