"""What a build found out: every network that stood on the way, and what became of the recipe's promises."""

from __future__ import annotations

from dataclasses import dataclass

from vedette.contract.manifest import EngineClass
from vedette.contract.verdict import Verdict

from .agreement import Agreement
from .evaluate import Accuracy
from .gate import GateRow
from .latency import Latency, Timing
from .prune import Cost


@dataclass(frozen=True, slots=True)
class Stage:
    """One network on the way, as a flatbuffer."""

    name: str
    """``float32``, ``pruned float32``, ``int8`` ..."""
    bytes: int
    """Of the flatbuffer."""
    compressed_bytes: int
    """Of the flatbuffer in deflate at its best: what a download weighs."""
    timing: Timing
    """All stages by turns, in one run."""
    accuracy: Accuracy | None
    """Against the first stage, whose own figure is its ``before``; None for the first, and without annotated pictures."""
    agreement: Agreement | None
    """With the first stage; None for the first."""
    cost: Cost | None
    """Of the Keras network behind it, where there is one."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Before and after, and all stages between."""

    name: str
    precision: str
    stages: tuple[Stage, ...]
    """In order; the first is what all are compared with, ``product`` says which one is the bundle's."""
    product: int
    latency: Latency
    rows: tuple[GateRow, ...]
    verdicts: dict[EngineClass, Verdict]
    findings: tuple[str, ...]
    """What is worth a look: calibration data unlike the input, assumptions that nobody stated."""
    seconds: dict[str, float]
    """By step."""
    peak_bytes: int
    """The most memory that this process held, resident."""
    noun: str = "pictures"
    """What the networks were judged on: ``pictures`` or ``windows``."""

    @property
    def before(self) -> Stage:
        """The float original, trained where the recipe trains."""
        return self.stages[0]

    @property
    def after(self) -> Stage:
        """What is in the bundle."""
        return self.stages[self.product]

    @property
    def accuracy(self) -> Accuracy | None:
        """Of the product."""
        return self.after.accuracy

    @property
    def agreement(self) -> Agreement:
        """Of the product."""
        assert self.after.agreement is not None  # only the first stage has none, and it is no product
        return self.after.agreement
