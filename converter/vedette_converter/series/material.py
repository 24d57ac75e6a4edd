"""Windows of recordings as what a network is fed, taught, judged and proved with: see `vedette_converter.material`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from vedette.contract.errors import FaultError, UserError
from vedette.contract.golden import Golden
from vedette.contract.manifest import (
    AnomalyOutput,
    ClassifyOutput,
    Dataset,
    Evaluation,
    Metric,
    RegressOutput,
    SeriesInput,
)
from vedette.contract.types import Float32Array, Tensor, TensorSpec
from vedette.engine import Engine

from ..agreement import Agreement
from ..evaluate import Accuracy, rounded
from ..load import Network
from ..pictured import read_labels
from ..progress import Progress
from ..quantise.findings import Limits
from ..recipe import Recipe, RecipeFile
from ..recipe.series import AnomalyHead
from ..recipe.training import ZooSource
from ..report.samples import Look
from ..subject import Subject
from ..zoo.network import as_network
from ..zoo.windows import autoencoder, separable
from . import golden as series_golden
from . import plot
from .given import sort_out
from .judge import Judge, look, scores_of
from .recordings import Recording, dataset, list_recordings
from .taken import oddities
from .windows import Windows, WindowSamples, cut, moments, tensors, training_samples

ALONE: Final = 2.0  # times as high as without it: a recording that sets the threshold by itself
DIGITS: Final = 6  # of a threshold: what a manifest can say in print


@dataclass(frozen=True, slots=True)
class Recorded:
    """See `vedette_converter.material.Material`."""

    file: RecipeFile
    name: str
    """Of the folder of ``--data``."""
    input: SeriesInput
    labels: tuple[bytes, tuple[str, ...]]
    learned: Windows | None
    held_back: Windows | None
    chosen: Windows
    """What is calibrated with."""
    compared: Windows
    judged: Windows | None
    judged_name: str
    proving: Windows
    """What golden vectors are drawn of."""
    threshold: float | None = None
    alone: str = ""
    """Of a held back recording that the threshold hangs on, what is to be asked."""
    noun: str = "windows"

    @property
    def recipe(self) -> Recipe:
        """The file's."""
        return self.file.recipe

    @property
    def output(self) -> ClassifyOutput | AnomalyOutput | RegressOutput:
        """See `Material`."""
        head = self.recipe.output
        if isinstance(head, AnomalyHead):
            if self.threshold is None:
                raise FaultError("the threshold is not found yet")
            return head.decoded(self.threshold)
        assert isinstance(head, ClassifyOutput | RegressOutput)  # a recipe's series has no boxes
        return head

    @property
    def calibration(self) -> Dataset:
        """See `Material`."""
        used = sorted(set(self.chosen.recording))
        return dataset(self.name, [self.chosen.recordings[n] for n in used], len(self.chosen))

    @property
    def calibration_count(self) -> int:
        """See `Material`."""
        return len(self.chosen)

    @property
    def shape(self) -> None:
        """See `Material`: `SeriesPreprocessor` knows several."""
        return None

    def zoo(self) -> Network:
        """See `Material`."""
        source, head, spec = self.recipe.source, self.recipe.output, self.input
        assert isinstance(source, ZooSource)  # asked by the caller
        if spec.layout != "time-channel":
            raise UserError("[input] layout", expected='"time-channel" for a network of the zoo', found=spec.layout)
        sizes = {"length": spec.length, "channels": len(spec.channels)}
        if source.network == "autoencoder":
            return as_network(autoencoder(**sizes, filters=source.filters, code=source.code, seed=source.seed))
        classes = isinstance(head, ClassifyOutput)
        softmax = isinstance(head, ClassifyOutput) and head.activation == "none"
        model = separable(
            **sizes, outputs=len(self.labels[1]), softmax=softmax, filters=source.filters, dropout=source.dropout,
            seed=source.seed, name="classes" if classes else "numbers",
        )  # fmt: skip
        return as_network(model)

    def samples(self, tensor: TensorSpec, on_sample: Callable[[], None] = lambda: None) -> Iterator[Float32Array]:
        """See `Material`."""
        for number in range(len(self.chosen)):
            yield tensors(self.chosen.take(np.array([number])), self.input, tensor)
            on_sample()

    def limits(self) -> list[Limits]:
        """See `Material`: a sensor's readings have none that are known."""
        return []

    def training(self, network: Network, progress: Progress) -> WindowSamples:
        """See `Material`."""
        assert self.learned is not None  # read where the recipe trains
        head = self.recipe.output
        targets = np.empty((len(self.learned), 0), np.float32)
        if isinstance(head, AnomalyHead):
            shape = _picked(network, head.reconstruction).shape[1:]
            inputs = tensors(self.learned, self.input, network.input)
            if np.prod(shape) != inputs[0].size:
                raise UserError(
                    "an autoencoder's output",
                    expected=f"as many values as its input, {inputs[0].size}",
                    found=f"{shape}",
                )
            targets = inputs.reshape(len(inputs), *shape)
        elif isinstance(head, RegressOutput) and self.learned.targets.shape[1]:
            offset, scale = (np.asarray(v, np.float32) for v in (head.offset, head.scale))
            shape = _picked(network, head.values).shape[1:]
            targets = ((self.learned.targets - offset) / scale).astype(np.float32).reshape(-1, *shape)
        return training_samples(self.learned, self.input, network.input, targets, self.recipe.series.jitter)

    def settled(self, engine: Engine, progress: Progress) -> Recorded:
        """See `Material`: the threshold of anomalies, a quantile of this network's scores on normal windows."""
        head = self.recipe.output
        if not isinstance(head, AnomalyHead):
            return self
        if head.threshold is not None:
            return dataclasses.replace(self, threshold=head.threshold)
        assert self.held_back is not None  # read where the recipe leaves the threshold open
        subject = Subject(engine, self.input, head.decoded(1.0), self.labels[1], score_threshold=None)
        (found,) = look([subject], self.held_back, progress.begin("threshold", len(self.held_back)))
        scores, recording = scores_of(found), self.held_back.recording
        threshold = float(np.quantile(scores, head.quantile, method="higher"))
        if not threshold > 0:
            raise UserError("no threshold can be found", expected="reconstructions that differ from their input",
                            found="none on the normal recordings that were held back")  # fmt: skip
        alone = ""
        for number in np.unique(recording):
            others = scores[recording != number]
            without = float(np.quantile(others, head.quantile, method="higher")) if len(others) else threshold
            if without * ALONE < threshold:
                alone = (
                    f"{self.held_back.recordings[number].path} alone makes the threshold {threshold:.4g}, which would be "
                    f"{without:.4g} without it: is it a normal one?"
                )
        return dataclasses.replace(self, threshold=float(f"{threshold:.{DIGITS}g}"), alone=alone)

    def agreement(self, before: Engine, after: Engine, progress: Progress, *, calibration: bool = False) -> Agreement:
        """See `Material`."""
        return self._judge(before, after).agreement(self.chosen if calibration else self.compared, progress)

    def accuracy(self, before: Engine, after: Engine, progress: Progress) -> Accuracy | None:
        """See `Material`."""
        if self.judged is None:
            return None
        data = dataset(self.judged_name, self.judged.recordings, len(self.judged))
        return self._judge(before, after).accuracy(self.judged, data, progress)

    def evaluation(self, accuracy: Accuracy | None, agreement: Agreement) -> list[Evaluation]:
        """See `Material`."""
        evaluations = []
        if accuracy is not None:
            first = Metric(
                name=_NAMES[accuracy.metric], before=round(accuracy.before, 4), after=round(accuracy.after, 4),
                difference_interval=rounded(accuracy.interval),
            )  # fmt: skip
            others = [
                Metric(
                    name=figure.name, before=round(figure.before, 4), after=round(figure.after, 4), unit=figure.unit,
                    difference_interval=rounded(figure.interval),
                )
                for figure in accuracy.more
            ]  # fmt: skip
            evaluations.append(Evaluation(data=accuracy.data, metrics=[first, *others]))
        metric = Metric(name=self._agreement_name(agreement), before=1.0, after=round(agreement.share, 4))
        used = sorted(set(self.compared.recording))
        data = dataset(self.name, [self.compared.recordings[n] for n in used], len(self.compared))
        return [*evaluations, Evaluation(data=data, metrics=[metric])]

    def golden(self, before: Engine, after: Engine) -> Golden:
        """See `Material`."""
        subjects = (self._subject(before), self._subject(after))
        return series_golden.make(*subjects, self.proving, self.input, self.recipe, self.output)

    def typical(self, engine: Engine) -> Tensor:
        """See `Material`."""
        return self._subject(engine).preprocess(self.chosen.values[0])[None]

    def look(self, before: Engine, after: Engine, count: int, progress: Progress) -> Look:
        """See `Material`. Anomalies are in ``--evaluate`` alone."""
        anomalies = isinstance(self.recipe.output, AnomalyHead)
        shown = self.judged if anomalies and self.judged is not None else self.compared
        return plot.sample_windows(
            (self._subject(before), self._subject(after)), shown, count, self.output, self.labels[1],
            self.recipe.evaluate, progress,
        )  # fmt: skip

    def findings(self) -> Sequence[str]:
        """See `Material`."""
        parts = [part for part in (self.learned, self.held_back, self.compared, self.judged) if part is not None]
        taken = {one.path: own for part in parts for one, own in zip(part.recordings, part.taken, strict=True)}
        found = oddities(taken, self.input)
        if self.judged is None:
            found.append(
                "nothing was given to judge by (--evaluate): nobody knows how well the network does, only that the bundle "
                "does as its float original"
            )
        head, held_back = self.recipe.output, self.held_back
        if (
            isinstance(head, AnomalyHead)
            and held_back is not None
            and round(len(held_back) * (1 - head.quantile), 6) < 1
        ):
            found.append(
                f"the threshold is the highest score of {len(held_back)} normal windows that were held back: quantile "
                f"{head.quantile:g} wants {math.ceil(round(1 / (1 - head.quantile), 6))} or more"
            )
        if self.alone:
            found.append(self.alone)
        if self.held_back is not None and self.learned is None:
            found.append("the threshold was found on recordings that are taken to be normal and not learned from")
        return found

    def _subject(self, engine: Engine, *, every_score: bool = False) -> Subject:
        """``every_score``: the best class is told whatever its score, as top-1 has it."""
        least = 0.0 if every_score and isinstance(self.output, ClassifyOutput) else None
        return Subject(engine, self.input, self.output, self.labels[1], score_threshold=least)

    def _judge(self, before: Engine, after: Engine) -> Judge:
        first, second = (self._subject(engine, every_score=True) for engine in (before, after))
        return Judge(first, second, self.output, self.recipe.evaluate)

    def _agreement_name(self, agreement: Agreement) -> str:
        if isinstance(self.output, ClassifyOutput):
            return (
                f"share of the {agreement.confident} windows of whose class the float network is sure (score >= "
                f"{self.recipe.evaluate.confident:g}) that keep it (score >= {self.recipe.evaluate.partner_score:g})"
            )
        if isinstance(self.output, AnomalyOutput):
            return f"share of the {agreement.confident} windows clearly on one side of the threshold that stay there"
        return (
            f"share of {agreement.confident} windows whose values differ by at most {self.recipe.evaluate.near:g} of "
            "their range"
        )


