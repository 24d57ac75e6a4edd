"""Which bundles have proved themselves on this machine, so that not every start has to wait for it.

A bundle is self-tested in a child process before this one loads it. What came of it holds as long as all that decides
about it is the same: the bundle, the runtime, this processor, and the versions of what stands before and behind the
network. ``STATE_DIR/proofs.json`` keeps what passed; what failed is tried again at each start. A file that cannot be read
costs a self-test, no more, so it is not made durable.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from pathlib import Path
from typing import Final

import cv2
import msgspec
import numpy as np
from msgspec import Struct

from vedette import __version__
from vedette.contract.errors import SelfTestError
from vedette.engine import Runtime, SelfTest, probe_bundle

from .spec import ModelSpec

FILE: Final = "proofs.json"
MAX_PROOFS: Final = 64  # the oldest go
MAX_BYTES: Final = 1 << 20
_CPU_KEYS: Final = (  # of /proc/cpuinfo: what tells processors apart that run other kernels, x86 and ARM
    "vendor_id", "model name", "flags", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features",
)  # fmt: skip

log = logging.getLogger(__name__)


class Circumstances(Struct, frozen=True, forbid_unknown_fields=True):
    """All that decides how a self-test comes out. ``bundle``: the manifest's sha256. ``cpu``: `cpu_identity`."""

    bundle: str
    runtime: str
    cpu: str
    vedette: str
    numpy: str
    opencv: str


class _Proof(Struct, frozen=True, forbid_unknown_fields=True):
    circumstances: Circumstances
    outcome: SelfTest


class Proofs:
    """The proofs of one state folder. Owned by one thread."""

    def __init__(self, state_dir: Path) -> None:
        """Reads those there are."""
        self._path = state_dir / FILE
        self._proofs = _read(self._path)

    def prove(self, spec: ModelSpec, runtime: Runtime, *, threads: int = 1) -> SelfTest | None:
        """What the bundle's self-test says on this machine, now or before; None for a plain model, which has none.

        Raises `SelfTestError` where it fails, `ModelError` where a child cannot run it, or does not survive it.
        """
        if spec.bundle is None:
            return None
        now = Circumstances(
            spec.sha256, str(runtime), cpu_identity(), __version__, np.__version__, cv2.__version__
        )  # fmt: skip
        if (known := self._proofs.get(now)) is not None:
            return known
        log.info("%s: self-test in a process of its own, for it is new here", spec.name)
        outcome = probe_bundle(spec.path, spec.sha256, runtime.name, threads)
        if outcome.passed is False:
            raise SelfTestError("self-test failed on this machine", where=spec.path, found=outcome.reason)
        self._proofs[now] = outcome
        self._write()
        return outcome

    def _write(self) -> None:
        kept = [_Proof(*pair) for pair in self._proofs.items()][-MAX_PROOFS:]
        temporary = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with temporary.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(msgspec.json.encode(kept))
            temporary.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written, so the next start tests again: %s", self._path, error.strerror)


def cpu_identity() -> str:
    """A short digest of what this processor is and can do."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    rows = {(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in text.splitlines())}
    known = sorted(row for row in rows if row[0] in _CPU_KEYS)
    return hashlib.sha256(repr((platform.machine(), known)).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[Circumstances, SelfTest]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES)
        proofs = msgspec.json.decode(raw, type=list[_Proof])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:  # msgspec's own are ValueErrors, too
        log.warning("%s cannot be read, so bundles are tested again: %s", path, error)
        return {}
    return {proof.circumstances: proof.outcome for proof in proofs if proof.outcome.passed is not False}
