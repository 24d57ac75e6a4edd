"""``vedette-convert build``: recipe -> load -> train, prune, distil -> quantise -> evaluate -> gate -> bundle."""

from __future__ import annotations

import dataclasses
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from vedette.contract.bundle import Bundle, open_bundle
from vedette.contract.errors import UserError
from vedette.contract.manifest import ClassifyOutput, ImageInput, SeriesInput
from vedette.contract.types import Float32Array, TensorSpec
from vedette.durable import replacing
from vedette.engine import Runtime, TfliteEngine, load_runtime

from . import gate, package, quantise, report
from .binary import one_number, with_both
from .latency import Latency, Timing, machine, time_all
from .lint import compile_edgetpu
from .load import Network, load_network
from .material import Material
from .measured import Measured, Stage
from .pictured import read_pictures
from .progress import Progress, Silent
from .prune import Cost
from .recipe import Recipe, RecipeFile
from .recipe.flags import FLAGS
from .recipe.training import ZooSource
from .series.material import read_recorded
from .source import SourceFiles, read_source
from .student import Steps, Student, check_teacher
from .tensorflow import load_tensorflow
from .train.alive import expect_alive
from .train.kept import expect_keras, read_network, save_network
from .train.sparsity import Sparsity
from .train.work import Work, default_folder
from .zoo.network import as_network

LATENCY_SAMPLES: Final = 8  # calibration samples of a network whose latency alone matters


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where everything lies that a recipe does not hold."""

    data: Path
    """A folder of pictures or recordings to calibrate with, and to compare the networks on."""
    source: Path | None = None
    """The package of the recipe's weights."""
    annotated: tuple[Path, ...] = ()
    """For accuracy. Detectors: folders in COCO's format. Classifiers: one folder with one folder a label."""
    training: Path | None = None
    """Pictures to train on: one folder a label, or, where no label is needed, any pictures below it. ``data`` without."""
    out: Path | None = None
    """The bundle's file; NAME.tflite in the current folder without one."""
    work: Path | None = None
    """Where long steps are kept; see `vedette_converter.train.work`."""
    float_out: Path | None = None
    """Where the float network goes that the bundle is compared with, ``.keras``."""
    report: Path | None = None
    """Where the report goes: a self-contained page where it ends in ``.html``, the table alone in ``.md``."""
    control_out: Path | None = None
    """Where the flatbuffer goes of the network that was trained from nothing, where the recipe asks for one."""


