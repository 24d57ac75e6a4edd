"""Train, prune, distil, quantise: a whole small project of a classifier, from a Keras file to a bundle."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vedette.contract.bundle import Bundle
from vedette.contract.errors import UserError
from vedette.contract.manifest import ClassifyOutput, ImageInput
from vedette.contract.types import Classes
from vedette.engine import TfliteEngine, load_runtime
from vedette_converter import cli, gate, prune, report, student
from vedette_converter.build import Inputs, build
from vedette_converter.measured import Measured
from vedette_converter.progress import Silent
from vedette_converter.recipe import read_recipe
from vedette_converter.recipe.training import Augment, Distil, Prune, Train
from vedette_converter.student import Steps
from vedette_converter.subject import Subject
from vedette_converter.train.data import Samples
from vedette_converter.train.kept import read_network, save_network
from vedette_converter.train.work import Work, network_digest

pytest.importorskip("tensorflow", reason="the converter's extra is not installed")
LABELS = ("left", "right", "even")
RECIPE = """
name = "lights"
version = "1.0.0"
task = "classify"

[source]
format = "keras"
file = "lights.keras"

[input]
kind = "image"
height = 16
width = 16
color = "gray"
mean = [127.5]
std = [64.0]

[output]
decoder = "classify"
top_k = 3

[labels]
file = "labels.txt"

[train]
epochs = 4
batch = 16
learning_rate = 0.1

[train.augment]
flip = false # it would make left of right
shift = 1

[prune]
ratio = 0.5
steps = 2

[distil]
epochs = 4
batch = 16
control = true

[distil.augment]
flip = false
shift = 1

[quantise]
pictures = 40

[golden]
pictures = "pictures/even"

[latency]
rounds = 20
max_ratio = 10.0

