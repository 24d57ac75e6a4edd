"""The commands as a user types them: exit codes, one line for one mistake, and JSON that holds what --help says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from real import BUNDLE, CLIP, DATA, TINY, BrokerAddress, agent_config, run_cli, write_pictures

from tiny import fake_parts
from vedette.cli import COMMANDS, main
from vedette.demo.broker import free_port, mosquitto_path

FLOAT = DATA / "tiny-float32.tflite"

needs_bundle = pytest.mark.skipif(
    not BUNDLE.is_file(), reason="the shipped detector is absent: the demo and boxes of the commands stay untested"
)


def mistake(*arguments: object, code: int = 2, **environment: str) -> str:
    """The one line on stderr of a command that must refuse."""
    outcome = run_cli(*arguments, **environment)
    assert outcome.returncode == code, outcome
    lines = outcome.stderr.splitlines()
    assert len(lines) == 1, outcome.stderr
    assert outcome.stdout == ""
    assert lines[0].startswith(("vedette: error: ", "vedette: fault: ")), lines
    return lines[0]


def good(*arguments: object) -> subprocess.CompletedProcess[str]:
    outcome = run_cli(*arguments)
    assert outcome.returncode == 0, outcome
    assert outcome.stderr == ""
    return outcome


def document(*arguments: object) -> Any:
    return json.loads(good(*arguments).stdout)


@pytest.fixture
def classify(labels_file: Path) -> list[object]:
    """Options for the tiny classifier."""
    return ["--decoder", "classify", "--labels", labels_file]


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    return path


# help


def test_ctrl_c_while_a_command_is_imported_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vedette.cli.import_module", interrupted)
    assert main(["show"]) == 130


def test_without_a_command_it_helps() -> None:
    text = good().stdout
    assert all(command in text for command in COMMANDS)
    assert "Exit codes" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_commands_help_has_examples_of_itself(command: str) -> None:
    text = good(command, "--help").stdout
    assert f"usage: vedette {command}" in text
    examples = text[text.index("examples:") :]
    assert re.search(rf"^  vedette {command}\b", examples, re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_the_examples_exist(command: str) -> None:
    text = good(command, "--help").stdout
    options, examples = text.split("examples:")
    used = set()
    for line in re.findall(rf"^  vedette {command}\b.*$", examples, re.M):
        used |= set(re.findall(r"(?<!\S)--[a-z-]+", line.split("|")[0].split("#")[0]))
    assert all(option in options for option in used), used


def test_the_version() -> None:
    from vedette import __version__

    assert good("--version").stdout == f"vedette {__version__}\n"


@pytest.mark.parametrize("arguments", [["fly"], ["infer"], ["run"], ["bench", "--threads", "x", "m"]])
def test_a_mistyped_command_is_one_line(arguments: list[str]) -> None:
    outcome = run_cli(*arguments)
    assert outcome.returncode == 2
    assert len(outcome.stderr.splitlines()) == 1 and outcome.stderr.startswith("vedette: error: ")


# models


@pytest.fixture
def bad_models(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.tflite" for name in ("text", "cut", "empty", "cut-bundle", "fake-bundle")}
    paths["text"].write_text("this is no model\n" * 100)
    paths["cut"].write_bytes(TINY.read_bytes()[: TINY.stat().st_size // 2])
    paths["empty"].write_bytes(b"")
    whole = fake_parts().bytes()
    paths["cut-bundle"].write_bytes(whole[:-40])
    damaged = bytearray(whole)
    damaged[150] ^= 1
    paths["fake-bundle"].write_bytes(damaged)
    return paths


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (command, name)
        for command in ("infer", "bench")
        for name in ("text", "cut", "empty", "cut-bundle", "fake-bundle")
    ]
    + [("show", "fake-bundle")],  # which loads no network
)
def test_a_model_that_is_none(
    bad_models: dict[str, Path], name: str, command: str, street: Path, labels_file: Path
) -> None:
    plain = [] if name == "fake-bundle" else ["--decoder", "classify", "--labels", labels_file]
    files = [street] if command == "infer" else []
    line = mistake(command, bad_models[name], *files, *plain)
    assert str(bad_models[name]) in line


@pytest.mark.parametrize("command", ["infer", "bench", "show", "demo"])
@pytest.mark.parametrize("left", [1000, 0.4])
@needs_bundle
def test_a_bundle_that_is_cut_is_called_so_and_no_decoder_asked_for(
    tmp_path: Path, street: Path, command: str, left: float
) -> None:
    cut = tmp_path / "cut.tflite"
    whole = BUNDLE.read_bytes()
    cut.write_bytes(whole[: int(left) or int(len(whole) * left)])
    line = mistake(command, *{"infer": [cut, street], "demo": ["--model", cut]}.get(command, [cut]))
    assert f"{cut}: is truncated" in line and "get it again" in line and "decoder" not in line


@pytest.mark.parametrize("command", ["infer", "bench", "show", "demo"])
def test_a_model_that_is_not_there(command: str, street: Path) -> None:
    files = {"infer": ["none", street], "demo": ["--model", "none"]}.get(command, ["none"])
    assert "no such model" in mistake(command, *files)


def test_a_plain_model_must_be_explained(street: Path, labels_file: Path) -> None:
    for command in (("infer", TINY, street), ("show", TINY), ("bench", TINY)):
        line = mistake(*command)
        assert "--decoder" in line and "uint8[1, 16, 16, 3]; output 0: StatefulPartitionedCall" in line
    assert "--labels" in mistake("infer", TINY, street, "--decoder", "classify")
    float_line = mistake("infer", FLOAT, street, "--decoder", "classify", "--labels", labels_file)
    assert "--mean" in float_line


def test_labels_that_do_not_fit_the_model(street: Path, labels_file: Path) -> None:
    labels_file.write_text("ash\nbirch\n")
    line = mistake("infer", TINY, street, "--decoder", "classify", "--labels", labels_file)
    assert "4" in line and "2" in line, "both numbers are said"
    assert "cannot be read" in mistake("infer", TINY, street, "--decoder", "classify", "--labels", "/none/labels.txt")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--threshold", "1.5"], "--threshold"),
        (["--threshold", "nan"], "--threshold"),
        (["--threads", "0"], "threads"),
        (["--threads", "-3"], "threads"),
        (["--size", "16"], "--size"),
        (["--mean", "3"], "leaves 2 of a pixel's 256 values"),
        (["--size", "16x16", "--std", "0"], "--std: expected numbers above 0"),
        (["--size", "16x16", "--mean", "nan"], "--mean: expected finite numbers"),
        (["--runtime", "tflite-runtime"], ""),
    ],
)
def test_an_option_out_of_range(classify: list[object], street: Path, options: list[str], part: str) -> None:
    outcome = run_cli("infer", TINY, street, *classify, *options)
    if options[0] == "--runtime" and outcome.returncode == 0:
        pytest.skip("tflite-runtime is installed here")
    assert outcome.returncode == 2, outcome
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert part in outcome.stderr


def test_a_network_that_gives_no_numbers_has_not_found_nothing(classify: list[object], street: Path) -> None:
    line = mistake("infer", FLOAT, street, *classify, "--size", "16x16", "--std", "1e-36")
    assert str(FLOAT) in line and "no finite numbers in output tensor" in line and "mean and std" in line


# pictures


def test_pictures_that_do_not_fit(classify: list[object], tmp_path: Path, street: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    dot = tmp_path / "dot.png"
    cv2.imwrite(str(dot), np.zeros((1, 1, 3), np.uint8))
    for picture in (text, dot, tmp_path / "none.png"):
        assert str(picture) in mistake("infer", TINY, picture, *classify)
    outcome = run_cli("infer", TINY, text, street, dot, street, *classify, "--json")
    assert outcome.returncode == 2
    for picture, line in zip((text, dot), outcome.stderr.splitlines(), strict=True):
        assert line.startswith(f"vedette: error: {picture}: ")
    assert [result["file"] for result in json.loads(outcome.stdout)["results"]] == [str(street)] * 2


def test_infer_says_what_it_found(classify: list[object], tmp_path: Path, street: Path) -> None:
    text = good("infer", TINY, street, *classify, "--threshold", "0").stdout
    assert str(street) in text and "60x40" in text
    assert all(label in text for label in ("ash", "birch", "cedar", "elm"))
    answer = document("infer", TINY, street, street, *classify, "--threshold", "0", "--json")
    assert set(answer) == {"model", "engine", "results"}
    assert set(answer["model"]) == {"name", "version", "sha256"}
    assert set(answer["engine"]) == {"runtime", "delegate", "threads"}
    assert len(answer["results"]) == 2
    for result in answer["results"]:
        assert (result["file"], result["width"], result["height"]) == (str(street), 60, 40)
        assert set(result["latency_ms"]) == {"preprocess", "infer", "decode"}
        assert {c["label"] for c in result["classes"]} == {"ash", "birch", "cedar", "elm"}
        assert sum(c["score"] for c in result["classes"]) == pytest.approx(1.0, abs=0.02)


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frame with people from the shipped clip."""
    capture = cv2.VideoCapture(str(CLIP))
    ok, pixels = capture.read()
    capture.release()
    assert ok
    path = tmp_path_factory.mktemp("frame") / "frame.png"
    cv2.imwrite(str(path), pixels)
    return path


