"""The page on a build: whole, harmless, about every figure, and true to what the networks saw."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from converter_project import BUNDLE, RECIPE, ROOT
from quantise_networks import SIDE, as_network, classifier, samples

from vedette.contract.bundle import open_bundle
from vedette.contract.errors import UserError
from vedette.contract.manifest import ClassifyOutput, Dataset, ImageInput
from vedette.contract.types import Tensor
from vedette.contract.verdict import Verdict
from vedette.engine import TfliteEngine, load_runtime
from vedette_converter import quantise, report
from vedette_converter.agreement import Agreement
from vedette_converter.evaluate import Accuracy, Found, Pair
from vedette_converter.gate import GateRow
from vedette_converter.latency import Latency, Timing
from vedette_converter.measured import Measured, Stage
from vedette_converter.prune import Cost, Cut, Plan
from vedette_converter.recipe import read_recipe
from vedette_converter.recipe.quantisation import Quantise
from vedette_converter.report.extras import Extras
from vedette_converter.report.figures import ticks
from vedette_converter.report.layers import Layer, Layers, layers
from vedette_converter.report.markup import Markup, element
from vedette_converter.report.samples import Look, SamplePicture, Seen
from vedette_converter.report.table import stage_rows

GOLDEN = ROOT / "models" / "golden"
NASTY = "<script>alert('x')</script>\"&"
VOID = {"meta", "img", "br", "hr", "col"}
DATA = Dataset(name="test", count=400, sha256="ab" * 32)


class Page(HTMLParser):
    """Reads a page strictly: every element is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def stage(name: str, size: int, ms: float, accuracy: float | None, share: float | None, metric: str = "top-1") -> Stage:
    return Stage(
        name,
        size,
        size * 3 // 4,
        Timing(ms * 0.9, ms, ms * 1.1, ms * 1.3, ms * 9),
        None
        if accuracy is None
        else Accuracy(
            metric, DATA, 0.87, accuracy, (accuracy - 0.88, accuracy - 0.86),
            {"person": Found(3, 2, 4)} if metric == "mAP" else {},
        ),
        None if share is None else Agreement(50, 40, round(40 * share), 30),
        Cost(12_500_000, 78_000, ()),
    )  # fmt: skip


def measured(metric: str = "top-1", *, accurate: bool = True, holds: bool = True, name: str = "net") -> Measured:
    scores = (0.868, 0.861, 0.84) if accurate else (None, None, None)
    stages = (
        stage("float32", 320_000, 0.30, None, None),
        stage("pruned float32", 150_000, 0.16, scores[0], 1.0, metric),
        stage("int8", 58_000, 0.065, scores[1], 0.95, metric),
        stage("control", 58_000, 0.066, scores[2], 0.7, metric),
    )
    rows = (GateRow("agreement", 0.95, ">= 0.9", True), GateRow(f"{metric} drop", 0.009, "<= 0.01", holds))
    latency = Latency(stages[0].timing, stages[2].timing, 100, "litert 2.3.0", 1, "Some CPU, 4 cores, aarch64")
    verdicts = {"xnnpack": Verdict(60, 0.98, 0.01), "reference": Verdict(60, 0.99, 0.02)}
    return Measured(
        name, "int8", stages, 2, latency, rows, verdicts, ("12 samples are few",), {"load": 1.5, "train": 31.0}, 10**9
    )


def layer(index: int, db: float | None, *, on_target: bool = True, name: str = "a;b") -> Layer:
    where, why = ("XNNPACK #1", "") if on_target else ("TFLite", "six inputs")
    return Layer(index, "CONV_2D", name, "int8 1x8x8x4", where, on_target, why, 0.25, db)


def picture(name: str, before: Sequence[Seen], after: Sequence[Seen]) -> SamplePicture:
    encoded = cv2.imencode(".png", np.zeros((30, 40, 3), np.uint8))[1].tobytes()
    return SamplePicture(name, "image/png", encoded, 40, 30, tuple(before), tuple(after))


def extras(label: str = "dog", *, boxes: bool = True) -> Extras:
    box = (0.1, 0.2, 0.5, 0.9) if boxes else None
    same = picture("same.png", [Seen(label, 0.9, box, False)], [Seen(label, 0.8, box, False)])
    other = picture("other.png", [Seen(label, 0.7, box, True)], [Seen("cat", 0.6, box, True)])
    rows = tuple(layer(n, db) for n, db in enumerate([31.25, None, math.inf, -math.inf, 4.5]))
    return Extras(
        layers=Layers((*rows, layer(5, 17.0, on_target=False)), "5 of 6 ops on XNNPACK", 16),
        look=Look((same, other), 20, 17),
        plan=Plan((Cut("conv_1", ("conv_1", "norm_1"), 64, tuple(range(24))), Cut("conv_2", ("conv_2",), 16, ()))),
        recipe="name = 'net'\n[source]\nurl = 'https://example.org/net'\n",
        recipe_name="net.toml",
        tools={"vedette": "0.1.0", "tensorflow": "2.21.0"},
        flatbuffer_sha256="cd" * 32,
        notes=("a note of its own",),
    )


