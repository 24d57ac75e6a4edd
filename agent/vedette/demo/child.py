"""What a child of the demo does first."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> None:
    """For `subprocess.Popen(preexec_fn=...)`: a demo that is killed leaves neither broker nor agent behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