@needs_bundle
def test_infer_draws_boxes(tmp_path: Path, frame: Path) -> None:
    for out, drawn in ((tmp_path / "one.jpg", "one.jpg"), (tmp_path / "folder", "folder/frame.jpg")):
        answer = document("infer", BUNDLE, frame, "--draw", out, "--json")
        [result] = answer["results"]
        assert "person" in {o["label"] for o in result["objects"]}
        assert result["drawn"] == str(tmp_path / drawn)
        pixels, plain = cv2.imread(result["drawn"]), cv2.imread(str(frame))
        assert pixels is not None and plain is not None and pixels.shape == plain.shape
        assert (np.abs(pixels.astype(int) - plain).max(axis=2) > 60).mean() > 0.001


def test_infer_takes_the_pictures_of_a_folder(classify: list[object], tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    (folder / "notes.txt").touch()
    (folder / "more.png").mkdir()
    results = document("infer", TINY, folder, folder / "001.png", *classify, "--json")["results"]
    assert [result["file"] for result in results] == [str(folder / f"{n}.png") for n in ("000", "001", "002", "001")]
    for name in ("IMG_1.HEIC", "IMG_2.HEIC"):
        (folder / name).touch()
    outcome = run_cli("infer", TINY, folder, *classify)
    line = f"vedette: {folder}: left out: IMG_1.HEIC and 1 more; save them as JPEG or PNG\n"
    assert (outcome.returncode, outcome.stderr) == (0, line)
    assert "save it as JPEG or PNG" in mistake("infer", TINY, folder / "IMG_1.HEIC", *classify)
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: no pictures: expected files named .bmp, .jpeg" in mistake(
        "infer", TINY, tmp_path / "empty", *classify
    )