_NAMES: Final = {"top-1": "top-1 accuracy", "AUC": "area under the ROC curve", "R2": "coefficient of determination R2"}


def _picked(network: Network, index: int) -> TensorSpec:
    if index >= len(network.outputs):
        raise UserError("[output]", expected=f"an output below {len(network.outputs)}", found=index)
    return network.outputs[index]


def read_recorded(
    file: RecipeFile, data: Path, annotated: Sequence[Path], train: Path | None, progress: Progress
) -> Recorded:
    """Reads and checks what is given on the command line. Raises `UserError`."""
    recipe, spec = file.recipe, file.recipe.input
    assert isinstance(spec, SeriesInput)  # asked by the caller
    labels = _labels(file, spec)
    given = sort_out(recipe, labels[1], data, annotated, train)
    quantities = recipe.output.quantities if isinstance(recipe.output, RegressOutput) else ()

    plain = spec

    def windows(
        recordings: Sequence[Recording], what: str, *, targets: bool = False, stride: int | None = None
    ) -> Windows | None:
        if not recordings:
            return None
        return cut(
            recordings, plain, recipe.series, quantities=quantities if targets else (), stride=stride,
            on_recording=progress.begin(what, len(recordings)),
        )  # fmt: skip

    needs_targets = recipe.train is not None
    learned = windows(given.learned, "training windows", targets=needs_targets, stride=recipe.series.stride)
    held_back = windows(given.held_back, "normal windows")
    usual = windows(given.calibrated, "calibration windows")
    compared = windows(given.compared, "windows")
    judged = windows(given.judged, "windows to judge by", targets=True)
    assert usual is not None and compared is not None  # `sort_out` raises where there are none
    if recipe.series.normalise == "auto":
        mean, std = moments(learned if learned is not None else usual)
        spec = msgspec.structs.replace(spec, mean=mean, std=std)
    proving = compared
    if recipe.golden.recordings:
        own = windows(list_recordings(file.resolve(recipe.golden.recordings), recipe.series.group), "golden windows")
        assert own is not None  # `list_recordings` raises where there are none
        proving = own
    options = recipe.evaluate
    return Recorded(
        file, data.resolve().name or "recordings", spec, labels, learned, held_back,
        usual.draw(recipe.quantise.pictures, recipe.quantise.seed), compared.draw(options.pictures, options.seed), judged,
        annotated[0].resolve().name if annotated else "", proving,
    )  # fmt: skip


def _labels(file: RecipeFile, spec: SeriesInput) -> tuple[bytes, tuple[str, ...]]:
    """The classes' names of the file; channels and quantities have theirs already."""
    recipe = file.recipe
    if isinstance(recipe.output, ClassifyOutput):
        return read_labels(file)
    named = recipe.output.quantities if isinstance(recipe.output, RegressOutput) else spec.channels
    names = tuple(channel.name for channel in named)
    if recipe.labels.file:
        raw, stated = read_labels(file)
        if stated != names:
            raise UserError("labels", where=file.resolve(recipe.labels.file), expected=", ".join(names),
                            found=", ".join(stated), fix="leave out [labels]")  # fmt: skip
        return raw, stated
    return ("\n".join(names) + "\n").encode(), names
