"""The steps of a Keras network before it is quantised: train -> prune and distil, a cut at a time -> the student.

::

    source --[train]--> the float network that all is compared with (the teacher)
                           |--[prune: cut, recover, cut, ...]--[distil]--> the student
                                                        the same shape, new weights --[distil]--> the control

Every step is kept in a work folder as soon as it is done, and a training after each epoch.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from vedette.contract.errors import UserError
from vedette.contract.manifest import ClassifyOutput, ImageInput, RegressOutput
from vedette.engine import TfliteEngine, load_runtime

from . import prune
from .cloned import copied, renewed
from .distil.classify import Activation, CrossEntropy, Distillation
from .distil.imitate import Imitation
from .latency import time_both
from .progress import Progress
from .prune import gradual
from .recipe import PicturedOutput
from .recipe.series import AnomalyHead
from .recipe.training import Augment, Distil, Prune, Train
from .tensorflow import load_tensorflow
from .train.answers import ask
from .train.data import Augmentation, Samples, TrainingBatches, TrainingSamples
from .train.loop import Loss, Schedule, fit
from .train.sparsity import Sparsity
from .train.work import Work, network_digest

TAYLOR_BATCHES: Final = 16  # gradients over some thousand pictures rank channels well (arXiv 1906.10771, section 4)
RECONSTRUCTION_BATCH: Final = 32  # samples at a time
LATENCY_ROUNDS: Final = 30  # of each measurement while a latency is sought


@dataclass(frozen=True, slots=True)
class Student:
    """What the steps made of a network."""

    teacher: Any
    """The float network that the result is compared with: the source, trained where the recipe trains."""
    model: Any
    """What is to be quantised; the teacher itself where nothing was pruned."""
    control: Any | None
    """The same architecture trained from nothing, where the recipe asks for it."""
    plan: prune.Plan | None
    cost_before: prune.Cost
    cost_after: prune.Cost


@dataclass(frozen=True, slots=True)
class Steps:
    """Runs the recipe's steps on one network's pictures or windows."""

    output: PicturedOutput | AnomalyHead | RegressOutput
    work: Work
    progress: Progress
    to_int8: Callable[[Any], bytes]
    """Keras network -> int8 flatbuffer, for latencies."""

    def train(self, model: Any, options: Train, samples: TrainingSamples) -> Any:
        """With labels or, where numbers are learned, targets. Raises `UserError` where the samples have none."""
        loss: Loss
        if self._imitates:
            loss = Imitation()
        else:
            loss = CrossEntropy(self._activation("train", model), options.label_smoothing)
            if not len(samples.class_ids):
                raise UserError("[train] needs labels", fix="--train FOLDER with one folder a label")
        step = self.work.step("train", network_digest(model), options, self._meaning, samples.sha256, samples.spec)
        done = step.load()
        if done is not None:
            return done
        batches = samples.batches(options.batch, _augmentation(options.augment), options.seed)
        with step.alone():
            fit(
                model, batches, loss,
                Schedule(
                    options.epochs, options.learning_rate, options.weight_decay, optimizer=options.optimizer
                ),
                name="train", progress=self.progress, checkpoint=step.checkpoint, bfloat16=_bfloat16(samples),
            )  # fmt: skip
            step.keep(model)
        return model

    def prune_and_distil(
        self, model: Any, cut: Prune | None, options: Distil | None, sparsify: Sparsity | None,
        samples: TrainingSamples, larger: Any | None, larger_spec: ImageInput | None = None, *, together: bool = False,
    ) -> Student:  # fmt: skip
        """``model``: the float network; it stays as it is. ``larger``: the recipe's own teacher, if it names one, and
        ``larger_spec``: what that one takes, where it is not what the network takes. ``together``: both teach.

        Raises `UserError` where the options do not fit the network or the samples.
        """
        before = prune.count(model)
        taught = samples
        if larger_spec is not None and isinstance(samples, Samples):
            taught = dataclasses.replace(samples, spec=larger_spec)
        teachers = [_Teacher(model if larger is None else larger, taught)]
        if together:
            teachers.append(_Teacher(model, samples))
        shape: prune.Plan | None = None
        student = model
        if cut is not None:
            shape, student = self._cut(model, cut, options, samples, teachers)
        elif options is not None or sparsify is not None:
            student = copied(model)
        control = None
        if options is not None:
            fresh = renewed(student, options.seed) if options.control else None
            student = self._distil("distil", student, teachers, options, sparsify, samples, options.epochs)
            if fresh is not None:
                recovering = 0 if cut is None else (cut.steps - 1) * cut.recover
                control = self._distil(
                    "control", fresh, teachers, options, sparsify, samples, options.epochs + recovering
                )
        return Student(model, student, control, shape, before, prune.count(student))

    def _cut(
        self, model: Any, cut: Prune, options: Distil | None, samples: TrainingSamples, teachers: Sequence[_Teacher]
    ) -> tuple[prune.Plan, Any]:
        if cut.steps > 1 and options is None:
            raise UserError("[prune] steps", expected="[distil], to recover with between the cuts", found="none")
        criterion = self._criterion(model, cut, samples)
        if cut.latency is not None:
            shape = self._plan_for_latency(model, criterion, cut)
        else:
            shape = prune.plan(
                model, criterion, ratio=cut.ratio, scope=cut.scope, multiple=cut.multiple, overrides=cut.layers
            )
        kept = gradual.goal(shape)
        student = model
        for number in range(1, cut.steps + 1):
            found = gradual.step_towards(student, criterion, kept, number, cut.steps, multiple=cut.multiple)
            whole, student = student, prune.apply(student, found)
            if cut.reconstruct:
                self._reconstruct(whole, student, found, samples, cut.reconstruct)
            if number < cut.steps:
                assert options is not None  # asked above
                student = self._distil(
                    f"cut {number} of {cut.steps}", student, teachers, options, None, samples, cut.recover
                )
        return shape, student

    def _reconstruct(self, whole: Any, student: Any, cut: prune.Plan, samples: TrainingSamples, count: int) -> None:
        tf = load_tensorflow()
        if min(count, len(samples)) < prune.HELD_BACK:
            raise UserError(
                "[prune] reconstruct", expected=f"0, or at least {prune.HELD_BACK} samples",
                found=min(count, len(samples)),
            )  # fmt: skip
        size = min(count, RECONSTRUCTION_BATCH)
        first = samples.batches(size, None, 0).epoch(0)
        shown = [tf.constant(inputs) for _, (inputs, _, _) in zip(range(-(-count // size)), first, strict=False)]
        advance: list[Callable[[], None]] = []

        def told(done: int, total: int) -> None:
            if not advance:
                advance.append(self.progress.begin("reconstruct", total))
            elif done:
                advance[0]()

        prune.reconstruct(whole, student, cut, shown, on_layer=told)

    def _criterion(self, model: Any, cut: Prune, samples: TrainingSamples) -> prune.Criterion:
        if cut.criterion == "l1":
            return prune.L1Norm()
        if cut.criterion == "batch-norm-scale":
            return prune.BatchNormScale()
        if cut.criterion == "geometric-median":
            return prune.GeometricMedian()
        activation = self._activation("prune: criterion taylor", model)
        if not len(samples.class_ids):
            raise UserError('[prune] criterion = "taylor" needs labels', fix="--train FOLDER with one folder a label")
        loss = CrossEntropy(activation)
        tf = load_tensorflow()
        plain = samples.batches(128, None, 0)
        chosen = [
            (tf.constant(inputs), tf.constant(ids))
            for _, (inputs, ids, _) in zip(range(TAYLOR_BATCHES), plain.epoch(0), strict=False)
        ]
        return prune.Taylor(chosen, lambda model, batch: loss(batch[1], None, model(batch[0], training=False)))

    def _plan_for_latency(self, model: Any, criterion: prune.Criterion, cut: Prune) -> prune.Plan:
        runtime = load_runtime()
        advance: list[Callable[[], None]] = []

        def told(done: int, total: int) -> None:
            if not advance:
                advance.append(self.progress.begin("latency plan", total))
            advance[0]()

        with tempfile.TemporaryDirectory(prefix="vedette-latency-") as folder:

            def engine(network: Any, name: str) -> TfliteEngine:
                path = Path(folder) / name
                path.write_bytes(self.to_int8(network))
                return TfliteEngine(path, runtime)

            whole = engine(model, "whole.tflite")

            def measure(network: Any) -> float:
                """By turns with the whole network, whose median is taken for 1: the machine's noise hits both."""
                other = engine(network, "pruned.tflite")
                samples = (whole.inputs[0].allocate(), other.inputs[0].allocate())
                ratio = time_both(whole, other, samples, LATENCY_ROUNDS).ratio
                other.close()
                return ratio

            found = prune.plan_for_latency(
                model, criterion, measure, target_ms=cut.latency, multiple=cut.multiple, progress=told
            )
            whole.close()
        return found.plan

    def _distil(
        self, name: str, student: Any, teachers: Sequence[_Teacher], options: Distil, sparsify: Sparsity | None,
        samples: TrainingSamples, epochs: int,
    ) -> Any:  # fmt: skip
        parts = (
            network_digest(student),
            *(part for teacher in teachers for part in (network_digest(teacher.model), teacher.samples.spec)),
            msgspec.structs.replace(options, control=False),  # says nothing of what is trained here
            sparsify,
            self._meaning,
            samples.sha256,
            samples.spec,
            epochs,
        )
        step = self.work.step(name.replace(" ", "-"), *parts)
        done = step.load()
        if done is not None:
            return done
        if options.label_weight and not len(samples.class_ids):
            raise UserError("[distil] label_weight needs labels", fix="label_weight = 0, or --train with labels")
        loss: Loss
        if self._imitates:
            if options.label_weight:
                raise UserError(
                    "[distil] label_weight", expected="0 where numbers are learned", found=options.label_weight
                )
            loss = Imitation()
        else:
            loss = Distillation(self._activation("distil", student), options.temperature, options.label_weight)
        augmentation = _augmentation(options.augment)
        looks = samples.batches(options.batch, augmentation, options.seed, views=min(options.views, epochs))
        answers = np.mean([self._ask(teacher, looks, augmentation, options.seed) for teacher in teachers], axis=0)
        batches = samples.batches(options.batch, augmentation, options.seed, views=looks.views, answers=answers)
        with step.alone():
            fit(
                student, batches, loss,
                Schedule(epochs, options.learning_rate, options.weight_decay, rounded=options.rounded), name=name,
                progress=self.progress, checkpoint=step.checkpoint, sparsity=sparsify, bfloat16=_bfloat16(samples),
            )  # fmt: skip
            step.keep(student)
        return student

    def _ask(
        self, teacher: _Teacher, looks: TrainingBatches, augmentation: Augmentation, seed: int
    ) -> NDArray[np.float32]:
        """(views, n, ...): see `ask`."""
        kept = self.work.step(
            "answers", network_digest(teacher.model), teacher.samples.spec, looks.samples.sha256, augmentation, seed
        )
        return ask(teacher.model, looks, teacher.samples, keep=kept.answers, progress=self.progress)[: looks.views]

    @property
    def _imitates(self) -> bool:
        """Whether numbers are learned, not classes."""
        return isinstance(self.output, AnomalyHead | RegressOutput)

    @property
    def _meaning(self) -> str:
        """What of the output changes how it is learned."""
        head = self.output
        return f"classify {head.activation}" if isinstance(head, ClassifyOutput) else str(head.__struct_config__.tag)

    def _activation(self, step: str, model: Any) -> Activation:
        if not isinstance(self.output, ClassifyOutput):
            raise UserError(
                f"[{step}] of this task", expected='task = "classify"',
                fix="vedette-convert specialise trains detectors",
            )  # fmt: skip
        if self.output.activation == "none" and _ends_in_sigmoid(model):
            return "own sigmoid"
        return self.output.activation