def test_infer_says_what_looks_at_a_video(classify: list[object], street: Path) -> None:
    line = mistake("infer", TINY, street, "my clip.avi", *classify, "--draw", "out")
    assert "my clip.avi: a video: expected pictures; vedette demo --model" in line
    assert "--source 'my clip.avi' shows what a detector finds in it" in line and not Path("out").exists()


@needs_bundle
def test_infer_with_tiles_and_a_crop(tmp_path: Path, frame: Path) -> None:
    pixels = cv2.imread(str(frame))
    assert pixels is not None
    wide = tmp_path / "wide.png"
    cv2.imwrite(str(wide), np.tile(pixels, (2, 3, 1)))

    def people(*options: object) -> list[list[float]]:
        [result] = document("infer", BUNDLE, wide, "--json", *options)["results"]
        return [o["box"] for o in result["objects"] if o["label"] == "person"]

    assert len(people("--tiles", "3x2")) > len(people())
    cropped = people("--tiles", "1x2", "--crop", "0,0,0.334,1")
    assert cropped and all(box[2] <= 0.335 for box in cropped)
    drawn = good("infer", BUNDLE, wide, "--tiles", "3x2", "--draw", tmp_path / "drawn.png").stdout
    assert "person" in drawn and (tmp_path / "drawn.png").is_file()