@dataclass(slots=True)
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A network on the way, in an engine."""

    name: str
    flatbuffer: bytes
    path: Path
    engine: TfliteEngine
    cost: Cost | None


def build(
    file: RecipeFile,
    inputs: Inputs,
    *,
    findings: Sequence[str] = (),
    progress: Progress | None = None,
    on_measured: Callable[[Measured], None] = lambda measured: None,
) -> tuple[Measured, Bundle]:
    """Makes one bundle, or none at all.

    ``findings``: what is to be said beside the figures. ``on_measured`` is told the figures before the gate judges
    them. Raises `UserError` for what the user can mend, `GateError` where a promise of the recipe does not hold,
    `FaultError` for the rest.
    """
    progress = progress or Silent()
    clock = _Clock()
    recipe = file.recipe
    out = inputs.out or Path(f"{recipe.name}.tflite")
    if not out.parent.is_dir() or out.is_dir():
        raise UserError("bundle cannot be written", where=out, expected="a file in a folder that exists")
    for beside in (inputs.float_out, inputs.control_out):
        if beside is not None and (not beside.parent.is_dir() or beside.is_dir()):
            raise UserError("network cannot be written", where=beside, expected="a file in a folder that exists")
    if inputs.float_out is not None:
        expect_keras(inputs.float_out)
    if inputs.report is not None:
        report.expect_report(inputs.report)
    material: Material
    if isinstance(recipe.input, SeriesInput):
        material = read_recorded(file, inputs.data, inputs.annotated, inputs.training, progress)
    else:
        material = read_pictures(file, inputs.data, inputs.annotated, inputs.training)
    files = None if isinstance(recipe.source, ZooSource) else read_source(recipe.source, inputs.source, file.resolve)
    runtime = load_runtime()
    load_tensorflow(fast=recipe.trains)
    with tempfile.TemporaryDirectory(prefix="vedette-convert-") as folder:
        with clock.step("load"):
            network = _load(recipe, files, material)
            output, labels = recipe.output, material.labels[1]
            if (
                isinstance(output, ClassifyOutput)
                and len(labels) == 2
                and one_number(network.outputs)
                and not recipe.trains
            ):
                network = with_both(network, output.activation)
                said = f"taken: the network's one number is the score of {labels[1]!r}, the second label"
                findings = [*findings, f"{said}; {labels[0]!r} has the rest"]
        maker = _Maker(recipe, material, network.inputs[0], runtime, Path(folder), progress)
        student: Student | None = None
        if recipe.trains:
            with clock.step("train"):
                student = _study(file, inputs, network, maker)
            network = as_network(student.teacher)
            if recipe.train is not None:
                expect_alive(network, maker.samples()(), "[train]")
            if inputs.float_out is not None:
                save_network(student.teacher, inputs.float_out)
        with clock.step("quantise"):
            before = maker.float32("float32", network, student.cost_before if student else None)
            quantise.expect_same(before.engine, network, next(maker.samples()()))
            maker = dataclasses.replace(maker, material=material.settled(before.engine, progress))
            candidates = [before]
            final = network
            if student is not None and student.model is not student.teacher:
                final = as_network(student.model)
                expect_alive(final, maker.samples()(), "[distil], [prune]" if recipe.prune is not None else "[distil]")
                changed = "pruned float32" if student.plan is not None else "distilled float32"
                candidates.append(maker.float32(changed, final, student.cost_after))
            candidates.append(maker.quantised(final, before, student.cost_after if student else None))
            product = len(candidates) - 1
            if student is not None and student.control is not None:
                control = maker.quantised(as_network(student.control), before, student.cost_after, name="control")
                candidates.append(control)
                if inputs.control_out is not None:
                    _write(inputs.control_out, control.flatbuffer)
        after = candidates[product]
        material = material.settled(after.engine, progress)
        with clock.step("golden vectors"):
            golden = material.golden(before.engine, after.engine)
        with clock.step("latency"):
            samples = [material.typical(candidate.engine) for candidate in candidates]
            timings = time_all([candidate.engine for candidate in candidates], samples, recipe.latency.rounds)
            description = after.engine.description
            latency = Latency(
                timings[0], timings[product], recipe.latency.rounds, description.runtime, description.threads, machine()
            )
        with clock.step("evaluate"):
            stages = [_first(before, timings[0])]
            for candidate, timing in zip(candidates[1:], timings[1:], strict=True):
                stages.append(_stage(material, before, candidate, timing, progress))
            judged = stages[product]
            assert judged.agreement is not None
            doubted = judged.accuracy is not None and judged.accuracy.doubts
            findings = [*(doubted or judged.agreement.doubts), *findings]
            evaluation = material.evaluation(judged.accuracy, judged.agreement)
        source_sha256 = files.sha256 if files is not None else file.sha256
        label_bytes, labels = material.labels
        content = package.Content(
            after.flatbuffer, label_bytes, golden, evaluation, material.calibration, source_sha256, material.input,
            material.output,
        )  # fmt: skip
        with clock.step("self-test on all kernels"):
            members = {
                "labels.txt": label_bytes,
                "golden.npz": package.encode_golden(golden),
                "measurements.json": package.measurements(latency, len(after.flatbuffer), len(before.flatbuffer)),
            }
            if recipe.edgetpu:
                compiled = compile_edgetpu(after.flatbuffer, recipe.name)
                members["edgetpu.tflite"] = compiled.flatbuffer
                findings = [*findings, f"Edge TPU: {compiled.ops_on_tpu} operations on it, {compiled.ops_on_cpu} left"]
            manifest = package.make_manifest(file, content, members)
            manifest, verdicts, unproved = package.with_tolerances(
                manifest, after.path, golden, len(labels), runtime, file
            )
            findings = [*findings, *unproved]
    rows = gate.judge(
        recipe.gate, recipe.latency.max_ratio, judged.accuracy, judged.agreement, latency, len(after.flatbuffer)
    )
    measured = Measured(
        recipe.name, recipe.quantise.precision, tuple(stages), product, latency, tuple(rows), verdicts,
        (*findings, *material.findings(), *maker.findings()), clock.seconds,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, material.noun,
    )  # fmt: skip
    if inputs.report is not None:
        extras = report.describe(
            file, candidates[product - 1].flatbuffer, after.flatbuffer, samples=maker.samples(),
            look=lambda: material.look(before.engine, after.engine, report.PICTURES, progress),
            plan=student.plan if student else None,
        )  # fmt: skip
        report.write_report(inputs.report, measured, extras)
    on_measured(measured)
    gate.enforce(rows, by_flags=file.path == FLAGS)
    package.write(out, content, manifest, members)
    return measured, open_bundle(out)


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes flatbuffers of networks, and engines of flatbuffers."""

    recipe: Recipe
    material: Material
    tensor: TensorSpec
    """The network's input."""
    runtime: Runtime
    folder: Path
    progress: Progress

    def samples(self, on_sample: Callable[[], None] = lambda: None) -> Callable[[], Iterator[Float32Array]]:
        """Calibration samples, anew each time."""
        return lambda: self.material.samples(self.tensor, on_sample)

    def findings(self) -> list[str]:
        """What is odd about the calibration samples."""
        if not self.recipe.quantise.calibrated:
            return []
        return quantise.calibration_findings(self.samples()(), self.material.limits())

    def float32(self, name: str, network: Network, cost: Cost | None) -> _Candidate:
        """The network as it is."""
        return self._candidate(name, quantise.to_float32(network), cost)

    def quantised(self, network: Network, before: _Candidate, cost: Cost | None, *, name: str = "") -> _Candidate:
        """The network in the recipe's precision."""
        options = self.recipe.quantise
        step = self.progress.begin(name or "calibration", self.material.calibration_count)

        def holds(flatbuffer: bytes) -> bool:
            """Whether a mixed network agrees with the original on what it was calibrated with."""
            tried = self._candidate("tried", flatbuffer, None)
            agreement = self.material.agreement(before.engine, tried.engine, Silent(), calibration=True)
            tried.engine.close()
            return agreement.share >= self.recipe.gate.min_agreement

        flatbuffer = quantise.convert(
            network, options, self.samples() if options.calibrated else None, on_sample=step,
            holds=holds if options.precision == "mixed" else None,
        )  # fmt: skip
        return self._candidate(name or options.precision, flatbuffer, cost)

    def _candidate(self, name: str, flatbuffer: bytes, cost: Cost | None) -> _Candidate:
        path = self.folder / f"{name.replace(' ', '-')}.tflite"
        path.write_bytes(flatbuffer)
        return _Candidate(name, flatbuffer, path, quantise.load_proven(path, self.runtime), cost)


