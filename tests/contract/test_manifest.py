"""The manifest: what it accepts comes back unchanged; what it refuses, it names."""

from __future__ import annotations

import json
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import FAKE_FLATBUFFER, make_manifest
from vedette.contract import manifest as m

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
fractions = st.floats(0, 1)
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def images(draw: st.DrawFn) -> m.ImageInput:
    color = draw(st.sampled_from(["rgb", "bgr", "gray"]))
    count = draw(st.sampled_from([1] if color == "gray" else [1, 3]))
    return m.ImageInput(
        height=draw(st.integers(1, 8192)),
        width=draw(st.integers(1, 8192)),
        color=color,
        resize=draw(st.sampled_from(["stretch", "letterbox", "center-crop"])),
        interpolation=draw(st.sampled_from(["bilinear", "area", "nearest"])),
        pad_value=draw(st.integers(0, 255)),
        mean=tuple(draw(st.lists(st.floats(-1e6, 1e6), min_size=count, max_size=count))),
        std=tuple(draw(st.lists(st.floats(1e-6, 1e6), min_size=count, max_size=count))),
    )


anchors = st.builds(
    m.SsdAnchors,
    feature_maps=st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=6).map(tuple),
    min_scale=st.floats(0, 0.4),
    max_scale=st.floats(0.4, 1),
    aspect_ratios=st.lists(st.floats(0.01, 100), min_size=1, max_size=5).map(tuple),
    reduce_boxes_in_lowest_layer=st.booleans(),
)
outputs = st.one_of(
    st.builds(m.ClassifyOutput, scores=st.integers(0, 9), activation=st.sampled_from(["softmax", "sigmoid", "none"]),
              top_k=st.integers(1, 9), score_threshold=fractions),
    st.builds(m.PostprocessOutput, count=st.integers(0, 3), class_offset=st.integers(-1, 1)),
    st.builds(m.SsdOutput, anchors=anchors, nms_iou=fractions, score_threshold=fractions,
              box_scale=st.tuples(*[st.floats(0.001, 1000)] * 4)),
    st.builds(m.BoxesOutput, boxes=st.integers(0, 9), box=st.permutations(["x", "y", "width", "height"]).map(tuple),
              background=st.sampled_from(["none", "first", "last"]), units=st.sampled_from(["fractions", "pixels"])),
    st.builds(m.SsdOutput, priors=st.builds(m.SsdPriors, strides=st.just((8, 16)), clip=st.booleans(), sizes=st.tuples(
        *[st.lists(st.floats(1, 1e3), min_size=1, max_size=3).map(tuple)] * 2)), order=st.sampled_from(["yxhw", "xywh"])),
    st.builds(m.YoloOutput, layout=st.sampled_from(["rows", "columns"]), objectness=st.booleans(), nms_iou=fractions,
              strides=st.lists(st.integers(1, 64), max_size=4).map(tuple), score_threshold=fractions),
)  # fmt: skip
datasets = st.builds(m.Dataset, name=texts, count=st.integers(1, 10**9), sha256=hashes)
metrics = st.builds(
    m.Metric, name=texts, before=finite, after=finite, unit=st.text(max_size=5),
    difference_interval=st.none() | st.tuples(finite, finite),
)  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def manifests(draw: st.DrawFn) -> m.Manifest:
    output = draw(outputs)
    return make_manifest(
        FAKE_FLATBUFFER,
        {"labels.txt": draw(st.binary(max_size=4))},
        name=draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)),
        version=draw(st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", fullmatch=True)),
        task="classify" if isinstance(output, m.ClassifyOutput) else "detect",
        input=draw(images()),
        output=output,
        evaluation=draw(
            st.lists(
                st.builds(m.Evaluation, data=datasets, metrics=st.lists(metrics, min_size=1, max_size=3)), max_size=2
            )
        ),
        calibration=draw(st.none() | datasets),
        precision=draw(st.sampled_from(["float32", "float16", "dynamic", "int8", "int16x8", "mixed"])),
        seeds=draw(st.dictionaries(st.text(string.ascii_lowercase, min_size=1), st.integers(0, 2**63 - 1), max_size=3)),
        tools=draw(st.dictionaries(texts, texts, max_size=3)),
        latency_budget=draw(st.none() | st.builds(m.LatencyBudget, yardstick=texts, max_ratio=st.floats(0.001, 1000))),
        extensions=draw(st.dictionaries(texts, json_values, max_size=3)),
    )