@needs_bundle
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tiles", "3"), "--tiles: expected COLUMNSxROWS, such as 3x2, found '3'"),
        (("--tiles", "9x9"), "expected at most 32 views of a frame"),
        (("--crop", "left"), "--crop: expected four fractions"),
        (("--crop", "0.5,0.5"), "--crop: expected four fractions, such as 0,0.5,1,1, found '0.5,0.5'"),
        (("--crop", "0,0,nan,1"), "--crop"),
        (("--crop", "0.5,0,0.4,1"), "--crop: expected x_min, y_min"),
        (("--crop", "0,0,1.5,1"), "--crop: expected number <= 1.0, found '0,0,1.5,1'"),
        (("--tiles", "0x3"), "--tiles: expected whole number >= 1, found '0x3'"),
    ],
)
def test_tiles_and_crops_that_cannot_be(frame: Path, options: tuple[str, ...], said: str) -> None:
    assert said in mistake("infer", BUNDLE, frame, *options)


def test_tiles_are_for_detectors(classify: list[object], street: Path) -> None:
    assert "--tiles: expected a detector" in mistake("infer", TINY, street, *classify, "--tiles", "2x2")


@needs_bundle
def test_a_folder_that_cannot_be_made_and_a_suffix_that_is_none(frame: Path) -> None:
    assert "--draw" in mistake("infer", BUNDLE, frame, "--draw", "/proc/none/out.jpg")


@needs_bundle
def test_a_bundle_needs_no_options(frame: Path, labels_file: Path) -> None:
    line = mistake("infer", BUNDLE, frame, "--decoder", "classify", "--labels", labels_file)
    assert "is a bundle" in line


# bench and show


def test_bench_measures(classify: list[object]) -> None:
    answer = document("bench", TINY, *classify, "--seconds", "0.3", "--json")
    assert set(answer) == {"model", "engine", "runs", "latency_ms", "fps", "load_s", "pss_bytes", "energy"}
    assert set(answer["latency_ms"]) == {"preprocess", "infer", "decode", "total"}
    for row in answer["latency_ms"].values():
        assert set(row) == {"mean", "p50", "p90", "p99", "max"}
        assert 0 <= row["p50"] <= row["p90"] <= row["p99"] <= row["max"]
    assert answer["runs"] > 0 and answer["fps"] > 0 and answer["pss_bytes"] > 1_000_000
    table = good("bench", TINY, *classify, "--seconds", "0.3").stdout
    assert "infer" in table and "p99" in table
    assert "--seconds" in mistake("bench", TINY, *classify, "--seconds", "0")
    # what was typed, not a key of a configuration that there is none of
    assert "error: bad number of threads: expected 1 to 64" in mistake("bench", TINY, *classify, "--threads", "0")


def test_show_lists_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "mine.tflite").write_bytes(TINY.read_bytes())
    outcome = run_cli("show", "--json", VEDETTE_MODELS=str(tmp_path))
    models = json.loads(outcome.stdout)["models"]
    assert {"name": "mine", "path": str(tmp_path / "mine.tflite"), "bytes": TINY.stat().st_size} in models
    assert "mine" in run_cli("show", VEDETTE_MODELS=str(tmp_path)).stdout


