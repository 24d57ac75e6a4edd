"""TensorFlow, imported when it is first needed (it takes seconds), quiet, and with an error that says how to get it."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from vedette.contract.errors import MissingPackageError

_loaded: Any = None  # the module once it is set up, for pruning asks for it at every layer


def load_tensorflow(*, fast: bool = False) -> Any:
    """The module ``tensorflow``; it ships no types. Raises `MissingPackageError`.

    ``fast``: with oneDNN's kernels, which train twice as fast and add in an order of their own on each CPU. The first
    call of a process decides.

    The process's environment gets ``TF_CPP_MIN_LOG_LEVEL`` and the like where they are not set: they must stand there
    before the native library is loaded.
    """
    global _loaded
    if _loaded is not None and sys.modules.get("tensorflow") is _loaded:
        return _loaded
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # 2: errors, no more
    os.environ.setdefault(
        "TF_ENABLE_ONEDNN_OPTS", "1" if fast else "0"
    )  # 0: the same sums in the same order on every x86
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a conversion is too short to be worth a GPU's start
    try:
        with captured_native_output(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what its dependencies say of one another
            import tensorflow

            tensorflow.config.set_visible_devices([], "GPU")  # looks for one here and now, and complains here and now
    except ImportError as error:
        raise MissingPackageError(
            "TensorFlow is needed to convert", found=str(error), fix="pip install 'vedette[converter]'"
        ) from None
    tensorflow.get_logger().setLevel("ERROR")
    _loaded = tensorflow
    return tensorflow


@contextlib.contextmanager
def captured_native_output() -> Iterator[list[str]]:
    """Keeps what native code writes to file descriptor 2 off the terminal; the list has its lines after the block.

    TensorFlow greets, counts ops and misses its GPU there before any log level is heeded. Not for use by two threads.
    """
    lines: list[str] = []
    sys.stderr.flush()
    saved = os.dup(2)
    sink = os.memfd_create("stderr")
    os.dup2(sink, 2)
    try:
        yield lines
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        size = min(os.lseek(sink, 0, os.SEEK_CUR), 64 * 1024)
        text = os.pread(sink, size, 0).decode("utf-8", "replace")
        os.close(sink)
        lines.extend(line for line in text.splitlines() if line.strip())