def expect_self_contained(page: Page) -> None:
    """Nothing on the page asks for anything that is not on the page."""
    policy = page.named("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy" and "default-src 'none'" in str(policy["content"])
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "srcset", "action"):
                assert value is not None and value.startswith(("data:image/", "#")), (tag, name, value)


def test_accuracy_that_stays_is_not_told_as_lost() -> None:
    figures = measured("top-1", accurate=True)
    stages = list(figures.stages)
    accuracy = stages[figures.product].accuracy
    assert accuracy is not None
    kept = dataclasses.replace(accuracy, after=accuracy.before, interval=(-0.001, 0.0))
    stages[figures.product] = dataclasses.replace(stages[figures.product], accuracy=kept)
    text = Page(report.page(dataclasses.replace(figures, stages=tuple(stages)), extras(boxes=False))).text
    assert ", and the same in top-1 accuracy. " in text and "0.00 points" in text and "−0.10 to 0.00" in text
    assert "−0.00" not in text and "0.00 points lower" not in text


@pytest.mark.parametrize("metric", ["top-1", "mAP"])
@pytest.mark.parametrize("accurate", [True, False])
def test_every_figure_of_every_network_is_there(metric: str, accurate: bool) -> None:
    figures = measured(metric, accurate=accurate)
    text = report.page(figures, extras(boxes=metric == "mAP"))
    page = Page(text)
    expect_self_contained(page)
    assert (
        "url(" not in text
        and "@import" not in text
        and "http" not in re.sub(r"https://example.org/net|http-equiv", "", text)
    )
    for each in figures.stages:
        assert each.name in page.text
    for row in stage_rows(figures):
        for cell in row:
            assert cell in page.text, cell
    for gate in figures.rows:
        assert gate.what in page.text
    for said in (
        "xnnpack", "reference", "12 samples are few", "a note of its own", "5 of 6 ops on XNNPACK", "six inputs",
        "31.2 dB", "not compared", "equal", "no number", "64 → 40", "16, whole", "24 of 80 units are gone",
        "17 of 20 pictures", "same.png", "other.png", "name = 'net'", "2.21.0", "Some CPU, 4 cores, aarch64",
        "load 1.5 s", "5.5× smaller", "4.6× faster", "✓ holds",
    ):  # fmt: skip
        assert said in page.text, said
    assert ("−0.90 points" if accurate else "95.0 % kept") in page.text
    for pictured in (*page.named("svg"), *page.named("img")):
        assert pictured.get("aria-label") or pictured.get("alt")


def test_a_page_of_figures_alone_is_a_page_too() -> None:
    page = Page(report.page(measured(), Extras()))
    expect_self_contained(page)
    assert "Every network on the way" in page.text
    for left_out in ("What they see", "Operation by operation", "Channels pruned", "recipe"):
        assert left_out not in page.text


def test_a_gate_that_fails_is_said_first() -> None:
    page = Page(report.page(measured(holds=False), Extras()))
    assert "The gate does not hold: top-1 drop." in page.text
    assert "✗ fails 1 of 2" in page.text and "✓ holds" not in page.text
    assert "Where it was lost: float32 -> pruned float32 -0.0020" in page.text


@pytest.mark.parametrize(
    ("score", "said"),
    [(0.861, "0.90 points lower in"), (0.88, "1.00 points higher in"), (0.87004, "and the same in")],
)
def test_a_change_that_rounds_to_nothing_is_none(score: float, said: str) -> None:
    made = measured()
    after = stage("int8", 58_000, 0.065, score, 0.95)
    made = dataclasses.replace(made, stages=(*made.stages[:2], after, *made.stages[3:]))
    assert said in Page(report.page(made, Extras())).text


def test_what_is_not_promised_is_shown_and_not_counted() -> None:
    made = measured()
    unpromised = GateRow("latency ratio", 0.1234, "", None)
    page = Page(report.page(dataclasses.replace(made, rows=(*made.rows, unpromised)), Extras()))
    assert "✓ holds 2 of 2" in page.text and "latency ratio 0.1234" in page.text
    page = Page(report.page(dataclasses.replace(made, rows=(unpromised,)), Extras()))
    assert "nothing promised" in page.text and "The gate promises nothing." in page.text
    assert "holds 0 of 0" not in page.text and "✓ yes" not in page.text and "✗" not in page.text