def test_show_lists_a_line_a_model(tmp_path: Path) -> None:
    (tmp_path / "tree.tflite").write_bytes(fake_parts().bytes())
    (tmp_path / "a-plain-one.tflite").write_bytes(TINY.read_bytes())
    (tmp_path / "damaged.tflite").write_bytes(b"no network")
    long = "x" * 70
    (tmp_path / f"{long}.tflite").write_bytes(fake_parts().bytes())
    lines = run_cli("show", VEDETTE_MODELS=str(tmp_path), COLUMNS="80").stdout.splitlines()
    assert lines[0] == f"{tmp_path}:" and max(map(len, lines[1:])) <= 80
    assert re.search(r"tree +classify +4 labels +16x16 +0\.\d\d MB", "\n".join(lines))
    assert sum("no bundle" in line for line in lines) == 2
    assert sum(line.split(" ")[0].count("x") for line in lines[1:] if line[:1] == "x") == 70, "whole, if on two lines"


def test_show_names_every_label(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    names = ["[red] panda", "???", *(f"animal {number}" for number in range(2))]
    labels.write_text("\n".join(names) + "\n")
    text = good("show", TINY, "--decoder", "classify", "--labels", labels).stdout
    assert "3: [red] panda, animal 0, animal 1" in text


@needs_bundle
def test_show_wraps_many_labels_at_the_terminals_width() -> None:
    outcome = run_cli("show", BUNDLE, COLUMNS="60")
    lines = outcome.stdout.splitlines()[2:]
    assert max(map(len, lines)) <= 60
    words = " ".join(" ".join(lines).split())
    assert "80: person, bicycle," in words and "hair drier, toothbrush task" in words and "???" not in words


def test_show_of_a_bundle(tmp_path: Path) -> None:
    path = tmp_path / "tree.tflite"
    path.write_bytes(fake_parts().bytes())
    answer = document("show", path, "--json")
    expected = {"path", "bytes", "sha256", "bundle", "name", "version", "labels", "input", "output", "members"}
    assert expected | {"measurements", "evaluation", "precision", "source"} <= set(answer)
    assert answer["bundle"] is True and answer["labels"] == ["ash", "birch", "cedar", "elm"]
    assert "labels.txt" in answer["members"] and answer["measurements"] == {"infer_ms": 0.1}
    assert "4: ash, birch, cedar, elm" in good("show", path).stdout


@pytest.mark.parametrize("measured", [b"", b"{", b"\xff", b"[" * 100_000])
def test_measurements_that_are_none_are_one_line(tmp_path: Path, measured: bytes) -> None:
    """No digest covers them, so anybody may have written them."""
    path = tmp_path / "a.tflite"
    path.write_bytes(fake_parts(measurements_json=measured).bytes())
    outcome = run_cli("show", path, "--json")
    [line] = outcome.stderr.splitlines()
    assert outcome.returncode == 2 and "a.tflite: measurements.json: measurements cannot be read" in line


def test_show_of_a_plain_model(classify: list[object]) -> None:
    answer = document("show", TINY, *classify, "--json")
    assert answer["bundle"] is False and answer["name"] == TINY.stem
    text = good("show", TINY, *classify).stdout
    assert "plain model" in text and "as its own tensor says" in text and answer["input"] is None
    stated = ("show", TINY, *classify, "--resize", "letterbox")
    assert document(*stated, "--json")["input"]["resize"] == "letterbox"
    assert "resize letterbox, the rest as its own tensor says" in good(*stated).stdout


@needs_bundle
def test_no_option_of_a_plain_model_is_passed_over(street: Path) -> None:
    assert "a bundle, which says all of itself" in mistake("infer", BUNDLE, street, "--resize", "letterbox")
    assert "--activation: expected --decoder NAME" in mistake("infer", BUNDLE, street, "--activation", "none")


@pytest.mark.parametrize(
    "command", ["show", "show {model}", "show {model} --json", "infer {model} {picture}", "doctor"]
)
def test_a_reader_that_goes_away_is_no_error(classify: list[object], tmp_path: Path, command: str) -> None:
    picture = write_pictures(tmp_path / "pictures") / "000.png"
    words = command.format(model=TINY, picture=picture).split()
    plain = [str(word) for word in classify] if str(TINY) in words else []
    reading_end, writing_end = os.pipe()
    os.close(reading_end)  # it has gone before there was anything to read
    try:
        outcome = subprocess.run(
            [sys.executable, "-m", "vedette", *words, *plain], stdout=writing_end, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    finally:
        os.close(writing_end)
    assert (outcome.returncode, outcome.stderr) == (0, "")


# run and check


CONFIG_MISTAKES = [
    ("treshold = 0.5", "did you mean 'threshold'?"),
    ("threshold = 1.5", "expected 0 to 1"),
    ('threshold = "high"', "expected number"),
    ('labels = ["aspen"]', "unknown label"),
    ('labels = ["brich"]', "did you mean 'birch'?"),
    ("thresholds = { oak = 0.5 }", "unknown label"),
]


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(("lines", "part"), CONFIG_MISTAKES)
def test_a_mistake_in_the_configuration(tmp_path: Path, command: str, lines: str, part: str) -> None:
    source = f'url = "{write_pictures(tmp_path / "p")}"'
    config = agent_config(tmp_path, free_port(), source, pipeline=lines)
    outcome = run_cli(command, "-c", config)
    assert outcome.returncode == 2, outcome
    # check goes on to what else there is
    [line] = [line for line in (outcome.stderr + outcome.stdout).splitlines() if part in line]
    assert re.search(rf"{re.escape(str(config))}:\d+: pipeline\.door\.", line), line


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ('url = "/none/clip.mp4"', "no such file"),
        ('url = "images:///none"', "no such folder"),
        ('url = "ftp://host/x"', "unknown scheme"),
        ('url = "rtsp://admin:s3cret@:99999/x"', "malformed URL"),
    ],
)
def test_a_source_that_is_not_there_ends_the_agent_with_one_line(tmp_path: Path, source: str, part: str) -> None:
    config = agent_config(tmp_path, free_port(), source, top='log_level = "error"')
    line = mistake("run", "-c", config)
    assert part in line and "s3cret" not in line


