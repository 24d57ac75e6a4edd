"""How many arenas glibc keeps for a process with many threads."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT_HEAPS = """
import ctypes, sys, threading
from vedette.memory import return_freed, share_one_arena

if sys.argv[1] == "one":
    share_one_arena()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(4)

def allocate():
    together.wait()  # so that all of them live at once
    libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(1000))))
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
return_freed()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(open(sys.argv[2]).read().count("<heap "))
"""


def heaps(arenas: str, path: object) -> int:
    command = [sys.executable, "-c", COUNT_HEAPS, arenas, str(path)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has arenas")
def test_all_threads_share_one_arena(tmp_path):
    assert heaps("one", tmp_path / "info") == 1
    assert heaps("each", tmp_path / "info") > 1
