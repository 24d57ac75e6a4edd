"""A search over a small classifier, really run: the front, the split, a kill in the middle, mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_student import LABELS, RECIPE, network, picture

pytest.importorskip("tensorflow", reason="the converter's extra is not installed")
pytest.importorskip("optuna", reason="the converter's extra is not installed")

import cv2
import numpy as np

from vedette.contract.bundle import open_bundle
from vedette.contract.errors import FaultError, PictureError, UserError
from vedette_converter.build import Inputs, build
from vedette_converter.cli import main
from vedette_converter.progress import Progress
from vedette_converter.recipe import Recipe, read_recipe
from vedette_converter.recipe.search import Search
from vedette_converter.search.builder import Builder
from vedette_converter.search.front import Point, choose, dominates, front
from vedette_converter.search.search import Wanted, _setting, search
from vedette_converter.search.space import Choice, Space, space_of
from vedette_converter.search.split import split
from vedette_converter.search.study import Study
from vedette_converter.search.trial import Outcome, Setting, _alone
from vedette_converter.search.written import as_toml, moved
from vedette_converter.train.data import list_labelled
from vedette_converter.train.kept import save_network

SEARCH = """
[search]
precisions = ["float32", "int8"]
ratios = [0.0, 0.5]
rounds = 20
"""
UNTRAINED = RECIPE[: RECIPE.index("[train]")] + RECIPE[RECIPE.index("[quantise]") :]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(0)
    for kind, count in (("pictures", 30), ("test", 10)):
        for label in LABELS:
            (root / kind / label).mkdir(parents=True)
            for n in range(count):
                cv2.imwrite(str(root / kind / label / f"{n:02d}.png"), picture(label, rng))
    (root / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (root / "lights.toml").write_text(RECIPE.replace("epochs = 4", "epochs = 2") + SEARCH)
    (root / "untrained.toml").write_text(
        UNTRAINED.replace("lights.keras", "sure.keras") + SEARCH.replace("ratios = [0.0, 0.5]\n", "")
    )
    save_network(network(), root / "lights.keras")
    save_network(sure(), root / "sure.keras")
    return root


def sure() -> Any:
    """A network that needs no training: it compares every row with a ramp."""
    import keras

    pixels = keras.Input((16, 16, 1))
    x = keras.layers.Flatten()(pixels)
    model = keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(x))
    ramp = np.tile(np.linspace(20, -20, 16), 16) / 256
    kernel = np.stack([ramp, -ramp, 0 * ramp], axis=1)
    model.set_weights([kernel.astype(np.float32), np.array([0, 0, 5], np.float32)])
    return model


points = st.builds(
    Point, st.floats(-1, 1).map(lambda v: round(v, 1)), st.floats(0.1, 2).map(lambda v: round(v, 1)), st.integers(1, 5)
)


@given(st.lists(points, max_size=30), st.floats(-1, 1))
def test_the_front_is_what_nothing_beats(found: list[Point], budget: float) -> None:
    numbered = list(enumerate(found))
    kept = front(numbered)
    names = {number for number, _ in kept}
    for _, one in kept:
        assert not any(dominates(other, one) for other in found)
    for number, one in numbered:
        assert number in names or any(dominates(other, one) for _, other in kept)
    assert names <= {number for number, _ in front(numbered, slack=1.2)}
    chosen = choose(kept, budget)
    within = [point.ratio for point in found if point.drop <= budget]
    assert (chosen is None) == (not within)
    if chosen is not None:
        assert found[chosen].ratio == min(within) and found[chosen].drop <= budget


def space(text: str = RECIPE, **options: Any) -> Space:
    import tomllib

    return space_of(msgspec.convert(tomllib.loads(text), Recipe), Search(**options), "recipe.toml")[0]


def test_a_whole_network_is_one_choice_whatever_the_epochs() -> None:
    found = list(space(ratios=(0.0, 0.5), scopes=("uniform", "global"), epochs=(1, 2), precisions=("int8",)).all())
    assert len(found) == len(set(found)) == 1 + 4
    assert found[0] == Choice("int8", 0.0, None, 16, 16, None)


def test_parameters_and_choices_are_one_another() -> None:
    whole = space(ratios=(0.0, 0.5), scopes=("uniform", "global"), epochs=(1, 2))
    for choice in whole.all():
        assert whole.choice(whole.parameters(choice)) == choice
    assert whole.choice({"precision": "int8"}) is None and whole.choice({"precision": "int8", "ratio": 7}) is None


def test_every_derived_recipe_is_read_back_as_it_was_written(project: Path, tmp_path: Path) -> None:
    file = read_recipe(project / "lights.toml")
    for choice in space(ratios=(0.0, 0.25), epochs=(1, 3)).all():
        recipe = moved(space().derive(choice), file, tmp_path)
        path = tmp_path / f"{recipe.name}.toml"
        path.write_text(as_toml(recipe))
        again = read_recipe(path)
        assert again.recipe == recipe and as_toml(again.recipe) == as_toml(recipe)
        assert again.resolve(recipe.labels.file).resolve() == (project / "labels.txt").resolve()
        assert (recipe.prune is None) == (choice.ratio == 0) and recipe.search is None
        assert recipe.prune is None or recipe.prune.ratio == choice.ratio


def test_named_layers_are_pruned_by_the_ratio() -> None:
    layers = "[prune.layers]\nconv0 = 0.25\nconv1 = 0.0\n[prune]\n"
    text = RECIPE.replace("[prune]\nratio = 0.5\nsteps = 2\n", layers)
    recipe = space(text, ratios=(0.0, 0.5)).derive(Choice("int8", 0.5, "uniform", 16, 16, 4))
    assert recipe.prune is not None and recipe.prune.layers == {"conv0": 0.5, "conv1": 0.0} and not recipe.prune.ratio


def test_what_is_judged_by_is_not_learned_from(project: Path, tmp_path: Path) -> None:
    listed = list_labelled(project / "pictures", LABELS)
    first, again = (split(listed, LABELS, project / "pictures", 0.2, 1, tmp_path) for _ in range(2))
    assert first == again
    learn, judge = ({p.resolve() for p in list_labelled(f, LABELS).files} for f in (first.learn, first.judge))
    assert not learn & judge and learn | judge == {path.resolve() for path in listed.files}
    assert len(judge) == 18 and all(len(list((first.judge / label).iterdir())) == 6 for label in LABELS)
    other = split(listed, LABELS, project / "pictures", 0.2, 2, tmp_path)
    assert {p.resolve() for p in list_labelled(other.judge, LABELS).files} != judge
    alone = tmp_path / "alone"
    for label in LABELS:
        (alone / label).mkdir(parents=True)
        shutil.copy(project / "pictures" / label / "00.png", alone / label)
    with pytest.raises(PictureError, match="too few pictures"):
        split(list_labelled(alone, LABELS), LABELS, alone, 0.2, 1, tmp_path)


def test_pictures_of_one_name_in_folders_of_a_label_are_parted_too(project: Path, tmp_path: Path) -> None:
    for place, path in enumerate(list_labelled(project / "pictures", LABELS).files):
        own = tmp_path / "nested" / path.parent.name / f"day-{place % 2}" / f"{place // 2 % 5}.png"
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, own)
    listed = list_labelled(tmp_path / "nested", LABELS)
    parts = split(listed, LABELS, tmp_path / "nested", 0.2, 1, tmp_path)
    learn, judge = (list_labelled(part, LABELS).files for part in (parts.learn, parts.judge))
    assert len(judge) == 6 and {p.resolve() for p in (*learn, *judge)} == {p.resolve() for p in listed.files}


def test_another_teacher_in_the_same_file_is_another_search(project: Path, tmp_path: Path) -> None:
    recipe, teacher = tmp_path / "taught.toml", tmp_path / "teacher.keras"
    text = (
        (project / "lights.toml")
        .read_text()
        .replace("[distil.augment]", f'[distil.teacher]\nfile = "{teacher}"\n\n[distil.augment]')
    )
    for name in ("lights.keras", "labels.txt"):
        shutil.copy(project / name, tmp_path)
    recipe.write_text(text)
    wanted, file = Wanted(recipe, project / "pictures", tmp_path), read_recipe(recipe)
    with pytest.raises(UserError, match=r"teacher\.keras: the network cannot be read: found No such file"):
        _setting(wanted, file, Search(), tmp_path)
    names = []
    for content in (b"one", b"one", b"other"):
        teacher.write_bytes(content)
        names.append(_setting(wanted, file, Search(), tmp_path)[2])
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(("text", "done"), [(RECIPE, 0), (RECIPE.replace("steps = 2", ""), 2)])
def test_who_only_trains_waits_for_the_training_once(text: str, done: int, tmp_path: Path) -> None:
    """With a teacher in the recipe the whole network has asked it nothing yet, so that others still wait for that."""
    if done:
        text = text[: text.index("[distil]")] + text[text.index("[quantise]") :]
    (tmp_path / "recipe.toml").write_text(text)
    file = read_recipe(tmp_path / "recipe.toml")
    setting = Setting(file, tmp_path, None, None, (), tmp_path, tmp_path, 5)
    with _alone(setting, space_of(file.recipe, Search(), "")[0].original()):
        assert not list(tmp_path.glob("*.done"))
    assert len(list(tmp_path.glob("*.done"))) == done


def outcome(ratio: float) -> Outcome:
    return Outcome("top-1", 1.0, 1.0, 0.0, ratio, ratio, 1.0, 100, "0" * 64, 0.1, "here")


def test_a_choice_is_tried_once_and_a_fault_is_kept_with_its_reason(tmp_path: Path) -> None:
    whole = space(ratios=(0.0, 0.25, 0.5), precisions=("float32", "int8"))
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = Study(url, "once", whole, sampler="tpe", seed=1, trials=99)
    begun: list[Choice] = []

    def run(number: int, choice: Choice) -> tuple[Point, Outcome]:
        begun.append(choice)
        if choice.precision == "int8" and choice.ratio:
            raise UserError("no such kernel", found=choice.words)
        return Point(choice.ratio, 1.0 - choice.ratio, 100), outcome(1.0 - choice.ratio)

    study.work(99, float("inf"), run)
    assert len(begun) == len(set(begun)) == 6
    tried = study.tried()
    assert (tried.finished, len(tried.failed), tried.running, tried.died) == (6, 2, 0, 0)
    assert "no such kernel: found int8-cut0.25" in min(one.reason for one in tried.failed)


def test_a_trial_that_died_is_done_again_but_not_for_ever(tmp_path: Path) -> None:
    whole = space(ratios=(0.0,), precisions=("float32", "int8"))
    url = f"sqlite:///{tmp_path / 'study.db'}"

    class KilledError(BaseException):
        """As if the process had gone: nothing is written any more."""

    def run(number: int, choice: Choice) -> tuple[Point, Outcome]:
        if choice.precision == "int8":
            raise KilledError
        return Point(0.0, 1.0, 100), outcome(1.0)

    for death in range(1, 4):
        study = Study(url, "died", whole, sampler="tpe", seed=1, trials=9)
        with pytest.raises(KilledError):
            study.work(9, float("inf"), run)
        assert study.bury() == 1 and study.tried().died == death
    study = Study(url, "died", whole, sampler="tpe", seed=1, trials=9)
    study.work(9, float("inf"), run)
    (given_up,) = study.tried().failed
    assert given_up.choice.precision == "int8" and "ended 3 times" in given_up.reason


def test_a_result_that_comes_too_late_is_no_fault(tmp_path: Path) -> None:
    whole = space(ratios=(0.0,), precisions=("float32", "int8"))
    url = f"sqlite:///{tmp_path / 'study.db'}"
    slow, other = (Study(url, "late", whole, sampler="tpe", seed=1, trials=9) for _ in range(2))
    given_up: list[Choice] = []

    def run(number: int, choice: Choice) -> tuple[Point, Outcome]:
        if not given_up:
            given_up.append(choice)
            assert other.bury() == 1
        return Point(0.0, 1.0, 100), outcome(1.0)

    slow.work(9, float("inf"), run)
    tried = slow.tried()
    assert (len(tried.done), len(tried.failed), tried.died) == (2, 0, 1)


@pytest.mark.slow
def test_a_process_that_dies_is_one_trial_that_failed() -> None:
    heard: list[str] = []
    builder = Builder(heard.append)
    with pytest.raises(FaultError, match="the process that built it died"):
        builder.run(_die, trains=False)
    with pytest.raises(FaultError, match="the network cannot be made: found ZeroDivisionError"):
        builder.run(_divide, 1, 0, trains=False)
    assert builder.run(_divide, 6, 2, trains=False) == 3
    builder.close()
    assert heard[-1] == "division"


def _die(progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _divide(one: int, other: int, progress: Progress) -> float:
    progress.begin("division", 1)
    return one / other


@pytest.mark.slow
@pytest.mark.timeout(420)  # several processes load TensorFlow, one after the other
def test_a_search_killed_in_the_middle_goes_on(project: Path, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    command = [
        sys.executable, "-m", "vedette_converter", "search", str(project / "lights.toml"), "--data",
        str(project / "pictures"), "--evaluate", str(project / "test"), "--out", str(out), "--work", str(work),
        "--trials", "4", "--budget", "1", "--json",
    ]  # fmt: skip
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while _states(work).get("COMPLETE", 0) < 2 or not _states(work).get("RUNNING"):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    complete = _states(work)["COMPLETE"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["died"] == 1 and len(document["tried"]) == 4 and document["failed"] == []
    assert complete >= 2 and document["combinations"] == 4
    assert {(one["choice"]["precision"], one["choice"]["ratio"]) for one in document["tried"]} == {
        (precision, ratio) for precision in ("float32", "int8") for ratio in (0.0, 0.5)
    }
    fronted = [Point(one["drop"], one["ratio"], one["bytes"]) for one in document["front"]]
    assert fronted and not any(dominates(a, b) for a in fronted for b in fronted)
    assert all(one["test"]["pictures"] == 30 for one in document["front"])
    assert open_bundle(Path(document["bundle"])).manifest.name == document["chosen"]
    assert {"front.md", "front.svg", "front.json"} <= {path.name for path in out.iterdir()}
    assert (out / "front.svg").read_text().startswith("<svg ") and document["chosen"] in (out / "front.md").read_text()


def _states(work: Path) -> dict[str, int]:
    for path in (work / "search").glob("*.db"):
        try:
            with sqlite3.connect(path) as database:
                return dict(database.execute("select state, count(*) from trials group by state").fetchall())
        except sqlite3.OperationalError:
            return {}
    return {}


@pytest.mark.slow
@pytest.mark.timeout(420)  # several processes load TensorFlow, one after the other
def test_each_recipe_of_the_front_rebuilds_its_network(project: Path, tmp_path: Path) -> None:
    result = search(
        Wanted(project / "untrained.toml", project / "pictures", tmp_path / "out", work=tmp_path / "work", budget=1.0)
    )
    assert result.tried.finished == result.combinations == 2 and result.chosen is not None
    assert any("nothing is pruned" in note for note in result.notes)
    assert not any("not the trial's" in note for note in result.notes)
    (learn,) = (tmp_path / "work").glob("search/split/*/pictures-learn")
    for one in result.front:
        assert str(learn) in one.recipe.read_text().splitlines()[1]
        inputs = Inputs(learn, annotated=(project / "test",), out=tmp_path / f"{one.name}.tflite")
        _, bundle = build(read_recipe(one.recipe), inputs)
        assert bundle.manifest.flatbuffer_sha256 == one.outcome.sha256


@pytest.mark.slow
@pytest.mark.timeout(420)  # several processes load TensorFlow, one after the other
def test_a_search_that_ships_nothing_is_no_success(
    project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = read_recipe(project / "untrained.toml").recipe
    for precision in ("float32", "int8"):
        (tmp_path / "out" / f"{recipe.name}-{precision}-whole-16x16.tflite").mkdir(parents=True)  # no place for a file
    command = [
        "search",
        str(project / "untrained.toml"),
        "--data",
        str(project / "pictures"),
        "--budget",
        "1",
        "--json",
    ]
    assert main([*command, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]) == 1
    printed, said = capfd.readouterr()
    document = json.loads(printed)
    assert document["chosen"] is not None and document["bundle"] is None
    assert any("bundle cannot be written" in note for note in document["notes"])
    assert "the chosen recipe makes no bundle; the notes say why" in said


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--trials", "0"], "--trials: expected 1 or more, found 0"),
        (["--budget", "7"], "--budget: expected an accuracy drop, 0..1"),
        (["--precisions", "int4"], "--precisions: the flags say no [search]"),
        (["--ratios", "a"], "--ratios: expected numbers"),
        (["--sizes", "16"], "--sizes: the flags say no [search]"),
        (["--storage", "nonsense"], "the database cannot be used"),
        (["--storage", "postgresql://me:secret@nowhere/x"], "***@nowhere/x: the database"),
        (["--judge", "nowhere"], "nowhere"),
        (["--judge", "{project}/test", "--judge", "{project}/test"], "--judge: expected one folder, with one folder a"),
        (["--evaluate", "nowhere"], "nowhere: folder cannot be read"),
        (["--evaluate", "{project}/test", "--evaluate", "{project}/test"], "--evaluate: expected one folder, with one"),
        (["--evaluate", "{project}/pictures"], "00.png: is learned from, so nothing can be judged by it"),
        (["--sizes", "16x16,24x24"], "24"),
    ],
)
def test_a_mistake_is_one_line(
    flags: list[str], expected: str, project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["search", str(project / "lights.toml"), "--data", str(project / "pictures"), "--out"]
    flags = [flag.format(project=project) for flag in flags]
    code = main([*command, str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--trials", "2", *flags])
    said = capfd.readouterr().err
    assert code == 2 and len(said.strip().splitlines()) == 1 and expected in said and "secret" not in said, said


def test_a_size_needs_a_network_that_has_it(project: Path) -> None:
    detector = RECIPE.replace('format = "keras"\nfile', 'format = "tflite"\nfile')
    with pytest.raises(UserError, match=r"\[search\] sizes"):
        space(detector[: detector.index("[train]")] + "[golden]\npictures = 'x'\n", sizes=((24, 24),))
    with pytest.raises(UserError, match=r"\[search\] ratios"):
        space(detector[: detector.index("[train]")] + "[golden]\npictures = 'x'\n", ratios=(0.5,))