def test_a_model_that_is_not_there_ends_the_agent_with_one_line(tmp_path: Path) -> None:
    config = agent_config(tmp_path, free_port(), 'url = "x"')
    config.write_text(config.read_text().replace(str(TINY), "/none/m.tflite"))
    assert "no such model" in mistake("run", "-c", config)
    assert "cannot be read" in mistake("run", "-c", tmp_path / "none.toml")


def test_a_state_folder_that_cannot_be_used_ends_the_agent_with_one_line(tmp_path: Path) -> None:
    source = f'url = "{write_pictures(tmp_path / "p")}"'
    config = agent_config(tmp_path, free_port(), source)
    config.write_text(re.sub('state_dir = ".*"', 'state_dir = "/proc/sys/vedette"', config.read_text()))
    assert "state_dir" in mistake("run", "-c", config)


def test_an_epoch_that_cannot_be_read_is_put_aside_and_no_id_is_guessed(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "p")
    config = agent_config(tmp_path, free_port(), f'url = "{pictures}"\npace = "max"')
    state = tmp_path / "dev-1"
    state.mkdir()
    (state / "epoch.json").write_text("rubbish")
    outcome = run_cli("run", "-c", config)
    assert outcome.returncode == 0, outcome
    assert "epoch.json is broken and was put aside" in outcome.stderr
    assert "rubbish" in [file.read_text() for file in state.glob("epoch.json?*")]
    assert msgspec.json.decode((state / "epoch.json").read_bytes())["epoch"] >= 2**52