def test_a_bundle_that_is_larger_and_slower_is_called_so() -> None:
    good = measured()
    bad = dataclasses.replace(
        good, stages=(good.stages[2], dataclasses.replace(good.stages[0], agreement=good.agreement)), product=1
    )
    page = Page(report.page(bad, Extras()))
    assert "5.5× larger" in page.text and "4.6× slower" in page.text


@pytest.mark.parametrize("boxes", [True, False])
def test_names_from_outside_stay_text(boxes: bool) -> None:
    given = extras(NASTY, boxes=boxes)
    assert given.layers is not None and given.plan is not None
    given = dataclasses.replace(
        given,
        layers=Layers((layer(0, 12.0, name=NASTY),), NASTY, 1),
        plan=Plan((Cut(NASTY, (NASTY,), 8, (1,)),)),
        recipe=NASTY, recipe_name=NASTY, tools={NASTY: NASTY}, notes=(NASTY, "bell \x07, half \udc80"),
    )  # fmt: skip
    figures = measured(name=NASTY)
    figures = dataclasses.replace(figures, findings=(NASTY,), stages=tuple(
        dataclasses.replace(each, name=f"{each.name} {NASTY}") for each in figures.stages))  # fmt: skip
    text = report.page(figures, given)
    expect_self_contained(Page(text))
    assert "<script" not in text and NASTY in Page(text).text
    assert "\x07" not in text and text.encode("utf-8")


def test_what_differs_is_marked_and_told_in_words() -> None:
    page = Page(report.page(measured("mAP"), extras()))
    assert "✗ 2 of 2 differ" in page.text and "float32 alone: dog 70 %; int8 alone: cat 60 %" in page.text
    boxes = [str(a["class"]) for a in page.named("rect") if str(a.get("class", "")).startswith("box")]
    assert boxes.count("box shared") == 2 and boxes.count("box alone") == 2
    assert len(page.named("image")) == 2  # each picture is there once, its second showing refers to it
    assert [a["href"] for a in page.named("use")] == [f"#{a['id']}" for a in page.named("image")]
    page = Page(report.page(measured(), extras(boxes=False)))
    assert "✗ another class" in page.text
    assert [a["alt"] for a in page.named("img")][1] == "other.png: float32 says dog and int8 says cat"


def test_how_many_pictures_differ_is_said() -> None:
    look = extras().look
    assert look is not None
    for agreeing, said in (
        (20, "20 of 20 pictures that were looked at show the same. Shown"), (19, "; the other one stands last."),
        (17, "; the worst 1 of 3 others stand last."),
    ):  # fmt: skip
        given = dataclasses.replace(extras(), look=dataclasses.replace(look, agreeing=agreeing))
        assert said in Page(report.page(measured(), given)).text


def test_text_is_escaped_and_markup_is_not() -> None:
    assert element("p", "a<b", element("b", 'x"'), None, 1.5, title='"&') == (
        '<p title="&quot;&amp;">a&lt;b<b>x&quot;</b>1.5</p>'
    )
    assert element("img", alt="", hidden=True, class_=None) == '<img alt="" hidden>'
    assert isinstance(element("p"), Markup)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 50, [0, 10, 20, 30, 40, 50]), (0.334, 0.361, [0.34, 0.35, 0.36]), (3, 3, [3])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_a_report_is_written_whole_or_refused_by_name(tmp_path: Path) -> None:
    figures = measured()
    report.write_report(tmp_path / "r.html", figures, extras())
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == report.page(figures, extras())
    report.write_report(tmp_path / "r.md", figures)
    assert (tmp_path / "r.md").read_text(encoding="utf-8") == report.markdown(figures) + "\n"
    for name, expected in (("r.pdf", r"a name ending in \.html or \.md"), ("none/r.html", "a folder that exists")):
        with pytest.raises(UserError, match=expected):
            report.expect_report(tmp_path / name)
    with pytest.raises(UserError, match=r"report cannot be written: found File name too long"):
        report.write_report(tmp_path / f"{'r' * 250}.html", figures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "r.md"]


class Deaf:
    """A real engine whose second output is turned down: what was barely seen is not seen any more."""

    def __init__(self, engine: TfliteEngine, by: int) -> None:
        self._engine, self._by = engine, by
        self.description, self.inputs, self.outputs = engine.description, engine.inputs, engine.outputs

    def allocate(self) -> tuple[list[Tensor], list[Tensor]]:
        return self._engine.allocate()

    def invoke(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, deadline_s: float | None = None) -> None:
        self._engine.invoke(inputs, outputs, deadline_s=deadline_s)
        outputs[1][:] = np.clip(outputs[1].astype(np.int16) - self._by, -128, 127)

    def close(self) -> None:
        self._engine.close()