@dataclass(frozen=True, slots=True)
class _Teacher:
    """Who is asked, and the samples with the teacher's own arithmetic."""

    model: Any
    samples: TrainingSamples


def check_teacher(teacher: Any, model: Any, where: object) -> None:
    """Raises `UserError` where a teacher does not take the same input or give the same output."""
    for what, own, other in (("input", model.input_shape, teacher.input_shape),
                             ("output", model.output_shape, teacher.output_shape)):  # fmt: skip
        if own != other:
            raise UserError(f"the teacher's {what}", where=where, expected=str(own), found=str(other))


def _augmentation(options: Augment) -> Augmentation:
    return Augmentation(options.flip, options.shift, options.brightness)


def _ends_in_sigmoid(model: Any) -> bool:
    """Whether a sigmoid is the last thing that a network does."""
    operation = model.outputs[0]._keras_history.operation
    if hasattr(operation, "outputs") and getattr(operation, "layers", None):  # a network within the network
        return _ends_in_sigmoid(operation)
    named = getattr(getattr(operation, "activation", None), "__name__", type(operation).__name__)
    return str(named).lower() == "sigmoid"


def _bfloat16(samples: TrainingSamples) -> bool | None:
    """Where the CPU has it, for pictures; networks of windows are so narrow that it takes seven times as long."""
    return None if isinstance(samples, Samples) else False