def test_check_says_of_each_part_how_it_is(tmp_path: Path, broker: BrokerAddress) -> None:
    source = f'url = "{write_pictures(tmp_path / "p")}"'
    mqtt = f'protocol = "{broker.protocols[0]}"'
    config = agent_config(tmp_path, broker.port, source, mqtt=mqtt)
    lines = good("check", "-c", config).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 5
    assert "64x48" in lines[3] and str(broker.port) in lines[4]
    assert len(good("check", "-c", config, "--offline").stdout.splitlines()) == 3
    assert not (tmp_path / "dev-1").exists(), "a trial leaves nothing"


def test_check_finds_every_problem_and_ends_with_two(tmp_path: Path) -> None:
    config = agent_config(tmp_path, free_port(), 'url = "/none.mp4"')
    outcome = run_cli("check", "-c", config)
    assert outcome.returncode == 2 and outcome.stderr == ""
    lines = outcome.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "ok", "ok", "bad", "bad"]
    assert lines[3].startswith(f"bad   {config}:") and "pipeline.door.source: /none.mp4" in lines[3]
    assert "broker" in lines[4]


def test_check_goes_on_behind_a_model_that_is_none(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "p")
    path = tmp_path / "v.toml"
    path.write_text(
        f'state_dir = "/proc/nope"\n[mqtt]\nport = {free_port()}\n'
        f'[pipeline.yard]\nmodel = "nope1"\nsource = "{pictures}"\n'
        '[pipeline.yard.snapshots]\nfolder = "/proc/nope"\n'
        '[pipeline.pump]\nmodel = "nope2"\nsource = "serial:///dev/ttyNONE"\n'
    )
    outcome = run_cli("check", "-c", path)
    assert outcome.returncode == 2 and outcome.stderr == ""
    begins = [
        f"ok    configuration {path}, ",
        f"bad   {path}:1: state_dir: /proc/nope: cannot be written to: ",
        f"bad   {path}:8: pipeline.yard.snapshots.folder: /proc/nope/yard: cannot be written to: ",
        f"bad   {path}:5: pipeline.yard.model: nope1: no such model: ",
        "ok    pipeline yard: source: ",
        f"bad   {path}:10: pipeline.pump.model: nope2: no such model: ",
        "warn  pipeline pump: source: not tried",
        "bad   broker: ",
    ]
    lines = outcome.stdout.splitlines()
    assert [begin for begin, line in zip(begins, lines, strict=True) if not line.startswith(begin)] == [], lines


def test_check_leaves_no_part_of_a_folder_behind_and_what_is_there_alone(tmp_path: Path) -> None:
    config = agent_config(tmp_path, free_port(), f'url = "{write_pictures(tmp_path / "p")}"')
    state = tmp_path / "a" / "b" / "c"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "kept").write_text("")
    config.write_text(re.sub('state_dir = ".*"', f'state_dir = "{state}"', config.read_text()))
    good("check", "-c", config, "--offline")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]
    state.parent.write_text("")  # a file in the folder's place
    outcome = run_cli("check", "-c", config, "--offline")
    assert outcome.returncode == 2 and "state_dir" in outcome.stdout and "Not a directory" in outcome.stdout


def test_check_warns_of_a_state_folder_that_nothing_names_and_a_service_has_another(tmp_path: Path) -> None:
    config = agent_config(tmp_path, free_port(), f'url = "{write_pictures(tmp_path / "p")}"')
    config.write_text(re.sub('state_dir = ".*"\n', "", config.read_text()))
    outcome = run_cli("check", "-c", config, "--offline", XDG_STATE_HOME="/proc/nope", STATE_DIRECTORY="")
    assert outcome.returncode == 0 and "warn  state_dir: /proc/nope/vedette: cannot be written to" in outcome.stdout
    outcome = run_cli("check", "-c", config, "--offline", STATE_DIRECTORY="/proc/nope")
    assert outcome.returncode == 2 and f"bad   {config}: state_dir: /proc/nope: cannot be written to" in outcome.stdout


