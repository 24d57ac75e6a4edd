"""An accelerator, and the CPU that takes over when it fails.

The accelerator runs in a process of its own (`vedette.engine.isolated`). It is trusted once it has given the results that
the bundle was proved to give, and asked again now and then whether it still does: a device that is overheated, or whose
cable is loose, may answer anything. When it hangs, crashes, refuses or answers wrongly, the very inference that found it
out is run on the CPU, whose interpreter was loaded before. Meanwhile a thread starts the accelerator anew, with back-off,
and it has to prove itself again.

The CPU's interpreter is kept loaded: it takes 8 MiB of the largest network that ships here (``bench/isolation.py``), and a
take-over that has to load a file first is one more thing that can fail at a bad moment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vedette.contract.errors import (
    EngineCrashedError,
    EngineFaultError,
    EngineHungError,
    EngineRefusedError,
    EngineWrongError,
    VedetteError,
)
from vedette.contract.types import Tensor, TensorSpec

from .base import Engine, EngineDescription
from .selftest import SelfTest

FIRST_S: Final = 10.0  # how long an agent that starts waits for its accelerator, before it begins on the CPU
RETRY_S: Final = (1.0, 60.0)  # from a fault to the next try: at first, and at most
SETTLED_S: Final = 60.0  # whoever ran so long without a fault is tried again soon after one
SAME_STEPS: Final = 1  # of an integer tensor, from one run to another of the same input
SAME_SHARE: Final = 0.01  # of a float tensor's largest value

KINDS: Final[Mapping[type[EngineFaultError], str]] = {
    EngineHungError: "hung",
    EngineCrashedError: "crashed",
    EngineRefusedError: "refused",
    EngineWrongError: "wrong",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Proof:
    """What an accelerator must do before it is trusted.

    ``judge``: runs the bundle's golden vectors; ``samples``: (n, ...) some of their inputs, without their first axis, in
    the input tensor's dtype.
    """

    judge: Callable[[Engine], SelfTest]
    samples: Tensor


@dataclass(frozen=True, slots=True)
class AcceleratorStatus:
    """How an accelerator is. Counts are since the start.

    ``trusted``: it has proved itself, and runs the model now. ``why``: the last fault, or why it has not begun yet; "" where
    there was none. ``proof``: what its last self-test said. ``faults``: by kind, of `KINDS`. ``starts``: how often it
    was tried. ``taken_over``: inferences that the CPU made in its place. ``doubtful``: results between the last check that
    it passed and one that it did not.
    """

    delegate: str
    trusted: bool
    why: str
    proof: str
    faults: Mapping[str, int]
    starts: int
    taken_over: int
    doubtful: int


class AcceleratedEngine:
    """See `vedette.engine.base.Engine`, which this is. `description` is of the engine that ran last.

    Owns both engines, and a thread that starts the accelerator. `status` may be called by any thread.
    """

    def __init__(
        self,
        name: str,
        cpu: Engine,
        delegate: str,
        start: Callable[[int], Engine],
        proof: Proof,
        *,
        check_s: float,
        first_s: float = FIRST_S,
        retry_s: tuple[float, float] = RETRY_S,
    ) -> None:
        """Waits at most ``first_s`` seconds for the accelerator to prove itself.

        ``name``: the model's. ``delegate``: the accelerator's, for messages. ``start``: makes the accelerator, with a
        deadline of its own on each run; it is given a descriptor that becomes readable when it should give up. ``check_s``:
        seconds from one check of the accelerator to the next, 0: none. ``retry_s``: seconds from a fault to the next try,
        at first and at most; each try doubles them.
        """
        self._name = name
        self._cpu = cpu
        self._delegate = delegate
        self._start = start
        self._proof = proof
        self._check_s = check_s
        self._retry_s = retry_s
        self._buffers = cpu.allocate()
        # the invoking thread's
        self._spoke = cpu.description
        self._check_at = 0.0
        self._turn = 0
        self._unchecked = 0
        # under the lock
        self._lock = threading.Lock()
        self._trusted: Engine | None = None
        self._expected: list[list[Tensor]] = []
        self._why = "it has not proved itself yet"
        self._said = ""
        self._faults: Counter[str] = Counter(dict.fromkeys(KINDS.values(), 0))
        self._starts = 0
        self._taken_over = 0
        self._doubtful = 0
        self._lost = threading.Event()  # by the invoking thread: the accelerator has failed
        self._tried = threading.Event()
        self._stopped = threading.Event()
        self._cancel = os.eventfd(0)
        self._thread = threading.Thread(target=self._keep, name=f"accelerator-{name}", daemon=True)
        self._thread.start()
        if not self._tried.wait(first_s):
            log.warning("%s: %s has not answered yet; the CPU begins", name, delegate)
        if (accelerator := self._trusted) is not None:
            self._spoke = accelerator.description

    @property
    def description(self) -> EngineDescription:
        """Who ran the model last; before the first run, who would."""
        return self._spoke

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The network's input tensors."""
        return self._cpu.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The network's output tensors."""
        return self._cpu.outputs

    def status(self) -> AcceleratorStatus:
        """How the accelerator is now."""
        with self._lock:
            return AcceleratorStatus(
                self._delegate, self._trusted is not None, self._why, self._said, dict(self._faults), self._starts,
                self._taken_over, self._doubtful,
            )  # fmt: skip

    def allocate(self) -> tuple[list[Tensor], list[Tensor]]:
        """Buffers of the tensors' sizes, for the caller to own."""
        return self._cpu.allocate()

    def invoke(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, deadline_s: float | None = None) -> None:
        """See `Engine.invoke`. Where the accelerator fails the CPU runs the same inputs, so that no fault is raised."""
        accelerator = self._trusted
        if accelerator is not None:
            try:
                if self._check_s and time.monotonic() >= self._check_at:
                    self._check(accelerator)
                accelerator.invoke(inputs, outputs, deadline_s=deadline_s)
            except EngineFaultError as fault:
                self._lose(fault)
            else:
                self._unchecked += 1
                self._spoke = accelerator.description
                return
        self._cpu.invoke(inputs, outputs)
        self._spoke = self._cpu.description
        self._taken_over += 1

    def close(self) -> None:
        """Ends the accelerator's process and the thread. Calling it again does nothing."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        os.eventfd_write(self._cancel, 1)
        self._lost.set()
        self._thread.join()
        os.close(self._cancel)
        self._cpu.close()

    def _check(self, accelerator: Engine) -> None:
        """Asks for a golden input that it was asked before. Raises `EngineWrongError` where the answer is another one."""
        inputs, outputs = self._buffers
        self._turn = (self._turn + 1) % len(self._expected)
        np.copyto(inputs[0][0], self._proof.samples[self._turn])
        accelerator.invoke(inputs, outputs)
        for found, expected in zip(outputs, self._expected[self._turn], strict=True):
            if not _same(found, expected):
                doubtful, self._unchecked = self._unchecked, 0
                with self._lock:
                    self._doubtful += doubtful
                raise EngineWrongError(
                    f"{self._delegate} answers a golden input otherwise than before", where=self._name,
                    found=f"{doubtful} results since the last check, which nobody can vouch for",
                )  # fmt: skip
        self._unchecked = 0
        self._check_at = time.monotonic() + self._check_s

    def _lose(self, fault: EngineFaultError) -> None:
        with self._lock:
            self._trusted = None
            self._note(fault)
        log.error("%s: %s; the CPU takes over", self._name, str(fault))  # a record may be kept: not the fault's frames
        self._lost.set()

    def _note(self, fault: VedetteError) -> None:
        """Under the lock."""
        self._faults[next((kind for error, kind in KINDS.items() if isinstance(fault, error)), "refused")] += 1
        self._why = fault.line()

    def _keep(self) -> None:
        """The thread: until it is stopped, start the accelerator, wait until it is lost, and begin again."""
        wait_s = self._retry_s[0]
        while not self._stopped.is_set():
            with contextlib.ExitStack() as running:
                trusted = self._try(running)
                self._tried.set()
                if trusted:
                    since = time.monotonic()
                    self._lost.wait()
                    if time.monotonic() - since > SETTLED_S:
                        wait_s = self._retry_s[0]
            if self._stopped.wait(wait_s):
                return
            wait_s = min(2 * wait_s, self._retry_s[1])

    def _try(self, running: contextlib.ExitStack) -> bool:
        """Starts the accelerator and has it prove itself; whether it may be trusted now."""
        with self._lock:
            self._starts += 1
        try:
            accelerator = self._start(self._cancel)
            running.callback(accelerator.close)
            expected = self._prove(accelerator)
        except VedetteError as error:
            if not self._stopped.is_set():
                with self._lock:
                    before = self._why
                    self._note(error)
                if error.line() != before:  # said once, not at each try
                    log.warning("%s: %s cannot be used: %s", self._name, self._delegate, str(error))
            return False
        self._lost.clear()
        with self._lock:
            again = self._starts > 1
            self._expected = expected
            self._check_at = time.monotonic() + self._check_s
            self._unchecked = 0
            self._why = ""
            self._trusted = accelerator
        log.info("%s: %s runs it%s: %s", self._name, self._delegate, " again" if again else "", self._said)
        return not self._stopped.is_set()

    def _prove(self, accelerator: Engine) -> list[list[Tensor]]:
        """What it answers to the samples. Raises `VedetteError` where it cannot be trusted."""
        for own, wanted in ((accelerator.inputs, self._cpu.inputs), (accelerator.outputs, self._cpu.outputs)):
            if [replace(spec, name="") for spec in own] != [replace(spec, name="") for spec in wanted]:
                raise EngineRefusedError(
                    "tensors are not those of the network that the CPU runs", where=self._delegate,
                    expected=", ".join(map(str, wanted)), found=", ".join(map(str, own)),
                )  # fmt: skip
        outcome = self._proof.judge(accelerator)
        self._said = outcome.reason
        if outcome.passed is not True:
            raise EngineWrongError("self-test failed", where=self._delegate, found=outcome.reason)
        inputs, outputs = accelerator.allocate()
        expected = []
        for sample in self._proof.samples:
            np.copyto(inputs[0][0], sample)
            accelerator.invoke(inputs, outputs)
            expected.append([output.copy() for output in outputs])
        return expected


def _same(found: Tensor, expected: Tensor) -> bool:
    off = np.abs(found.astype(np.float64) - expected)
    if found.dtype != np.float32:
        return bool((off <= SAME_STEPS).all())
    # not "more than": of what is no number nothing is true
    return bool((off <= SAME_SHARE * np.abs(expected).max()).all())
