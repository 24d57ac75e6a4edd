"""What a recipe's networks are fed, taught, judged and proved with: pictures, or windows of recordings.

`vedette_converter.build` has one way through for both; what differs stands behind `Material`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from vedette.contract.golden import Golden
from vedette.contract.manifest import Dataset, Evaluation, InputSpec, OutputSpec
from vedette.contract.types import Float32Array, Tensor, TensorSpec
from vedette.engine import Engine

from .agreement import Agreement
from .evaluate import Accuracy
from .load import Network
from .progress import Progress
from .quantise.findings import Limits
from .report.samples import Look
from .train.data import TrainingSamples


class Material(Protocol):
    """One recipe's, read and checked. Frozen."""

    @property
    def noun(self) -> str:
        """``pictures`` or ``windows``, for tables."""
        ...

    @property
    def input(self) -> InputSpec:
        """For the manifest."""
        ...

    @property
    def output(self) -> OutputSpec:
        """For the manifest. An anomaly's threshold is there once `settled` has found it; `FaultError` before."""
        ...

    @property
    def labels(self) -> tuple[bytes, tuple[str, ...]]:
        """``labels.txt`` and its lines."""
        ...

    @property
    def calibration(self) -> Dataset:
        """For the manifest."""
        ...

    @property
    def calibration_count(self) -> int:
        """How many samples there are."""
        ...

    @property
    def shape(self) -> tuple[int, ...] | None:
        """What a network is to be fed, batch 1 included; None: what it was made for."""
        ...

    def zoo(self) -> Network:
        """The recipe's network of the zoo."""
        ...

    def samples(self, tensor: TensorSpec, on_sample: Callable[[], None] = ...) -> Iterator[Float32Array]:
        """Calibration samples for the network's input, one at a time, batch included."""
        ...

    def limits(self) -> list[Limits]:
        """Of the input's values, where they are known."""
        ...

    def training(self, network: Network, progress: Progress) -> TrainingSamples:
        """What the recipe trains on. Raises `UserError`."""
        ...

    def settled(self, engine: Engine, progress: Progress) -> Material:
        """With what only a network can tell."""
        ...

    def agreement(self, before: Engine, after: Engine, progress: Progress, *, calibration: bool = False) -> Agreement:
        """Over ``--data``; ``calibration``: over what is calibrated with alone."""
        ...

    def accuracy(self, before: Engine, after: Engine, progress: Progress) -> Accuracy | None:
        """Over ``--evaluate``; None where that was not given."""
        ...

    def evaluation(self, accuracy: Accuracy | None, agreement: Agreement) -> list[Evaluation]:
        """What the manifest says of both."""
        ...

    def golden(self, before: Engine, after: Engine) -> Golden:
        """Inputs as ``after`` takes them, results as ``before`` sees them. Raises `UserError` where they prove nothing."""
        ...

    def typical(self, engine: Engine) -> Tensor:
        """An input to time an engine with, batch included."""
        ...

    def look(self, before: Engine, after: Engine, count: int, progress: Progress) -> Look:
        """Some samples with what either network makes of them, for the report."""
        ...

    def findings(self) -> Sequence[str]:
        """What is worth a look."""
        ...