def test_what_stands_between_colons_is_shown_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "vedette.toml"
    path.write_text(
        f'state_dir = "{tmp_path}"\n[pipeline.a]\nmodel = "vtest-person"\nsource = "exec:echo root:x:0:b:/"\n'
    )
    assert "found 'root:x:0:b:/'" in run_cli("check", "-c", path).stdout


def test_check_without_a_broker_that_would_pass_by_itself_is_still_the_users_to_know(tmp_path: Path) -> None:
    config = agent_config(tmp_path, free_port(), f'url = "{write_pictures(tmp_path / "p")}"')
    outcome = run_cli("check", "-c", config)
    assert outcome.returncode == 2
    assert "no broker" in outcome.stdout.splitlines()[-1]


# demo


BROKERS = [
    pytest.param("mosquitto", marks=pytest.mark.skipif(
        mosquitto_path() is None, reason="no mosquitto: the demo with it stays untested")),
    "iotcore",
]  # fmt: skip


@needs_bundle
@pytest.mark.parametrize("broker_name", BROKERS)
def test_the_demo_from_end_to_end(tmp_path: Path, broker_name: str) -> None:
    if broker_name == "iotcore":
        pytest.importorskip("iotcore", reason="no iotcore: the demo without Mosquitto stays untested")
    picture = tmp_path / "demo.png"
    outcome = good("demo", "--json", "--seconds", "4", "--broker", broker_name, "--picture", picture)
    answer = json.loads(outcome.stdout.splitlines()[-1])
    documented = {
        "frames", "inferred", "published", "received", "fps", "latency_ms", "pss_bytes", "ready_s", "picture",
    }  # fmt: skip
    assert documented <= set(answer)
    assert answer["broker"] == broker_name
    assert answer["received"] == answer["published"] > 0 and answer["missing"] == 0
    assert answer["inferred"] >= answer["received"]
    assert "person" in answer["labels"]
    stages = answer["latency_ms"]
    assert {"preprocess", "infer", "decode", "total"} <= set(stages)
    assert all(0 <= row["p50"] <= row["p99"] for row in stages.values())
    assert answer["ready_s"] > 0 and answer["pss_bytes"] > 10_000_000
    drawn = cv2.imread(answer["picture"])
    assert answer["picture"] == str(picture) and drawn is not None
    assert differs_from_every_frame(drawn), "boxes are drawn upon it"


def differs_from_every_frame(drawn: Any) -> bool:
    """Against the nearest frame of the clip, some pixels differ much, and most do not."""
    capture = cv2.VideoCapture(str(CLIP))
    shares = []
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        shares.append(float((np.abs(frame.astype(int) - drawn).max(axis=2) > 40).mean()))
    capture.release()
    return 0.0005 < min(shares) < 0.3


@needs_bundle
def test_the_demo_for_people_without_a_terminal() -> None:
    text = good("demo", "--seconds", "2").stdout
    assert "frames seen" in text and "0 missing" in text and "person" in text
    summary = text[text.index("stage ") :].splitlines()
    assert all(len(line) <= 80 for line in summary if not line.startswith(("found:", "picture:"))), summary


@needs_bundle
def test_a_demo_that_finds_nothing_says_that_it_leaves_no_picture(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((64, 64, 3), 128, np.uint8))
    text = good("demo", "--seconds", "2", "--source", tmp_path, "--picture", tmp_path / "out.jpg").stdout
    assert "found: nothing\n" in text and "\npicture: none (nothing found" in text
    assert not (tmp_path / "out.jpg").exists()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--seconds", "0"], "--seconds"),
        (["--threads", "0"], "--threads: expected 1 to 64, found 0"),
        (["--source", "/none.mp4"], "no such file"),
        (["--source", "gopher://x"], "unknown scheme"),
    ],
)
@needs_bundle
def test_a_demo_that_cannot_be(options: list[str], part: str) -> None:
    assert part in mistake("demo", *options)