def test_the_shipped_detector_beside_itself_and_beside_a_worse_one() -> None:
    bundle = open_bundle(BUNDLE)
    file = read_recipe(RECIPE)
    pictures = [
        GOLDEN / name for name in ("astronaut.jpg", "chelsea.jpg", "coffee.jpg", "vtest-000.jpg", "vtest-390.jpg")
    ]
    engine = TfliteEngine(BUNDLE, load_runtime())
    manifest = bundle.manifest
    assert isinstance(manifest.input, ImageInput)
    pair = Pair(engine, engine, manifest.input, manifest.output, bundle.labels)
    look = report.sample_pictures(pair, pictures, 3, file.recipe.evaluate)
    assert (look.looked_at, look.agreeing, len(look.pictures)) == (5, 5, 3)
    assert all(sample.before == sample.after and sample.before for sample in look.pictures)

    pair = dataclasses.replace(pair, after=Deaf(engine, 12))
    look = report.sample_pictures(pair, pictures, 4, file.recipe.evaluate)
    assert look.agreeing < 5
    differing = [sample.differing for sample in look.pictures]
    assert differing == sorted(differing) and differing[-1] > 0
    worst = look.pictures[-1]
    assert worst.differing == sum(seen.alone for seen in (*worst.before, *worst.after))
    assert max(worst.width, worst.height) <= 420 and worst.media == "image/jpeg"

    notes: list[str] = []
    product = BUNDLE.read_bytes()[: manifest.flatbuffer_bytes]
    found = layers(b"", product, None, notes)
    assert found is not None and not notes and not found.samples
    assert len(found.rows) == 113 and sum(not row.on_target for row in found.rows) == 2
    assert sum(row.mac_share for row in found.rows) == pytest.approx(1)
    text = report.page(measured("mAP"), Extras(layers=found, look=look))
    expect_self_contained(Page(text))
    assert len(text) < 700_000


def test_a_real_classifier_layer_by_layer(tf: Any, tmp_path: Path) -> None:
    network = as_network(tf, classifier(tf))
    shown = samples(network, 4)
    base, product = quantise.to_float32(network), quantise.convert(network, Quantise(), shown)
    engines = []
    for name, flatbuffer in (("base", base), ("product", product)):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(flatbuffer)
        engines.append(TfliteEngine(path, load_runtime()))
    rng = np.random.default_rng(3)
    pictures = [tmp_path / f"{n}.png" for n in range(6)]
    for path in pictures:
        cv2.imwrite(str(path), rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    spec = ImageInput(height=SIDE, width=SIDE, mean=(127.5,), std=(127.5,))
    pair = Pair(engines[0], engines[1], spec, ClassifyOutput(activation="softmax", top_k=5), tuple("abcde"))
    file = read_recipe(RECIPE)
    gathered = report.gather(file, pair, base, product, samples=shown, pictures=pictures)
    assert gathered.notes == ()
    assert gathered.look is not None and gathered.look.looked_at == len(gathered.look.pictures) == 6
    assert all(len(sample.before) == 3 and sample.media == "image/png" for sample in gathered.look.pictures)
    assert gathered.layers is not None and gathered.layers.samples == 4
    known = [row.sqnr_db for row in gathered.layers.rows if row.op in ("CONV_2D", "FULLY_CONNECTED")]
    assert known and all(db is not None and 10 < db < 70 for db in known)
    assert gathered.recipe == RECIPE.read_text() and gathered.recipe_name == RECIPE.name
    expect_self_contained(Page(report.page(measured(), gathered)))


def test_what_cannot_be_found_out_is_noted_and_breaks_nothing(tmp_path: Path) -> None:
    bundle = open_bundle(BUNDLE)
    assert isinstance(bundle.manifest.input, ImageInput)
    engine = TfliteEngine(BUNDLE, load_runtime())
    pair = Pair(engine, engine, bundle.manifest.input, bundle.manifest.output, bundle.labels)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    gathered = report.gather(
        read_recipe(RECIPE), pair, b"", b"no flatbuffer", samples=None, pictures=[tmp_path / "broken.jpg"]
    )
    assert gathered.look is None and gathered.layers is None
    assert len(gathered.notes) == 2 and "broken.jpg" in gathered.notes[0]
    assert gathered.notes[1].startswith("where operations run is not known")
    assert gathered.notes[1] in Page(report.page(measured(), gathered)).text
    by_flags = dataclasses.replace(read_recipe(RECIPE), path=Path("flags"))
    assert report.gather(by_flags, pair, b"", b"", samples=None, pictures=[]).recipe.startswith('{\n  "name": "coco-')