def _load(recipe: Recipe, files: SourceFiles | None, material: Material) -> Network:
    source = recipe.source
    if isinstance(source, ZooSource):
        return material.zoo()
    assert files is not None  # only the zoo has none
    network = load_network(source, files, material.shape)
    if len(network.inputs) != 1:
        raise UserError("network", where=files.where, expected="one input", found=f"{len(network.inputs)}")
    if recipe.trains and network.model is None:
        raise UserError(
            "training and pruning need a Keras network", where=files.where,
            expected="a .keras or .h5 file with a functional network",
            found=f"format {source.__struct_config__.tag}", fix="leave out [train], [prune], [distil] and [sparsify]",
        )  # fmt: skip
    return network


def _study(file: RecipeFile, inputs: Inputs, network: Network, maker: _Maker) -> Student:
    """Everything that is done to a Keras network before it is quantised."""
    recipe = file.recipe
    work = Work(inputs.work or default_folder(recipe.name))

    def to_int8(model: Any) -> bytes:
        """Calibrated with a handful: its latency alone matters."""
        return quantise.to_int8(as_network(model), islice(maker.samples()(), LATENCY_SAMPLES))

    steps = Steps(recipe.output, work, maker.progress, to_int8)
    samples = maker.material.training(network, maker.progress)
    model = network.model
    if recipe.train is not None:
        model = steps.train(model, recipe.train, samples)
    larger, spec, together = None, None, False
    if recipe.distil is not None and (named := recipe.distil.teacher) is not None:
        larger = read_network(file.resolve(named.file), fix="mend [distil.teacher] file")
        check_teacher(larger, model, named.file)
        together = named.together
        if isinstance(recipe.input, ImageInput):
            spec = msgspec.structs.replace(
                recipe.input, mean=named.mean or recipe.input.mean, std=named.std or recipe.input.std
            )
        elif named.mean is not None or named.std is not None:
            raise UserError(
                "[distil.teacher] mean, std", expected="none: a teacher of windows takes what its student does"
            )
    zeroed = recipe.sparsify
    sparsity = Sparsity(zeroed.sparsity, zeroed.begin, zeroed.end) if zeroed is not None else None
    return steps.prune_and_distil(
        model, recipe.prune, recipe.distil, sparsity, samples, larger, spec, together=together
    )


def _write(path: Path, flatbuffer: bytes) -> None:
    try:
        with replacing(path) as half:
            half.write_bytes(flatbuffer)
    except OSError as error:
        raise UserError("flatbuffer cannot be written", where=path, found=error.strerror or str(error)) from None


def _first(candidate: _Candidate, timing: Timing) -> Stage:
    size = len(candidate.flatbuffer)
    return Stage(candidate.name, size, _compressed(candidate.flatbuffer), timing, None, None, candidate.cost)


def _stage(
    material: Material, before: _Candidate, candidate: _Candidate, timing: Timing, progress: Progress
) -> Stage:  # fmt: skip
    engines = (before.engine, candidate.engine)
    return Stage(
        candidate.name, len(candidate.flatbuffer), _compressed(candidate.flatbuffer), timing,
        material.accuracy(*engines, progress), material.agreement(*engines, progress), candidate.cost,
    )  # fmt: skip


def _compressed(flatbuffer: bytes) -> int:
    return len(zlib.compress(flatbuffer, 9))
