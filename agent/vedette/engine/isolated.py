"""An engine in a process of its own: for delegates, whose native code can hang, crash, or take the machine's USB with it.

The tensors lie in memory that both processes share; a socket says when they may be read. Whoever waits for the child
looks at the clock meanwhile: at the deadline the child gets SIGKILL, and a fault is raised. A fault is the end of it: its
owner makes another `IsolatedEngine`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from vedette.contract.errors import (
    EngineCrashedError,
    EngineFaultError,
    EngineHungError,
    EngineRefusedError,
)
from vedette.contract.types import Tensor, TensorSpec

from . import child
from .base import EngineDescription
from .delegate import Delegate
from .runtime import Runtime

START_S: Final = 30.0  # a slow device imports numpy, and an Edge TPU is sent its firmware
DEADLINE_S: Final = 2.0
TIDY_S: Final = 1.0  # from asking a child to end to ending it: an Edge TPU wants to be let go in good order
REAP_S: Final = 1.0  # for SIGKILL to take effect; a process that waits for a device driver may take longer
EXIT_S: Final = 0.5  # from the end of its socket to its exit code
MAX_TENSORS: Final = 64
MAX_BYTES: Final = 1 << 30  # of all tensors together
ALIGNMENT: Final = 64  # a cache line
DTYPES: Final = frozenset({"float32", "int8", "uint8", "int16", "int32", "int64", "bool"})

log = logging.getLogger(__name__)
_T = TypeVar("_T", bound=Struct)

_lingering: list[subprocess.Popen[bytes]] = []  # sent SIGKILL, and not ended yet
_lingering_lock = threading.Lock()


class _Tensor(Struct, frozen=True):
    name: str
    shape: list[int]
    dtype: str
    scale: float
    zero_point: int


class _Loaded(Struct, frozen=True):
    inputs: list[_Tensor] = []
    outputs: list[_Tensor] = []
    error: str = ""


class IsolatedEngine:
    """See `vedette.engine.base.Engine`, which this is. Ends with this process, however that ends."""

    def __init__(
        self,
        network: Path | bytes,
        delegate: Delegate,
        runtime: Runtime,
        *,
        threads: int = 1,
        deadline_s: float = DEADLINE_S,
        start_timeout_s: float = START_S,
        cancel_fd: int | None = None,
    ) -> None:
        """Starts the child and waits until it has loaded delegate and network. ``network``: a file, or its contents.

        ``deadline_s``: of a run, where `invoke` is given none. ``cancel_fd``: a descriptor; as soon as there is something
        to read from it, whoever waits for the child gets an `EngineRefusedError`.

        Raises `EngineRefusedError` where the delegate, the runtime or this system say no, `EngineCrashedError`,
        `EngineHungError`.
        """
        self._name = f"{delegate.name} in a process of its own"
        self._deadline_s = deadline_s
        self._fault = ""
        self._cancel_fd = cancel_fd
        self._given: list[Tensor] = []
        self._results: list[Tensor] = []
        try:
            self._open(network, delegate, runtime, threads, time.monotonic() + start_timeout_s)
        except OSError as error:  # too many open files, or no memory
            raise EngineRefusedError(f"{self._name} cannot be started", found=error.strerror or str(error)) from None
        engine_class = "edgetpu" if delegate.compiled else runtime.engine_class(self._inputs[0].dtype)
        self._description = EngineDescription(str(runtime), delegate.name, threads, engine_class)

    def _open(self, network: Path | bytes, delegate: Delegate, runtime: Runtime, threads: int, deadline: float) -> None:
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as kept:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            opened.callback(theirs.close)
            kept.callback(self._socket.close)
            lifeline, alive = os.pipe()
            opened.callback(os.close, lifeline)
            kept.callback(os.close, alive)
            memory = os.memfd_create("tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            opened.callback(os.close, memory)
            descriptors = [theirs.fileno(), lifeline, memory]
            if isinstance(network, bytes):
                descriptors.append(_filled(network))
                opened.callback(os.close, descriptors[-1])
                path = f"/proc/self/fd/{descriptors[-1]}"
            else:
                path = os.fspath(network)
            self._process = _start(theirs.fileno(), lifeline, descriptors)
            self._pidfd = os.pidfd_open(self._process.pid)
            self._end = weakref.finalize(self, _end, self._process, self._pidfd, kept.pop_all())
            theirs.close()  # or its end would not be seen
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
            if self._cancel_fd is not None:
                self._poll.register(self._cancel_fd, select.POLLIN)
            job = {
                "module": runtime.module.__name__, "library": delegate.library, "options": dict(delegate.options),
                "network": path, "threads": threads, "memory": memory,
            }  # fmt: skip
            try:
                self._begin(job, memory, deadline)
            except BaseException:
                self.close()
                raise

    def _begin(self, job: dict[str, object], memory: int, deadline: float) -> None:
        self._say(msgspec.json.encode(job))
        loaded = self._heard(deadline, _Loaded)
        self._inputs = tuple(self._spec(tensor) for tensor in loaded.inputs)
        self._outputs = tuple(self._spec(tensor) for tensor in loaded.outputs)
        if not (1 <= len(self._inputs) <= MAX_TENSORS and 1 <= len(self._outputs) <= MAX_TENSORS):
            raise EngineRefusedError(
                f"{self._name}: no network", expected=f"1 to {MAX_TENSORS} inputs and outputs",
                found=f"{len(self._inputs)} and {len(self._outputs)}",
            )  # fmt: skip
        offsets, size = _layout((*self._inputs, *self._outputs))
        if size > MAX_BYTES:
            raise EngineRefusedError(f"{self._name}: tensors too large", expected=f"at most {MAX_BYTES} bytes",
                                     found=str(size))  # fmt: skip
        os.ftruncate(memory, size)
        # of one size for good: a child that has gone mad cannot take these pages from under this process
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        area = mmap.mmap(memory, size)
        views = [
            np.ndarray(spec.shape, spec.dtype, area, offset)
            for spec, offset in zip((*self._inputs, *self._outputs), offsets, strict=True)
        ]
        count = len(self._inputs)
        self._given, self._results = views[:count], views[count:]
        self._say(msgspec.json.encode({"size": size, "inputs": offsets[:count], "outputs": offsets[count:]}))
        self._heard(deadline, _Loaded)

    def _spec(self, tensor: _Tensor) -> TensorSpec:
        if tensor.dtype not in DTYPES or not all(1 <= n <= MAX_BYTES for n in tensor.shape):
            raise EngineRefusedError(
                f"{self._name}: a tensor of no fixed size or of a strange kind", where=tensor.name[:100],
                expected="one of " + ", ".join(sorted(DTYPES)), found=f"{tensor.dtype} {tensor.shape}",
            )  # fmt: skip
        return TensorSpec(tensor.name, tuple(tensor.shape), np.dtype(tensor.dtype), tensor.scale, tensor.zero_point)

    @property
    def description(self) -> EngineDescription:
        """Who runs the model."""
        return self._description

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The network's input tensors."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The network's output tensors."""
        return self._outputs

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def allocate(self) -> tuple[list[Tensor], list[Tensor]]:
        """Buffers of the tensors' sizes, for the caller to own."""
        return [spec.allocate() for spec in self._inputs], [spec.allocate() for spec in self._outputs]

    def invoke(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, deadline_s: float | None = None) -> None:
        """See `Engine.invoke`. Raises `EngineHungError`, `EngineCrashedError` or `EngineRefusedError`.

        After any of these the child has been sent SIGKILL, and every further call raises an `EngineRefusedError`.
        """
        if self._fault:
            raise EngineRefusedError(f"{self._name}: has ended", found=self._fault)
        for view, data in zip(self._given, inputs, strict=True):
            np.copyto(view, data)
        deadline = time.monotonic() + (deadline_s or self._deadline_s)
        try:
            self._say(child.OK)
            answer = self._answer(deadline)
            if answer != child.OK:
                self._parse(answer, _Loaded)
                raise EngineRefusedError(f"{self._name}: no answer that is known", found=repr(answer[:40]))
        except EngineFaultError as fault:
            self._fault = fault.line()
            self._kill()
            raise
        for out, view in zip(outputs, self._results, strict=True):
            np.copyto(out, view)

    def close(self) -> None:
        """Ends the child: asks it to, unless it has failed, and then makes it. Calling it again does nothing."""
        if not self._end.alive:
            return
        if not self._fault:
            self._fault = "it was closed"
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            _ended(self._pidfd, TIDY_S)
        self._end()
        self._given, self._results = [], []  # and with them the memory

    def _say(self, message: bytes) -> None:
        try:
            self._socket.send(message)
        except OSError:  # nobody listens any more
            raise self._crashed() from None

    def _answer(self, deadline: float) -> bytes:
        left_s = max(0.0, deadline - time.monotonic())
        ready = {descriptor for descriptor, _ in self._poll.poll(math.ceil(left_s * 1000))}
        if self._cancel_fd in ready:
            raise EngineRefusedError(f"{self._name}: given up, it is no longer wanted")
        if not ready:
            raise EngineHungError(f"{self._name}: no answer in time")
        try:
            answer = self._socket.recv(child.MAX_MESSAGE)
        except ConnectionError:
            answer = b""
        if not answer:
            raise self._crashed()
        return answer

    def _heard(self, deadline: float, kind: type[_T]) -> _T:
        try:
            return self._parse(self._answer(deadline), kind)
        except EngineFaultError as fault:
            self._fault = fault.line()
            raise

    def _parse(self, answer: bytes, kind: type[_T]) -> _T:
        try:
            said = msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineRefusedError(f"{self._name}: no answer that is known", found=str(error)) from None
        if error_text := getattr(said, "error", ""):
            raise EngineRefusedError(f"{self._name} says no", found=error_text)
        return said

    def _crashed(self) -> EngineCrashedError:
        _ended(self._pidfd, EXIT_S)
        # left a zombie, so that the number of its group stays its own
        left = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if left is None:
            how = "a closed socket"
        elif left.si_code == os.CLD_EXITED:
            how = f"exit code {left.si_status}"
        else:
            how = f"{signal.Signals(left.si_status).name} ({signal.strsignal(left.si_status)})"
        return EngineCrashedError(f"{self._name} ended", found=how)

    def _kill(self) -> None:
        """Without waiting for its end, which `close` sees to."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


def _start(connection: int, lifeline: int, descriptors: list[int]) -> subprocess.Popen[bytes]:
    with _lingering_lock:
        _lingering[:] = [process for process in _lingering if process.poll() is None]
    # -P: not this folder, whose modules are no top-level ones; a session of its own: a terminal's Ctrl-C is the parent's
    command = [sys.executable, "-P", "-W", "ignore", str(Path(child.__file__)), str(connection), str(lifeline)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=descriptors, start_new_session=True
    )


def _filled(data: bytes) -> int:
    """A descriptor of memory that holds these bytes, and will not change."""
    descriptor = os.memfd_create("network", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def _layout(tensors: Sequence[TensorSpec]) -> tuple[list[int], int]:
    """Where each tensor lies, and the size of all, in bytes."""
    offsets, end = [], 0
    for spec in tensors:
        offsets.append(end)
        size = math.prod(spec.shape) * spec.dtype.itemsize
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, end


def _ended(pidfd: int, timeout_s: float) -> bool:
    """Waits for a process's end."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _end(process: subprocess.Popen[bytes], pidfd: int, kept: contextlib.ExitStack) -> None:
    """SIGKILL to the child and all it has started, and gives everything back. ``kept``: this end of what joins them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so that the number is still its own
    if not _ended(pidfd, REAP_S):
        log.warning("process %d does not end: it waits for a device's driver", process.pid)
        with _lingering_lock:
            _lingering.append(process)
    process.poll()
    os.close(pidfd)
    kept.close()
