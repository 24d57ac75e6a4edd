"""Pictures as what a network is fed, taught, judged and proved with: see `vedette_converter.material`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vedette.contract.errors import UserError
from vedette.contract.golden import Golden
from vedette.contract.labels import parse_labels
from vedette.contract.manifest import ClassifyOutput, Dataset, Evaluation, ImageInput
from vedette.contract.types import Float32Array, Tensor, TensorSpec
from vedette.engine import Engine

from . import calibrate, coco, evaluate, package
from .agreement import Agreement
from .calibrate import Calibration
from .evaluate import Accuracy, Pair, Truth
from .load import Network
from .pictures import dataset, digest, draw, list_pictures, read_picture
from .progress import Progress, Silent
from .quantise import limits_of
from .quantise.findings import Limits
from .recipe import PicturedOutput, Recipe, RecipeFile
from .recipe.flags import FLAGS
from .recipe.training import ZooSource
from .report.samples import Look, sample_pictures
from .subject import Subject
from .train import data as training_data
from .train.data import Labelled, Samples
from .zoo.network import as_network
from .zoo.resnet import resnet


@dataclass(frozen=True, slots=True)
class Pictures:
    """See `vedette_converter.material.Material`."""

    file: RecipeFile
    data: Path
    """The folder of ``--data``."""
    train: Path
    labels: tuple[bytes, tuple[str, ...]]
    chosen: Calibration
    truth: Truth | None
    noun: str = "pictures"

    @property
    def recipe(self) -> Recipe:
        """The file's."""
        return self.file.recipe

    @property
    def input(self) -> ImageInput:
        """See `Material`."""
        return self.recipe.image

    @property
    def output(self) -> PicturedOutput:
        """See `Material`."""
        return self.recipe.pictured

    @property
    def calibration(self) -> Dataset:
        """See `Material`."""
        return self.chosen.data

    @property
    def calibration_count(self) -> int:
        """See `Material`."""
        return len(self.chosen.pictures)

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Material`."""
        return (1, self.input.height, self.input.width, self.input.channels)

    def zoo(self) -> Network:
        """See `Material`."""
        source = self.recipe.source
        assert isinstance(source, ZooSource)  # asked by the caller
        _, height, width, channels = self.shape
        model = resnet(
            source.network, height=height, width=width, channels=channels, classes=len(self.labels[1]),
            filters=source.filters, seed=source.seed,
        )  # fmt: skip
        return as_network(model)

    def samples(self, tensor: TensorSpec, on_sample: Callable[[], None] = lambda: None) -> Iterator[Float32Array]:
        """See `Material`."""
        return self.chosen.samples(self.input, on_sample)

    def limits(self) -> list[Limits]:
        """See `Material`."""
        return [limits_of(self.input)]

    def training(self, network: Network, progress: Progress) -> Samples:
        """See `Material`."""
        listed = _learned(self.recipe, self.train, self.labels[1])
        return training_data.decode(listed, self.input, progress.begin("decode", len(listed.files)))

    def settled(self, engine: Engine, progress: Progress) -> Pictures:
        """See `Material`: nothing is left open."""
        return self

    def agreement(self, before: Engine, after: Engine, progress: Progress, *, calibration: bool = False) -> Agreement:
        """See `Material`."""
        pictures = list(self.chosen.pictures) if calibration else self._everything()
        return evaluate.measure_agreement(self.pair(before, after), pictures, self.recipe.evaluate, progress)

    def accuracy(self, before: Engine, after: Engine, progress: Progress) -> Accuracy | None:
        """See `Material`."""
        if self.truth is None:
            return None
        return evaluate.measure_accuracy(self.pair(before, after), self.truth, self.recipe.evaluate, progress)

    def evaluation(self, accuracy: Accuracy | None, agreement: Agreement) -> list[Evaluation]:
        """See `Material`."""
        return evaluate.as_manifest(
            accuracy, agreement, dataset(self.data.name or "pictures", self._everything()), self.recipe.evaluate,
            classifies=isinstance(self.output, ClassifyOutput),
        )  # fmt: skip

    def golden(self, before: Engine, after: Engine) -> Golden:
        """See `Material`."""
        pair = self.pair(before, after)
        options = self.recipe.golden
        return package.make_golden(
            *pair.subjects(options.score_threshold), self.file.resolve(options.pictures), options.raw,
            classifies=pair.classifies,
        )  # fmt: skip

    def typical(self, engine: Engine) -> Tensor:
        """See `Material`."""
        pixels = read_picture(list_pictures(self.file.resolve(self.recipe.golden.pictures))[0])
        subject = Subject(engine, self.input, self.output, self.labels[1], score_threshold=0.5)
        return subject.preprocess(pixels)[None]

    def look(self, before: Engine, after: Engine, count: int, progress: Progress | None = None) -> Look:
        """See `Material`."""
        pair = self.pair(before, after)
        return sample_pictures(pair, self._everything(), count, self.recipe.evaluate, progress or Silent())

    def findings(self) -> Sequence[str]:
        """See `Material`."""
        left = self.truth.unlabelled if isinstance(self.truth, coco.AnnotatedPictures) else {}
        if not left:
            return ()
        named = ", ".join(list(left)[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        return (
            f"{sum(left.values())} annotated objects are of categories that are no labels, and not judged by: {named}",
        )

    def pair(self, before: Engine, after: Engine) -> Pair:
        """Two engines, to be compared."""
        return Pair(before, after, self.input, self.output, self.labels[1])

    def _everything(self) -> list[Path]:
        options = self.recipe.evaluate
        return draw(list_pictures(self.data), options.pictures, options.seed)


def read_pictures(file: RecipeFile, data: Path, annotated: Sequence[Path], train: Path | None) -> Pictures:
    """Reads and checks what is given on the command line. Raises `UserError`."""
    recipe = file.recipe
    labels = read_labels(file)
    chosen = calibrate.choose(data, recipe.quantise.pictures, recipe.quantise.seed)
    truth = read_truth(recipe, annotated, train or data, labels[1])
    return Pictures(file, data, train or data, labels, chosen, truth)


def _learned(recipe: Recipe, folder: Path, labels: tuple[str, ...]) -> Labelled:
    needs = recipe.train is not None or (recipe.distil is not None and recipe.distil.label_weight > 0)
    needs = needs or (recipe.prune is not None and recipe.prune.criterion == "taylor")
    return training_data.list_labelled(folder, labels) if needs else training_data.list_unlabelled(folder)


def _expect_apart(judged: Sequence[Path], learned: Sequence[Path], flag: str) -> None:
    """By content: a copy under another name is the same picture."""
    known = {digest(path): path for path in learned}
    both = [(path, known[found]) for path in judged if (found := digest(path)) in known]
    if both:
        raise UserError(
            "is learned from, so nothing can be judged by it", where=both[0][0], expected="another picture",
            found=f"the same in --train: {both[0][1]}, one of {len(both)} such", fix=f"give {flag} pictures of its own",
        )  # fmt: skip


def read_labels(file: RecipeFile) -> tuple[bytes, tuple[str, ...]]:
    """The file that the recipe names, and its lines. Raises `UserError`."""
    path = file.resolve(file.recipe.labels.file)
    try:
        raw = path.read_bytes()
    except OSError as error:
        said = "mend --labels" if file.path == FLAGS else f"{file.path}: labels.file"
        raise UserError("labels cannot be read", where=path, found=error.strerror or str(error), fix=said) from None
    labels = parse_labels(raw, path)
    numbered = any(
        all(re.match(rf"{number}(\s*[,;:]|\s\s)", label) for number, label in enumerate(labels, first))
        for first in (0, 1)
    )
    if numbered or re.match(r'[\[{]\s*("|$)', labels[0]):
        raise UserError(
            "labels are written otherwise", where=path, expected="a label a line, class 0 first, and nothing else",
            found=repr(labels[0]), fix="write it so: no JSON, no numbers",
        )  # fmt: skip
    return raw, labels


def read_truth(
    recipe: Recipe, annotated: Sequence[Path], train: Path, labels: tuple[str, ...], flag: str = "--evaluate"
) -> Truth | None:
    """What is judged by; none of it may be in ``train``, where the recipe trains. Raises `UserError`."""
    if not annotated:
        return None
    if recipe.task == "detect":
        return coco.read_annotated(annotated, labels)
    if len(annotated) > 1:
        raise UserError(flag, expected="one folder, with one folder a label", found=f"{len(annotated)}")
    if len(labels) == 1:
        raise UserError(
            f"{flag}: there is nothing to tell apart", where=annotated[0], expected="two labels at least", found=labels[0],
            fix="name what it is not in a line before it, and give that a folder too",
        )  # fmt: skip
    truth = training_data.list_labelled(annotated[0], labels)
    if recipe.trains:
        _expect_apart(truth.files, _learned(recipe, train, labels).files, flag)
    return truth