@given(manifests())
def test_a_manifest_comes_back_as_it_was(manifest: m.Manifest) -> None:
    raw = m.encode(manifest)
    assert m.decode(raw) == manifest
    assert m.encode(m.decode(raw)) == raw
    # any JSON reader sees the same
    assert json.loads(raw)["name"] == manifest.name
    assert json.loads(raw)["input"]["mean"] == list(manifest.input.mean)


def test_the_order_of_what_was_put_in_does_not_show() -> None:
    one = make_manifest(FAKE_FLATBUFFER, {}, tools={"a": "1", "b": "2"}, seeds={"y": 1, "x": 2})
    other = make_manifest(FAKE_FLATBUFFER, {}, tools={"b": "2", "a": "1"}, seeds={"x": 2, "y": 1})
    assert m.encode(one) == m.encode(other)


def ssd(**changes: object) -> dict[str, object]:
    return {"decoder": "ssd", "anchors": {"feature_maps": [[19, 19]], **changes}}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("name", "", "$.name"),
        ("name", "Person", "$.name"),
        ("name", "a" * 65, "$.name"),
        ("name", "a\n", "$.name"),
        ("version", "1.2.3.4", "$.version"),
        ("version", "v1", "$.version"),
        ("recipe_sha256", "A" * 64, "$.recipe_sha256"),
        ("flatbuffer_bytes", 15, "$.flatbuffer_bytes"),
        ("flatbuffer_bytes", 1e9 + 0.5, "$.flatbuffer_bytes"),
        ("task", "dance", "$.task"),
        ("precision", "int3", "$.precision"),
        ("evaluation", [{"data": None, "metrics": []}], "$.evaluation[0].data"),
        ("tolerances", {"gpu": {"min_agreement": 1, "max_mean_score_error": 0}}, "gpu"),
        ("tolerances", {"builtin": {"min_agreement": 1.01, "max_mean_score_error": 0}}, "$.tolerances"),
        ("output", {"decoder": "classify", "top_k": 0}, "$.output.top_k"),
        ("output", {"decoder": "classify", "score_threshold": -0.1}, "$.output.score_threshold"),
        ("output", ssd(aspect_ratios=[0.0]), "aspect_ratios: expected numbers from 0.01 to 100"),
        ("output", ssd(min_scale=0.9, max_scale=0.2), "min_scale: expected at most max_scale 0.2, found 0.9"),
        ("output", ssd(feature_maps=[]), "$.output.anchors.feature_maps"),
        ("output", ssd(feature_maps=[[1000, 400]]), "feature_maps: expected at most 1000000 anchors, found 1200000"),
        (
            "output",
            ssd(feature_maps=[[500, 500], [1, 5]], reduce_boxes_in_lowest_layer=False),
            "feature_maps: expected at most 1000000 anchors, found 1500030",
        ),
        ("output", {**ssd(), "box_scale": [0, 1, 1, 1]}, "box_scale: expected numbers from 0.001 to 1000"),
        ("output", {**ssd(), "box_scale": [1, 1, 1]}, "$.output.box_scale"),
        ("input", {"kind": "image", "height": 0, "width": 4}, "$.input.height"),
        ("input", {"kind": "image", "height": 4, "width": 8193}, "$.input.width"),
        (
            "input",
            {"kind": "image", "height": 4, "width": 4, "color": "gray", "mean": [1, 2, 3]},
            "1 or 1 values for gray",
        ),
        ("input", {"kind": "image", "height": 4, "width": 4, "std": [1, 1, -1]}, "std: expected numbers above 0"),
        ("input", {"kind": "image", "height": 4, "width": 4, "mean": [1e10]}, "mean: expected finite numbers"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(field: str, value: object, says: str) -> None:
    content = json.loads(m.encode(make_manifest(FAKE_FLATBUFFER, {})))
    content[field] = value
    with pytest.raises(msgspec.ValidationError) as caught:
        m.decode(json.dumps(content).encode())
    assert says in str(caught.value)


@pytest.mark.parametrize(("decoder", "task"), [("pose", "pose"), ("pose-heatmap", "pose"), ("segment", "segment")])
def test_what_golden_vectors_cannot_prove_is_no_bundle_yet(decoder: str, task: str) -> None:
    content = json.loads(m.encode(make_manifest(FAKE_FLATBUFFER, {})))
    content |= {"output": {"decoder": decoder}, "task": task}
    with pytest.raises(
        msgspec.ValidationError, match=f"task: expected one that golden vectors can prove, found '{task}'"
    ):
        m.decode(json.dumps(content).encode())


def test_a_manifest_is_frozen() -> None:
    with pytest.raises(AttributeError):
        make_manifest(FAKE_FLATBUFFER, {}).name = "other"  # type: ignore[misc]
