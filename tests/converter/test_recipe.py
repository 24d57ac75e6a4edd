"""A recipe is read whole or refused with the file, the key and what would have been right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from converter_project import RECIPE, ROOT

from vedette.contract.errors import ConfigError, UserError
from vedette.contract.labels import parse_labels
from vedette.contract.manifest import ImageInput
from vedette_converter.pictured import read_labels
from vedette_converter.recipe import RecipeFile, read_recipe
from vedette_converter.recipe.document import page
from vedette_converter.recipe.flags import Flags, recipe_from_flags
from vedette_converter.recipe.quantisation import Quantise
from vedette_converter.recipe.sources import KerasSource

TEXT = RECIPE.read_text()


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert "recipe.toml" in caught.value.line()
    return caught.value.line()


def test_the_shipped_recipe_reads() -> None:
    file = read_recipe(RECIPE)
    assert file.recipe.quantise.pictures == 160
    assert (file.recipe.gate.max_drop, file.recipe.gate.min_agreement) == (0.02, 0.90)
    assert len(file.sha256) == 64


def test_the_shipped_labels_are_the_91_column_network_less_its_background() -> None:
    file = read_recipe(RECIPE)
    path = file.resolve(file.recipe.labels.file)
    labels = parse_labels(path.read_bytes(), path)
    assert len(labels) == 90
    assert labels[0] == "person" and labels[16] == "cat" and labels[89] == "toothbrush"
    assert [n + 1 for n, label in enumerate(labels) if label == "???"] == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[quantise]\nprecision", "[quantise]\npictuers = 3\nprecision", "quantise.pictuers: unknown key; did you mean pic"),
        ("[gate]\nmax_drop", "[gate]\nmax_dorp", "gate.max_dorp: unknown key; did you mean max_drop?"),
        ("[gate]", "[gates]", "gates: unknown key; did you mean gate?"),
        ('resize = "stretch"', 'resizing = "stretch"', "input.resizing: unknown key; did you mean resize?"),
        ("min_scale = 0.2", "minscale = 0.2", "output.anchors.minscale: unknown key; did you mean min_scale?"),
        ('format = "tfjs"', 'format = "onnx"', "source.package: unknown key; known here: attribution, file"),
        ("[golden]\n", "[golden]\nzzz = 1\n", "golden.zzz: unknown key; known here: agreement_margin"),
        ("pictures = 160", 'pictures = "many"', "quantise.pictures: Expected `int`, got `str`"),
        ("pictures = 160", "pictures = 0", "quantise.pictures: Expected `int` >= 1"),
        ('precision = "int8"', 'precision = "int7"', "quantise.precision: Invalid enum value 'int7'"),
        ("min_agreement = 0.90", "min_agreement = 90", "gate.min_agreement: Expected `float` <= 1.0"),
        ('format = "tfjs"', 'format = "caffe"', "source.format: Invalid value 'caffe': expected one of graph_def, keras"),
        ("std = [127.5]", "std = [0.0]", "input: std: expected numbers above 0"),
        ('task = "detect"\n', "", "Object missing required field `task`"),
        ('name = "coco-ssdlite-mobilenet-v2"', 'name = "../../x"', "name: bad value: expected 1 to 64 lower case letters, "),
        ('version = "1.0.0"', 'version = "new"', "version: bad value: expected one to three numbers"),
        ("[source]\n", "[source\n", "recipe is no TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert TEXT.count(old) == 1
    assert expected in refusal(tmp_path, TEXT.replace(old, new))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: recipe cannot be read: found No such file"):
        read_recipe(tmp_path / "nowhere.toml")


def test_the_page_on_recipes_is_what_the_code_says() -> None:
    from vedette_converter.recipe import document

    written = Path(__file__).resolve().parents[2] / "docs" / "converter" / "recipe.md"
    text = document.page()
    assert written.read_text() == text, "python -m vedette_converter.recipe.document docs/converter/recipe.md"
    undocumented = [line for line in text.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert undocumented == []


WATCH = ROOT / "models" / "recipes" / "watch-activity.toml"
SHUTTLE = ROOT / "models" / "recipes" / "shuttle-anomaly.toml"


@pytest.mark.parametrize(
    ("recipe", "old", "new", "expected"),
    [
        (WATCH, "stride = 64", "stried = 64", "input.stried: unknown key; did you mean stride?"),
        (WATCH, "rate_hz = 50.0", "rate_hz = 50.0\nmean = [1.0]", 'series: normalise: expected "given" where [input]'),
        (WATCH, 'group = "-"', "", "series: group: expected text, where judged names groups, found none"),
        (WATCH, '[labels]\nfile = "../labels/watch-activity.txt"', "", "labels: file: expected a path, found none"),
        (WATCH, 'network = "separable"', 'network = "resnet8"', "network 'resnet8' takes pictures"),
        (WATCH, 'network = "separable"', 'network = "autoencoder"', "network 'autoencoder' does not go with task"),
        (WATCH, 'task = "classify"', 'task = "detect"', "task: 'detect' does not go with this [output] decoder"),
        (WATCH, "[quantise]", "[train.augment]\nflip = false\n\n[quantise]", "augment: expected only for pictures"),
        (WATCH, "[quantise]", '[golden]\npictures = "x"\n\n[quantise]', "golden.pictures: expected only with"),
        (SHUTTLE, "quantile = 0.99", "quantile = 1.5", "output.quantile: Expected `float` < 1.0"),
        (SHUTTLE, "held_back = 0.2", "held_bakc = 0.2", "series.held_bakc: unknown key; did you mean held_back?"),
        (RECIPE, "[gate]", '[series]\ngroup = "-"\n\n[gate]', "golden.recordings and [series]: expected only with [input]"),
        (RECIPE, 'pictures = "../golden"', "", "golden: pictures: expected a path, found none"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_recipe_of_recordings_is_named(
    tmp_path: Path, recipe: Path, old: str, new: str, expected: str
) -> None:
    text = recipe.read_text()
    assert text.count(old) == 1, old
    assert expected in refusal(tmp_path, text.replace(old, new))


def test_a_network_that_was_trained_elsewhere_is_not_normalised_by_other_data(tmp_path: Path) -> None:
    text = WATCH.read_text()
    untrained = text[: text.index("[train]")] + text[text.index("[quantise]") :]
    assert 'series: normalise: expected "given" without [train], and in [input] the mean' in refusal(
        tmp_path, untrained
    )


def test_the_page_speaks_of_tables_and_not_of_classes() -> None:
    assert "| `channels` | a list of tables of `name`, `unit` |" in page() and "<class" not in page()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"name": "X Y"}, "--name: expected 1 to 64 lower case letters, .*, found 'X Y'"),
        ({"max_drop": 5.0}, "--max-drop: expected a share, 0 to 1, found 5"),
        ({"max_drop": float("nan")}, "--max-drop: expected a share"),
        ({"min_speedup": 0.0}, "--min-speedup: expected a number above 0"),
        ({"max_bytes": -1}, "--max-bytes: expected a number above 0"),
        ({"labels": Path("nowhere.txt")}, "nowhere.txt: labels cannot be read: found No such file.*; mend --labels"),
    ],
)
def test_a_flag_that_cannot_be_is_named(tmp_path: Path, flags: dict[str, Any], expected: str) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    (tmp_path / "a.keras").write_bytes(b"PK")
    given = Flags(**{"quantise": Quantise(), "labels": tmp_path / "labels.txt", **flags})
    image = ImageInput(height=8, width=8)
    with pytest.raises(UserError, match=f"{expected}"):
        file, _ = recipe_from_flags(
            tmp_path / "a.keras", KerasSource(file="a.keras", licence="x", attribution="y"), image, 2, tmp_path, given
        )
        read_labels(file)


@pytest.mark.parametrize(
    "text", ['[\n"a",\n]\n', '{"0": "a", "1": "b"}\n', "0,a\n1,b\n", "1: a\n2: b\n", "0  a\n1  b\n"]
)
def test_labels_with_json_or_numbers_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"labels\.txt: labels are written otherwise: expected a label a line"):
        read_labels(labels_file(tmp_path, text))


@pytest.mark.parametrize("text", ["0\n1\n", "1 door\n2 doors\n", "[a]\n[b]\n", "7: a\n9: b\n"])
def test_labels_that_only_look_like_it_are_not(tmp_path: Path, text: str) -> None:
    raw, labels = read_labels(labels_file(tmp_path, text))
    assert raw.decode() == text and labels == tuple(text.splitlines())


def labels_file(folder: Path, text: str) -> RecipeFile:
    (folder / "labels.txt").write_text(text)
    (folder / "a.keras").write_bytes(b"PK")
    source, image = KerasSource(file="a.keras", licence="x", attribution="y"), ImageInput(height=8, width=8)
    flags = Flags(quantise=Quantise(), labels=folder / "labels.txt")
    return recipe_from_flags(folder / "a.keras", source, image, 2, folder, flags)[0]
