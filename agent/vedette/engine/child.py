"""The program that runs a network with a delegate, in a process of its own. Started by `vedette.engine.isolated`.

Run by its path, so that it imports nothing but numpy and the runtime: ``python -P child.py SOCKET LIFELINE``, two
descriptors. On the socket, whose messages have bounds (SOCK_SEQPACKET)::

    parent                                     child
    {"module", "library", "options",
     "network", "threads", "memory"}  ------>  loads the delegate and the network
                                      <------  {"inputs": [tensor, ...], "outputs": [tensor, ...]}
    {"size", "inputs": [offset, ...],
     "outputs": [offset, ...]}        ------>  maps so many bytes of the descriptor `memory`
                                      <------  {}
    any byte                          ------>  runs the network on what lies at the inputs' offsets
                                      <------  OK; the results lie at the outputs' offsets
    end of file                       ------>  lets everything go and ends

In the place of each answer may stand ``{"error": text}``; before the first run it is the last one.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import select
import signal
import socket
import sys
from typing import Any, Final

OK: Final = b"\x06"
MAX_MESSAGE: Final = 256 * 1024
MAX_TEXT: Final = 2000


def describe(detail: dict[str, Any]) -> dict[str, Any]:
    """One of the runtime's tensor details -> the fields of `vedette.contract.types.TensorSpec`, the dtype by its name.

    A scale of 0.0 means: not quantised, or not with one scale for all.
    """
    import numpy as np

    scales = detail["quantization_parameters"]["scales"]
    quantised = len(scales) == 1 and np.issubdtype(detail["dtype"], np.integer)
    return {
        "name": str(detail["name"]),
        "shape": [int(n) for n in detail["shape"]],
        "dtype": np.dtype(detail["dtype"]).name,
        "scale": float(scales[0]) if quantised else 0.0,
        "zero_point": int(detail["quantization_parameters"]["zero_points"][0]) if quantised else 0,
    }


def main(connection: socket.socket, lifeline: int) -> int:
    """Until the other end of the socket is closed. The exit code."""
    end_with(lifeline)
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a service; when to go, the parent says
        signal.signal(number, signal.SIG_IGN)
    job = json.loads(connection.recv(MAX_MESSAGE))
    try:
        interpreter, inputs, outputs = _load(job)
        connection.send(_encode({"inputs": inputs, "outputs": outputs}))
        layout = json.loads(connection.recv(MAX_MESSAGE) or b"{}")
        if not layout:
            return 0
        given = _views(job["memory"], layout["size"], layout["inputs"], inputs)
        results = _views(job["memory"], layout["size"], layout["outputs"], outputs)
        connection.send(_encode({}))
    except Exception as error:  # noqa: BLE001  whatever it is, the parent has to say it
        connection.send(_encode({"error": _line(error)}))
        return 0
    places = [detail["index"] for detail in interpreter.get_input_details()]
    found = [detail["index"] for detail in interpreter.get_output_details()]
    while connection.recv(MAX_MESSAGE):
        try:
            for index, view in zip(places, given, strict=True):
                interpreter.set_tensor(index, view)
            interpreter.invoke()
            for index, view in zip(found, results, strict=True):
                view[...] = interpreter.tensor(index)().reshape(view.shape)
        except (ValueError, RuntimeError) as error:
            connection.send(_encode({"error": _line(error)}))
            continue
        connection.send(OK)
    return 0


def end_with(lifeline: int) -> None:
    """SIGKILL to this process as soon as the other end of this pipe is closed, however its owner came to his end.

    The kernel sends it (fcntl(2), F_SETSIG), so that a delegate that hangs does not stand in the way; unlike
    PR_SET_PDEATHSIG it does not take the end of a single thread of the parent for the parent's end.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline, 0)
    if poll.poll(0):  # it was closed before
        os.kill(os.getpid(), signal.SIGKILL)


def _load(job: dict[str, Any]) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    import ctypes
    import importlib

    module = importlib.import_module(job["module"])
    # tried before, for where the runtime cannot load a library its finalizer prints a traceback
    if not hasattr(ctypes.pydll.LoadLibrary(job["library"]), "tflite_plugin_create_delegate"):
        raise ValueError(f"{job['library']} is no delegate: it has no tflite_plugin_create_delegate")
    delegate = module.load_delegate(job["library"], job["options"])
    interpreter = module.Interpreter(
        model_path=job["network"], num_threads=job["threads"], experimental_delegates=[delegate]
    )
    interpreter.allocate_tensors()
    inputs = [describe(detail) for detail in interpreter.get_input_details()]
    outputs = [describe(detail) for detail in interpreter.get_output_details()]
    return interpreter, inputs, outputs


def _views(memory: int, size: int, offsets: list[int], tensors: list[dict[str, Any]]) -> list[Any]:
    import numpy as np

    area = mmap.mmap(memory, size)
    return [
        np.ndarray(tensor["shape"], tensor["dtype"], area, offset)
        for tensor, offset in zip(tensors, offsets, strict=True)
    ]


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:MAX_TEXT]


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])))
