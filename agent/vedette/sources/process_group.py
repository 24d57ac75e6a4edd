"""A child process that leads a group of its own, and how to end it with all that it has started."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess

log = logging.getLogger(__name__)


def signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """To every process of the group. The leader must not have been reaped, or the number may be another group's."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        log.debug("process group %d has ended already", process.pid)


def exit_of(process: subprocess.Popen[bytes], timeout_s: float) -> str | None:
    """Waits for the leader's end and leaves it a zombie, so that its group's number stays its own. None: it goes on, or this
    process is about to end and has reaped it."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(timeout_s * 1000)
    finally:
        os.close(descriptor)
    try:
        left = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return None
    if left is None:
        return None
    if left.si_code == os.CLD_EXITED:
        return f"exit code {left.si_status}"
    return f"signal {left.si_status}, {signal.strsignal(left.si_status)}"


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole group; reaps the leader and closes its pipes."""
    signal_group(process, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
