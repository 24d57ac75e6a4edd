"""What an engine is. Shaped for a child process: buffers of fixed size that the caller owns, a deadline on each call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vedette.contract.manifest import EngineClass
from vedette.contract.types import Tensor, TensorSpec


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """Who runs the model, as messages say it."""

    runtime: str  # "litert 2.3.0"
    delegate: str  # "xnnpack", "none"
    threads: int
    engine_class: EngineClass


class Engine(Protocol):
    """Runs one network.

    Life cycle: built with the network loaded and its tensors allocated, then `invoke` any number of times, then
    `close` once. `invoke` is never called by two threads at a time, and not after `close`; so no locking is needed.
    """

    @property
    def description(self) -> EngineDescription:
        """Who runs the model."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The network's input tensors."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The network's output tensors."""
        ...

    def allocate(self) -> tuple[list[Tensor], list[Tensor]]:
        """One buffer for each input and each output, of fixed size, for the caller to own and use again."""
        ...

    def invoke(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, deadline_s: float | None = None) -> None:
        """Copies ``inputs`` in, runs the network once, copies its results into ``outputs``.

        ``deadline_s``: give up after so many seconds, where the engine can (one in another process; an in-process
        engine cannot be interrupted and takes the deadline as advice for its supervisor's watchdog).
        The GIL is released while the network runs. Raises `EngineFaultError`; the outputs are then undefined.
        """
        ...

    def close(self) -> None:
        """Gives everything back. Calling it again does nothing."""
        ...