[gate]
max_drop = 0.05
"""


def picture(label: str, rng: np.random.Generator) -> Any:
    ramp = {"left": np.linspace(220, 30, 40), "right": np.linspace(30, 220, 40), "even": np.full(40, 125.0)}[label]
    noisy = ramp[None, :] + rng.normal(0, 15, (40, 40))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def network(seed: int = 1) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    layers = keras.layers
    x = pixels = keras.Input((16, 16, 1))
    for number, filters in enumerate((16, 32)):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dense(3, activation="softmax", name="classes")(layers.Flatten()(x))
    return keras.Model(pixels, x, name="lights")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lights")
    rng = np.random.default_rng(0)
    for kind, count in (("pictures", 40), ("test", 20)):
        for label in LABELS:
            (root / kind / label).mkdir(parents=True)
            for n in range(count):
                cv2.imwrite(str(root / kind / label / f"{n:02d}.png"), picture(label, rng))
    (root / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (root / "lights.toml").write_text(RECIPE)
    save_network(network(), root / "lights.keras")
    return root


def inputs(project: Path, **changes: Any) -> Inputs:
    whole = Inputs(
        project / "pictures", annotated=(project / "test",), training=project / "pictures",
        out=project / "lights.tflite", work=project / "work",
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


@pytest.fixture(scope="module")
def built(project: Path) -> tuple[Measured, Bundle]:
    return build(read_recipe(project / "lights.toml"), inputs(project, float_out=project / "float.keras"))


def test_every_network_on_the_way_is_judged(built: tuple[Measured, Bundle]) -> None:
    measured, bundle = built
    assert [stage.name for stage in measured.stages] == ["float32", "pruned float32", "int8", "control"]
    assert measured.after.name == "int8" and measured.after.bytes == bundle.manifest.flatbuffer_bytes
    first, pruned, product, control = measured.stages
    assert first.cost and pruned.cost and pruned.cost.macs < first.cost.macs * 0.6
    assert product.bytes < pruned.bytes < first.bytes
    assert first.accuracy is None and all(s.accuracy and s.accuracy.metric == "top-1" for s in measured.stages[1:])
    assert product.accuracy and product.accuracy.before >= 0.95 and product.accuracy.after >= 0.9
    assert control.accuracy is not None and control.cost == product.cost


def test_the_bundle_runs_as_an_agent_runs_it(built: tuple[Measured, Bundle], project: Path) -> None:
    _, bundle = built
    manifest = bundle.manifest
    assert manifest.task == "classify" and bundle.labels == LABELS
    engine = TfliteEngine(bundle.path, load_runtime())
    subject = Subject(engine, manifest.input, manifest.output, bundle.labels, score_threshold=0.0)
    for number, label in enumerate(LABELS):
        pixels = cv2.imread(str(project / "test" / label / "03.png"))
        found = subject(np.asarray(pixels, np.uint8))
        assert isinstance(found, Classes) and found.class_ids[0] == number
    engine.close()


def test_the_table_has_a_column_a_network(built: tuple[Measured, Bundle]) -> None:
    text = report.markdown(built[0])
    assert "| float32 | pruned float32 | **int8** | control |" in text
    assert "| top-1 accuracy, 60 pictures (test) |" in text


def test_finished_steps_are_not_done_again(built: tuple[Measured, Bundle], project: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (project / "work").iterdir()}
    kinds = sorted(path.name.rsplit("-", 1)[0] for path in kept)
    assert kinds == ["answers", "control", "cut-1-of-2", "distil", "train"]
    measured, bundle = build(read_recipe(project / "lights.toml"), inputs(project, out=project / "again.tflite"))
    assert {path: path.stat().st_mtime_ns for path in (project / "work").iterdir()} == kept
    assert bundle.manifest.flatbuffer_sha256 == built[1].manifest.flatbuffer_sha256
    assert measured.seconds["train"] < built[0].seconds["train"]


def test_the_float_network_is_kept_where_asked_for(built: tuple[Measured, Bundle], project: Path) -> None:
    assert read_network(project / "float.keras").count_params() > 1000


def test_a_gate_that_fails_says_which_step_lost_it(project: Path, tmp_path: Path) -> None:
    text = RECIPE.replace("max_drop = 0.05", "max_drop = 0.0\nmin_agreement = 1.0").replace("epochs = 4", "epochs = 1")
    text = text.replace("ratio = 0.5", "ratio = 0.8").replace("control = true", "learning_rate = 0.000001")
    (project / "bad.toml").write_text(text)
    told: list[Measured] = []
    with pytest.raises(gate.GateError, match="the gate does not hold, no bundle was written"):
        build(read_recipe(project / "bad.toml"), inputs(project, out=tmp_path / "bad.tflite"), on_measured=told.append)
    assert list(tmp_path.iterdir()) == []
    assert "float32 -> pruned float32 " in report.blame(told[0]) and "-> int8 " in report.blame(told[0])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[prune]\nratio = 0.5\n", "[prune]\n", "prune: expected a ratio, a latency or layers"),
        ("ratio = 0.5", "ratio = 0.5\nlatency = 0.5", "latency: expected alone"),
        ('task = "classify"', 'task = "detect"', "does not go with this [output] decoder"),
        ("[distil]\nepochs", "[distil]\nepoch", "distil.epoch: unknown key; did you mean epochs?"),
        ("[gate]", "[sparsify]\nsparsity = 0.5\nbegin = 0.9\n[gate]", "begin: expected below end"),
    ],
)
def test_options_that_contradict_are_refused(project: Path, old: str, new: str, expected: str) -> None:
    assert RECIPE.count(old) == 1
    path = project / "mistake.toml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(UserError) as caught:
        read_recipe(path)
    assert expected in caught.value.line()


def test_several_cuts_need_something_to_recover_with(project: Path) -> None:
    text = RECIPE[: RECIPE.index("[distil]")] + RECIPE[RECIPE.index("[quantise]") :]
    (project / "cuts.toml").write_text(text)
    with pytest.raises(UserError, match=r"\[prune\] steps: expected \[distil\]"):
        build(read_recipe(project / "cuts.toml"), inputs(project))


def alone(project: Path, name: str, model: Any, **changes: str) -> Path:
    """A recipe that quantises a network and does nothing else to it."""
    save_network(model, project / f"{name}.keras")
    text = RECIPE[: RECIPE.index("[train]")] + RECIPE[RECIPE.index("[quantise]") :]
    text = text.replace("lights.keras", f"{name}.keras").replace(
        "pictures = 40", f'precision = "{changes["precision"]}"'
    )
    (project / f"{name}.toml").write_text(text)
    return project / f"{name}.toml"


def up_and_down(activation: str, side: int) -> Any:
    """Not trained, and sure of all that it says."""
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    x = pixels = keras.Input((16, 16, 1))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation=activation)(x)
    x = layers.UpSampling2D(side)(x) if side > 1 else x
    x = layers.Rescaling(200.0)(layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    return keras.Model(pixels, layers.Softmax()(x))


@pytest.mark.parametrize(
    ("activation", "side", "precision", "op"), [("elu", 1, "float32", "ELU"), ("relu", 2, "int8", "TILE")]
)
def test_what_only_the_reference_kernels_lack_is_said_and_shipped(
    project: Path, tmp_path: Path, activation: str, side: int, precision: str, op: str
) -> None:
    recipe = alone(project, op.lower(), up_and_down(activation, side), precision=precision)
    given = inputs(project, out=tmp_path / "made.tflite", training=None, annotated=())
    measured, bundle = build(read_recipe(recipe), given)
    assert set(bundle.manifest.tolerances) == set(measured.verdicts) == {"xnnpack", "builtin"}
    (said,) = [line for line in measured.findings if "reference kernels" in line]
    assert op in said and "\\n" not in said and ".tflite" not in said and "\n" not in said


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--float", "{tmp}/nowhere/x.keras"], "x.keras: network cannot be written: expected a file in a folder"),
        (["--control", "{tmp}"], "network cannot be written: expected a file in a folder that exists"),
        (["--float", "{tmp}/x.h5"], "x.h5: a network's file: expected a name that ends in .keras"),
    ],
)
def test_where_networks_cannot_be_written_is_known_before_the_work(
    flags: list[str], expected: str, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "build",
        str(project / "lights.toml"),
        "--data",
        str(project / "pictures"),
        "--work",
        str(tmp_path / "work"),
    ]
    assert (
        cli.main([*command, "--out", str(tmp_path / "x.tflite"), *(flag.format(tmp=tmp_path) for flag in flags)]) == 2
    )
    assert expected in capsys.readouterr().err and not (tmp_path / "work").exists()


@pytest.mark.parametrize("flag", ["--train", "--float", "--control"])
def test_a_flag_that_would_do_nothing_is_refused(
    flag: str, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["build", str(project / "lights.keras"), "--labels", str(project / "labels.txt"), "--color", "gray"]
    code = cli.main(
        [*command, "--data", str(project / "pictures"), "--out", str(tmp_path / "x.tflite"), flag, "x.keras"]
    )
    said = capsys.readouterr().err
    assert code == 2 and f"x.keras: {flag}: there is nothing to do with it: expected " in said
    assert not (tmp_path / "x.tflite").exists()


def test_pictures_that_are_learned_from_judge_nothing(project: Path, tmp_path: Path) -> None:
    test = tmp_path / "test"
    shutil.copytree(project / "test", test)
    shutil.copy(project / "pictures" / "left" / "00.png", test / "left" / "copy.png")
    given = inputs(project, annotated=(test,), out=tmp_path / "made.tflite", work=tmp_path)
    with pytest.raises(UserError, match=r"left/copy\.png: is learned from, so nothing can be judged by it") as caught:
        build(read_recipe(project / "lights.toml"), given)
    assert "pictures/left/00.png, one of 1 such" in caught.value.line() and not (tmp_path / "made.tflite").exists()


def steps(tmp_path: Path, activation: Any = "none") -> Steps:
    return Steps(ClassifyOutput(activation=activation), Work(tmp_path), Silent(), lambda model: b"")


def some(count: int = 8) -> Samples:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 1), np.uint8)
    return Samples(pixels, np.arange(count, dtype=np.int32) % 3, unlabelled().spec, "some")


def plain(strides: int = 2, activation: str = "relu", end: str = "linear") -> Any:
    """Whatever the options, the same variables with the same values."""
    import keras

    keras.utils.set_random_seed(3)
    layers = keras.layers
    x = pixels = keras.Input((16, 16, 1), name="pixels")
    x = layers.Conv2D(4, 3, strides=strides, activation=activation, name="conv")(x)
    x = layers.Dense(3, activation=end, name="classes")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(pixels, x)


@pytest.mark.parametrize("change", [{"strides": 1}, {"activation": "tanh"}, {"end": "softmax"}])
def test_a_network_of_the_same_weights_that_computes_otherwise_is_trained_anew(
    change: dict[str, Any], tmp_path: Path
) -> None:
    assert all(map(np.array_equal, plain().get_weights(), plain(**change).get_weights()))
    options = Train(epochs=1, batch=8)
    for model in (plain(), plain(**change)):
        trained = steps(tmp_path, "softmax").train(model, options, some())
        assert trained.get_config()["layers"] == model.get_config()["layers"]
    taught = Distil(epochs=1, batch=8, views=1)
    for model in (plain(), plain(**change)):
        student = steps(tmp_path, "softmax").prune_and_distil(model, None, taught, None, some(), None).model
        assert student.get_layer("conv").get_config() == model.get_layer("conv").get_config()
        assert student.get_layer("classes").get_config() == model.get_layer("classes").get_config()
    kinds = sorted(path.name.rsplit("-", 1)[0] for path in tmp_path.iterdir())
    assert kinds == ["answers"] * 2 + ["distil"] * 2 + ["train"] * 2


def test_an_output_that_means_something_else_is_learned_anew(tmp_path: Path) -> None:
    first, second = (
        steps(tmp_path, activation).train(plain(), Train(epochs=1, batch=8), some()).get_weights()
        for activation in ("softmax", "sigmoid")
    )
    assert not all(map(np.array_equal, first, second))
    taught = Distil(epochs=1, batch=8, views=1)
    for activation in ("softmax", "sigmoid"):
        steps(tmp_path, activation).prune_and_distil(plain(), None, taught, None, some(), None)
    kinds = sorted(path.name.rsplit("-", 1)[0] for path in tmp_path.iterdir())
    assert kinds == ["answers", *["distil"] * 2, *["train"] * 2]


@pytest.mark.parametrize(("activation", "end"), [("sigmoid", "linear"), ("none", "sigmoid")])
def test_what_ends_in_a_sigmoid_learns_to_say_no(activation: str, end: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = np.arange(48, dtype=np.int32) % 3
    pixels = np.stack([cv2.resize(picture(LABELS[n], rng), (16, 16))[..., None] for n in ids])
    samples = Samples(pixels, ids, unlabelled().spec, "lights")
    options = Train(epochs=12, batch=8, learning_rate=0.05, augment=Augment(flip=False, shift=0))
    model = network()
    import keras

    scores = keras.layers.Dense(3, activation=end, name="scores")(model.layers[-2].output)
    trained = steps(tmp_path, activation).train(keras.Model(model.inputs[0], scores), options, samples)
    found = np.asarray(trained(samples.real(pixels)))
    if activation == "sigmoid":
        found = 1 / (1 + np.exp(-found))
    right = np.eye(3)[ids] == 1
    assert found[right].mean() > 0.8 and found[~right].mean() < 0.2


def test_a_training_that_was_killed_goes_on_with_the_network_out_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_network(plain(), tmp_path / "plain.keras")
    fit, epochs = student.fit, []

    def watched(*arguments: Any, **options: Any) -> Any:
        def on_epoch(number: int) -> str:
            epochs.append(number)
            if epochs == [1, 2]:
                raise KeyboardInterrupt
            return ""

        return fit(*arguments, **options, on_epoch=on_epoch)

    monkeypatch.setattr(student, "fit", watched)
    options = Train(epochs=3, batch=8)
    with pytest.raises(KeyboardInterrupt):
        steps(tmp_path / "work", "softmax").train(read_network(tmp_path / "plain.keras"), options, some())
    steps(tmp_path / "work", "softmax").train(read_network(tmp_path / "plain.keras"), options, some())
    assert epochs == [1, 2, 2, 3]


def test_a_second_process_at_the_same_training_is_refused_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, refused = student.fit, []

    def watched(*arguments: Any, **options: Any) -> Any:
        def on_epoch(number: int) -> str:
            with pytest.raises(
                UserError, match=r"train-.*\.lock: another process is at the same work; wait for it"
            ) as caught:
                steps(tmp_path, "softmax").train(plain(), Train(epochs=2, batch=8), some())
            refused.append(caught.value)
            return ""

        return fit(*arguments, **options, on_epoch=on_epoch)

    monkeypatch.setattr(student, "fit", watched)
    steps(tmp_path, "softmax").train(plain(), Train(epochs=2, batch=8), some())
    assert len(refused) == 2 and [path.suffix for path in sorted(tmp_path.iterdir())] == [".keras"]


def test_the_same_network_out_of_its_file_is_found_again(tmp_path: Path) -> None:
    for model in (plain(), network()):
        save_network(model, tmp_path / "kept.keras")
        assert network_digest(read_network(tmp_path / "kept.keras")) == network_digest(model)


def unlabelled() -> Samples:
    pixels = np.zeros((4, 16, 16, 1), np.uint8)
    return Samples(pixels, np.empty(0, np.int32), ImageInput(height=16, width=16, color="gray"), "none")


def test_what_needs_labels_says_so(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(UserError, match="label_weight needs labels"):
        steps(tmp_path).prune_and_distil(model, None, Distil(epochs=1, label_weight=0.5), None, unlabelled(), None)
    with pytest.raises(UserError, match="needs labels"):
        cut = Prune(criterion="taylor", ratio=0.5)
        steps(tmp_path).prune_and_distil(model, cut, None, None, unlabelled(), None)


@pytest.mark.parametrize("criterion", ["l1", "batch-norm-scale", "geometric-median", "taylor"])
def test_each_criterion_cuts(criterion: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), np.uint8)
    samples = Samples(pixels, np.arange(8, dtype=np.int32) % 3, unlabelled().spec, "some")
    student = steps(tmp_path).prune_and_distil(
        network(), Prune(criterion=criterion, ratio=0.5), None, None, samples, None
    )
    assert student.plan is not None and {cut.kept for cut in student.plan.cuts} == {8, 16}
    assert prune.count(student.model) == student.cost_after != student.cost_before


def test_layers_behind_a_cut_are_fitted_anew_where_asked_for(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 1), np.uint8)
    samples = Samples(pixels, np.empty(0, np.int32), unlabelled().spec, "some")
    model = network()
    plain, fitted = (
        steps(tmp_path).prune_and_distil(model, Prune(ratio=0.5, reconstruct=count), None, None, samples, None).model
        for count in (0, 40)
    )
    shown = samples.real(pixels)
    wanted = np.asarray(model(shown))
    assert np.abs(np.asarray(fitted(shown)) - wanted).mean() < 0.7 * np.abs(np.asarray(plain(shown)) - wanted).mean()


def test_too_few_samples_to_hold_any_back_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reconstruct: expected 0, or at least 4 samples, found 3"):
        steps(tmp_path).prune_and_distil(network(), Prune(ratio=0.5, reconstruct=3), None, None, unlabelled(), None)


def test_two_that_teach_together_are_asked_each_and_their_mean_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, larger = network(1), network(2)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), np.uint8)
    samples = Samples(pixels, np.empty(0, np.int32), unlabelled().spec, "some")
    answered: list[Any] = []
    learned: list[Any] = []
    ask, fit = student.ask, student.fit

    def noted_ask(teacher: Any, *arguments: Any, **options: Any) -> Any:
        answers = ask(teacher, *arguments, **options)
        answered.append((teacher, answers))
        return answers

    def noted_fit(model: Any, batches: Any, *arguments: Any, **options: Any) -> Any:
        learned.append(batches._answers)
        return fit(model, batches, *arguments, **options)

    monkeypatch.setattr(student, "ask", noted_ask)
    monkeypatch.setattr(student, "fit", noted_fit)
    options = Distil(epochs=2, batch=8, views=2)
    steps(tmp_path).prune_and_distil(model, Prune(ratio=0.5), options, None, samples, larger, together=True)
    assert [teacher for teacher, _ in answered] == [larger, model]
    assert np.array_equal(learned[0], np.mean([answers for _, answers in answered], axis=0))
    assert not np.array_equal(learned[0], answered[0][1])
    alone = steps(tmp_path).prune_and_distil(model, Prune(ratio=0.5), options, None, samples, larger)
    assert np.array_equal(learned[1], answered[0][1]), "another teaching is another training"
    assert alone.model is not model
