"""Signals that come at whatever moment are heard, and hang nobody."""

from __future__ import annotations

import select
import signal
import subprocess
import sys

from real import DEADLINE_S

PROGRAM = """
import os, random, signal, sys
from vedette.service.asked import Asked
asked = Asked()
asked.heed()
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGHUP))
print("waits", flush=True)
heard = 0
while heard < int(sys.argv[1]):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 3e-4))
    while not asked.reload():
        assert not asked.wait(1e-4)
    heard += 1
print("heard", flush=True)
while not asked.wait(60.0):
    pass
assert asked.wait(60.0), "whoever asks again is told the same"
"""


def test_a_signal_in_the_middle_of_a_wait_hangs_nobody() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "500"], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "waits\n"
            ready, _, _ = select.select([child.stdout], [], [], DEADLINE_S)
            assert ready, "it hangs"
            assert child.stdout.readline() == "heard\n"
            child.send_signal(signal.SIGTERM)
            assert child.wait(DEADLINE_S) == 0
        finally:
            child.kill()
