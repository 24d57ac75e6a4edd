"""One model for another, part by part: between two samples, in lanes that are shared, with settings that fit."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from accelerator import accelerated_bundle
from real import CLIP, DATA, DEADLINE_S, ROOT, wait_for
from test_pipeline import LABELS, Run, SmallEngine, detector, picture

from vedette import clock
from vedette.config import Config, parse_config
from vedette.contract.errors import ConfigError, FaultError, ModelError, UserError
from vedette.contract.manifest import ClassifyOutput, SeriesInput
from vedette.contract.types import UInt8Array
from vedette.flow.lane import Lane, Turns
from vedette.flow.pipeline import BUFFERS
from vedette.flow.selection import make_filter
from vedette.follow.following import Unfollowed
from vedette.messages.bodies import BodyWriter
from vedette.models import proofs
from vedette.models.model import Model, PlainModel, load_model, read_model, read_network
from vedette.models.proofs import Proofs
from vedette.mqtt.requests import Enable, Threshold
from vedette.mqtt.results import EngineRef, ModelRef
from vedette.service.compose import Prepared, prepare
from vedette.service.control import Control
from vedette.service.lanes import Lanes, Loaded
from vedette.service.reload import Reload, check_fits, is_same

MODELS = ROOT / "models"
RESNET8, WIDE = (MODELS / f"cifar10-{name}.tflite" for name in ("resnet8", "resnet20-wide"))
NEW = ModelRef("new", "2", "1" * 64)


def exchange(run: Run, engine: SmallEngine) -> Lane:
    """Puts another model into the running pipeline, from the next sample on. Its lane, started."""
    lane = Lane("new", [engine], Turns(1))
    lane.start()
    model = Model(run.pipeline.model.spec, engine, score_threshold=0.5)
    writer = BodyWriter(LABELS, NEW, EngineRef("small 1", "none"))
    label_filter = make_filter(LABELS, (), 0.5, {})

    def action() -> None:
        assert run.pipeline._inferred.empty() and not run.engine._running.locked(), "nothing is under way"
        run.reporter.change(writer, NEW, label_filter, Unfollowed(), clock.now_ns())
        run.pipeline.equip([[model.sibling()] for _ in range(BUFFERS)], lane.seat("p"))

    run.pipeline.between(action).result(DEADLINE_S)
    return lane


def test_every_frame_is_one_models_or_the_others_and_none_is_lost() -> None:
    slow, quick = detector([0.9], [0]), detector([0.8], [1])
    run = Run(slow, [picture()] * 400)
    with run:
        for _ in range(20):
            assert slow.entered.acquire(timeout=DEADLINE_S)
        # the old one is in the middle of a frame, which the new one must not overtake
        slow.go_on.clear()
        wait_for("a frame under way", slow._running.locked)
        timer = threading.Timer(0.2, slow.go_on.set)
        timer.start()
        lane = exchange(run, quick)
        assert run.pipeline.ended.wait(DEADLINE_S)
        lane.stop()
    messages = run.messages()
    assert [m["seq"] for m in messages] == [m["frame"]["seq"] for m in messages] == list(range(1, 401))
    names = [m["model"]["name"] for m in messages]
    first = names.index("new")
    assert first >= 20 and names == ["small"] * first + ["new"] * (400 - first)
    assert [m["objects"][0]["label"] for m in messages] == ["cat"] * first + ["dog"] * (400 - first)
    assert run.stats.dropped() == {}


def test_a_pipeline_that_has_ended_takes_no_other() -> None:
    run = Run(detector([0.9], [0]), [picture()] * 3).to_the_end()
    run.pipeline._threads[0].join(DEADLINE_S)
    done = run.pipeline.between(lambda: None)
    assert done.cancelled() and not wait([done], 0.0).not_done, "nobody need wait for it any longer"


def test_a_pipeline_that_ends_before_it_heard_what_it_was_asked_takes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(detector([0.9], [0]), [])
    asked: list[Future[None]] = []

    def take() -> None:
        asked.append(run.pipeline.between(lambda: pytest.fail("too late")))
        run.pipeline._stop.set()

    monkeypatch.setattr(run.pipeline, "_take", take)
    run.to_the_end()
    run.pipeline._threads[0].join(DEADLINE_S)
    [done] = asked
    assert done.cancelled() and not wait([done], 0.0).not_done


def test_a_pipeline_that_is_stopped_meanwhile_takes_no_other() -> None:
    engine = detector([0.9], [0])
    run = Run(engine, [picture()] * 100)
    engine.go_on.clear()
    with run:
        wait_for("a frame under way", engine._running.locked)
        done = run.pipeline.between(lambda: pytest.fail("too late"))
        run.pipeline._stop.set()
        wait_for("the answer", done.done)
        assert done.cancelled()


def test_what_goes_wrong_between_two_samples_is_told_and_the_pipeline_goes_on() -> None:
    def action() -> None:
        raise ZeroDivisionError

    run = Run(detector([0.9], [0]), [picture()] * 100)
    with run:
        assert isinstance(run.pipeline.between(action).exception(DEADLINE_S), ZeroDivisionError)
        assert run.pipeline.ended.wait(DEADLINE_S)
    assert len(run.messages()) == 100 and run.pipeline.fault is None


def test_who_gives_up_waiting_is_not_surprised_later() -> None:
    engine = detector([0.9], [0])
    more = threading.Event()

    def pictures() -> Iterator[UInt8Array]:
        yield picture()
        more.wait(DEADLINE_S)
        for _ in range(99):
            yield picture()

    run = Run(engine, pictures())  # type: ignore[arg-type]
    engine.go_on.clear()
    with run:
        wait_for("a frame under way", engine._running.locked)
        # one set of buffers is under way, the other is here and waits with it
        given_up = run.pipeline.between(lambda: pytest.fail("nobody waits for it"))
        wait_for("the pipeline to wait", lambda: run.pipeline._asked.empty())
        assert given_up.cancel()
        engine.go_on.set()
        run.pipeline.between(more.set).result(DEADLINE_S)
        assert run.pipeline.ended.wait(DEADLINE_S)
    assert len(run.messages()) == 100 and run.pipeline.fault is None


# lanes


def configured(folder: Path, models: dict[str, Path], top: str = "") -> tuple[Config, dict[str, Prepared]]:
    text = f'state_dir = "{folder}"\n{top}\n' + "".join(
        f'[pipeline.{name}]\nmodel = "{model}"\nsource = "{CLIP}"\n' for name, model in models.items()
    )
    config = parse_config(text.encode(), folder / "v.toml")
    return config, {p.name: p for p in prepare(config, folder / "v.toml")}


def taken(lanes: Lanes, prepared: dict[str, Prepared]) -> dict[str, Loaded]:
    """Loaded, with a seat each, as pipelines have it."""
    loaded = lanes.load(list(prepared.values()))
    for name, one in loaded.items():
        lanes.take(name, one)
    return loaded


def test_who_comes_later_joins_and_what_nobody_uses_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    config, before = configured(tmp_path, {"a": RESNET8, "b": WIDE, "c": WIDE}, "[engine]\nthreads = 1\n")
    lanes = Lanes(config.engine, 1)
    first = taken(lanes, before)
    seats = {name: one.lane.seat(name) for name, one in first.items()}
    lanes.start()
    wide, small = first["b"].lane, first["a"].lane
    assert (len(wide.engines), len(small.engines)) == (2, 1)
    # a takes the model of the others
    _, after = configured(tmp_path, {"a": WIDE})
    second = taken(lanes, after)["a"]
    assert second.lane is wide and second.model.engine is wide.engines[0]
    assert len(wide.engines) == 3, "as at the start: one for each, as far as they can run at once"
    seat = second.lane.seat("a")
    small.leave(seats["a"])
    engine = small.engines[0]
    lanes.sweep()
    assert not any(thread.is_alive() for thread in small._threads)
    assert engine._interpreter is None, "its memory is returned"  # type: ignore[attr-defined]
    done: list[Any] = []
    seat.submit(second.model.infer, done.append)
    wait_for("an inference in the lane that was joined", lambda: done == [None])
    # two of the three leave
    for one in (seat, seats["b"]):
        wide.leave(one)
    lanes.sweep()
    assert len(wide.engines) == 1
    lanes.stop(5.0)
    lanes.close()


def test_one_that_cannot_be_loaded_leaves_no_lane(tmp_path: Path) -> None:
    model = tmp_path / "m.tflite"
    shutil.copyfile(WIDE, model)
    config, before = configured(tmp_path, {"a": RESNET8, "b": model})
    lanes = Lanes(config.engine, 1)
    os_threads = threading.active_count()
    lanes.start()
    shutil.copyfile(RESNET8, model)
    with pytest.raises(ModelError, match="changed while it was in use"):
        lanes.load(list(before.values()))
    lanes.sweep()
    assert lanes._lanes == [] and threading.active_count() == os_threads


# the file under a model


@pytest.mark.parametrize("kind", ["bundle", "plain"])
def test_what_was_checked_is_what_is_loaded(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    if kind == "bundle":
        shutil.copyfile(accelerated_bundle(tmp_path), path)
        spec = read_model(str(path))
    else:
        shutil.copyfile(DATA / "tiny-uint8.tflite", path)
        labels = tmp_path / "labels.txt"
        labels.write_text("ash\nbirch\ncedar\nelm\n")
        spec = read_model(str(path), PlainModel(ClassifyOutput(), labels_file=labels))
    model = load_model(spec)
    frame = np.full((16, 16, 3), 77, np.uint8)
    before = model(frame)
    data = bytearray(path.read_bytes())
    data[-3000 if kind == "plain" else 2000] ^= 1
    path.write_bytes(data)  # in place
    assert np.array_equal(model(frame).scores, before.scores)  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="changed while it was in use"):
        read_network(spec)
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        read_network(spec)


def test_a_file_that_changes_while_it_is_proved_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.tflite"
    shutil.copyfile(WIDE, model)
    config, prepared = configured(tmp_path, {"a": model})
    proof = proofs.probe_bundle

    def slowly(*arguments: Any) -> Any:
        outcome = proof(*arguments)
        shutil.copyfile(RESNET8, model)
        return outcome

    monkeypatch.setattr(proofs, "probe_bundle", slowly)
    with pytest.raises(ModelError, match="changed while it was in use"):
        Lanes(config.engine, 1, Proofs(tmp_path)).load(list(prepared.values()))


# settings


class Fitted:
    """As much of a pipeline as settings are put into."""

    name = "a"

    def __init__(self, prepared: Prepared) -> None:
        self.enabled = threading.Event()
        self.enabled.set()
        self.reporter = self
        self.spec = prepared.spec
        self._filter = prepared.label_filter

    @property
    def label_filter(self) -> Any:
        return self._filter

    @label_filter.setter
    def label_filter(self, chosen: Any) -> None:
        assert chosen.thresholds.shape == (len(self.spec.labels),), "thresholds of another model's labels"
        self._filter = chosen

    def decide_from(self, score: float) -> None:
        """Nothing to decode."""


def test_a_threshold_of_a_label_that_is_not_reported_is_refused(tmp_path: Path) -> None:
    prepared = configured(tmp_path, {"a": MODELS / "coco-ssdlite-mobilenet-v2.tflite"})[1]["a"]
    few = replace(prepared, config=msgspec.structs.replace(prepared.config, labels=["person"]))

    def told(one: Prepared, label: str) -> dict[str, float]:
        control = Control([one], [Fitted(one)], lambda name: None)  # type: ignore[list-item]
        control.threshold(Threshold(id="t", expires=0.0, pipeline="a", value=0.6, label=label))
        return control.settings("d", 1, "a").thresholds

    assert told(few, "person") == {"person": 0.6}
    assert told(prepared, "cat") == {"cat": 0.6}, "without labels every one is reported"
    with pytest.raises(
        UserError, match="a: a label that this pipeline does not report: expected one of person, found 'cat'"
    ):
        told(few, "cat")


def test_a_command_that_comes_while_the_model_is_exchanged_meets_one_or_the_other(tmp_path: Path) -> None:
    coco, person = MODELS / "coco-ssdlite-mobilenet-v2.tflite", MODELS / "vtest-person.tflite"
    before, after = (configured(tmp_path, {"a": model})[1]["a"] for model in (coco, person))
    pipeline = Fitted(before)
    control = Control([before], [pipeline], lambda name: None)  # type: ignore[list-item]
    assert control.enable(Enable(id="e", expires=0.0, pipeline="a", on=False)) == {"enabled": False}
    amid, go_on = threading.Event(), threading.Event()

    def refit(which: Any, old: Prepared) -> None:
        assert old is before
        which.spec = after.spec
        amid.set()
        assert go_on.wait(DEADLINE_S)
        which.label_filter = after.label_filter

    refused: list[str] = []

    def command() -> None:
        assert amid.wait(DEADLINE_S)
        threading.Timer(0.2, go_on.set).start()
        control.threshold(Threshold(id="t", expires=0.0, pipeline="a", value=0.25))
        try:
            control.threshold(Threshold(id="u", expires=0.0, pipeline="a", value=0.25, label="cat"))
        except UserError as error:
            refused.append(str(error))

    thread = threading.Thread(target=command)
    thread.start()
    control.exchange(after, refit)
    thread.join(DEADLINE_S)
    settings = control.settings("d", 1, "a")
    assert (settings.threshold, settings.enabled) == (0.25, False)
    assert len(refused) == 1 and "no such label" in refused[0]
    assert control.prepared("a") is after


# what fits


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"mean": (1.0,), "std": (2.0,)}, True),
        ({"layout": "channel-time"}, True),
        ({"length": 32}, False),
        ({"stride": 7}, False),
        ({"rate_hz": 10.0}, False),
        ({"max_gap": 9.0}, False),
        ({"interpolation": "previous"}, False),
        ({"channels": ()}, False),
    ],
)
def test_a_model_fits_that_takes_the_same_windows(changes: dict[str, Any], fits: bool, tmp_path: Path) -> None:
    readings = tmp_path / "readings.csv"
    readings.write_text("t,x\n")
    text = f'[pipeline.a]\nmodel = "{MODELS / "watch-activity.tflite"}"\nsource = "{readings}"\n'
    config = parse_config(text.encode(), tmp_path / "v.toml")
    [old] = prepare(config, tmp_path / "v.toml")
    assert isinstance(old.spec.input, SeriesInput)
    if "channels" in changes:
        changes = {"channels": old.spec.input.channels[:-1], "mean": (0.0,), "std": (1.0,)}
    taken = msgspec.structs.replace(old.spec.input, **changes)
    new = replace(old, spec=replace(old.spec, input=taken))
    assert not is_same(old, new)
    if fits:
        check_fits(old, new)
    else:
        with pytest.raises(ConfigError, match="restart the agent for this"):
            check_fits(old, new)


KINDS = MODELS / "coco-ssdlite-mobilenet-v2.tflite"
YARD = "[pipeline.a.zones.yard]\npolygon = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]\nlabels = ['cat']\n"


@pytest.mark.parametrize(
    ("settings", "tables", "needs_restart"),
    [
        ("threshold = 0.7", YARD, []),
        ("threshold = 0.7", YARD.replace("1.0, 0.0", "0.5, 0.0"), ["pipeline.a.zones"]),
        ("threshold = 0.7\nmax_fps = 3.0", "", ["pipeline.a.max_fps", "pipeline.a.zones"]),
        ("threshold = 0.7\nlabels = ['cat', 'dog']", YARD.replace("1.0, 0.0", "0.5, 0.0"), ["pipeline.a.zones"]),
        # the zone that runs is one of a label that would not be reported
        ("threshold = 0.7\nlabels = ['dog']", YARD.replace("cat", "dog"), None),
        # another model may need its own zones
        (f"threshold = 0.7\nmodel = '{MODELS / 'vtest-person.tflite'}'", YARD.replace("cat", "person"), None),
    ],
)
def test_thresholds_and_labels_are_taken_over_where_the_rest_of_a_pipeline_needs_a_restart(
    tmp_path: Path, settings: str, tables: str, needs_restart: list[str] | None
) -> None:
    """None: nothing of it is taken over, and it is named as a whole."""
    file = tmp_path / "v.toml"

    def written(settings: str, tables: str) -> Config:
        model = "" if "model" in settings else f'model = "{KINDS}"\n'
        file.write_text(f'state_dir = "{tmp_path}"\n[pipeline.a]\n{model}source = "{CLIP}"\n{settings}\n{tables}')
        return parse_config(file.read_bytes(), file)

    config = written("threshold = 0.5", YARD)
    [before] = prepare(config, file)
    pipeline = Fitted(before)
    pipeline.ended = threading.Event()
    control = Control([before], [pipeline], lambda name: None)  # type: ignore[list-item]
    reload = Reload(
        config, file, [], control, Lanes(config.engine, 1),
        on_exchange=lambda one: None, on_taken=lambda name, exchanged: None, on_alert=print,
    )  # fmt: skip
    written(settings, tables)
    changed = [] if needs_restart is None else ["pipeline.a"]
    left = ["pipeline.a"] if needs_restart is None else needs_restart
    assert reload.begin().result(DEADLINE_S) == {"changed": changed, "needs_restart": left}
    assert control.settings("d", 1, "a").threshold == (0.5 if needs_restart is None else 0.7)
    now = control.prepared("a")
    assert now is not None and now.config.zones == before.config.zones, "what runs is still known"
    assert reload.begin().result(DEADLINE_S) == {"changed": [], "needs_restart": left}, (
        "and what is left is named again"
    )


def test_an_agent_that_stops_begins_no_reload(tmp_path: Path) -> None:
    config, prepared = configured(tmp_path, {"a": RESNET8})
    control = Control(list(prepared.values()), [Fitted(prepared["a"])], lambda name: None)  # type: ignore[list-item]
    lanes = Lanes(config.engine, 1)
    reload = Reload(
        config, tmp_path / "v.toml", [], control, lanes,
        on_exchange=lambda one: None, on_taken=lambda name, exchanged: None, on_alert=print,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"v\.toml"):
        reload.begin().result(DEADLINE_S)  # there is no such file
    reload.stop(1.0)
    with pytest.raises(UserError, match="being stopped"):
        reload.begin()


def test_a_model_that_is_loaded_when_the_agent_stops_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "v.toml").write_text(f'state_dir = "{tmp_path}"\n[pipeline.p]\nmodel = "{WIDE}"\nsource = "{CLIP}"\n')
    config, prepared = configured(tmp_path, {"p": RESNET8})
    run = Run(detector([0.9], [0]), [picture()])  # never started: it would not answer
    control = Control([prepared["p"]], [run.pipeline], lambda name: None)

    class Slow(Lanes):
        def load(self, *arguments: Any) -> dict[str, Loaded]:
            loaded = super().load(*arguments)
            other = threading.Thread(target=reload.stop, args=(0.0,))
            other.start()
            other.join()
            return loaded

    lanes = Slow(config.engine, 1)
    reload = Reload(
        config, tmp_path / "v.toml", [run.pipeline], control, lanes,
        on_exchange=lambda one: None, on_taken=lambda name, exchanged: None, on_alert=print,
    )  # fmt: skip
    with pytest.raises(FaultError, match="model not exchanged"):
        reload.begin().result(DEADLINE_S)
    assert lanes._lanes == [] and run.pipeline.model.spec.name == "small"
