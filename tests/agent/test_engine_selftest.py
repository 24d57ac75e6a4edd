"""The self-test: a good bundle passes, one whose weights changed does not, and what has no bound is not judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from test_engine import INSTALLED

from tiny import DATA, make_manifest
from vedette.contract.errors import SelfTestError
from vedette.contract.golden import Golden, from_results
from vedette.contract.manifest import ImageInput, Manifest, Tolerance
from vedette.contract.types import Classes, Tensor, TensorSpec
from vedette.engine import SelfTest, TfliteEngine, load_runtime, run_self_test
from vedette.engine.base import EngineDescription

COUNT = 32
CLASSES = ("xnnpack", "builtin", "reference")


def ramps(count: int) -> Tensor:
    """(count, 16, 16, 3) uint8, RGB: a smooth ramp of colour each."""
    rng = np.random.default_rng(5)
    y, x = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16), indexing="ij")
    slope = rng.uniform(-0.5, 0.5, (count, 2, 1, 1, 3))
    base = rng.uniform(0.0, 1.0, (count, 1, 1, 3))
    values = base + slope[:, 0] * y[None, :, :, None] + slope[:, 1] * x[None, :, :, None]
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def encoded(rgb: Tensor, kind: str) -> Tensor:
    """Pixels as the network takes them: 0..1, then its own quantisation, which is one step a grey level."""
    if kind == "float32":
        return (rgb / 255).astype(np.float32)
    return rgb if kind == "uint8" else (rgb.astype(np.int16) - 128).astype(np.int8)


@pytest.fixture(scope="module", params=INSTALLED)
def runtime_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def golden_for(kind: str, runtime_name: str) -> Golden:
    """What the float network says of the ramps, by a bare interpreter."""
    interpreter = load_runtime(runtime_name).module.Interpreter(model_path=str(DATA / "tiny-float32.tflite"))
    interpreter.allocate_tensors()
    results = []
    for picture in ramps(COUNT):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], encoded(picture, "float32")[None])
        interpreter.invoke()
        scores = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        order = np.argsort(-scores)
        results.append(Classes(scores[order], order.astype(np.int32)))
    picture = ramps(COUNT)[0]
    return from_results(encoded(ramps(COUNT), kind), results, [], picture[..., ::-1].copy(), encoded(picture, kind))


def manifest_for(kind: str, **changes: Any) -> Manifest:
    flatbuffer = (DATA / f"tiny-{kind}.tflite").read_bytes()
    tolerances = {name: Tolerance(min_agreement=0.9, max_mean_score_error=0.05) for name in CLASSES}
    return make_manifest(flatbuffer, {}, **{"tolerances": tolerances, **changes})


def run(kind: str, runtime_name: str, golden: Golden, manifest: Manifest | None = None, **engine: Any) -> SelfTest:
    loaded = TfliteEngine(engine.pop("path", DATA / f"tiny-{kind}.tflite"), load_runtime(runtime_name), **engine)
    return run_self_test(loaded, manifest or manifest_for(kind), 4, golden, "x.tflite")


@pytest.mark.parametrize("kernels", ["default", "reference"])
@pytest.mark.parametrize("kind", ["float32", "int8", "uint8"])
def test_a_good_network_passes(kind: str, kernels: Any, runtime_name: str) -> None:
    outcome = run(kind, runtime_name, golden_for(kind, runtime_name), kernels=kernels)
    assert outcome.passed is True, outcome.reason
    assert outcome.preprocessing_steps == 0
    assert outcome.verdict.judged >= 20
    assert outcome.verdict.agreement >= (1.0 if kind == "float32" else 0.9)
    assert "agreement" in outcome.reason


def test_tampered_weights_fail(tmp_path: Any, runtime_name: str) -> None:
    # the classes' rows in the dense layer's kernel change places
    golden = golden_for("int8", runtime_name)
    data = (DATA / "tiny-int8.tflite").read_bytes()
    module = load_runtime(runtime_name).module
    plain = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # which leaves the constants readable
    interpreter = module.Interpreter(model_content=data, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    weights = [
        np.asarray(interpreter.get_tensor(d["index"])) for d in interpreter.get_tensor_details()
        if tuple(d["shape"]) == (4, 8) and d["dtype"] == np.int8
    ]  # fmt: skip
    assert len(weights) == 1
    kernel = weights[0].tobytes()
    assert data.count(kernel) == 1
    path = tmp_path / "tampered.tflite"
    path.write_bytes(data.replace(kernel, weights[0][[1, 2, 3, 0]].tobytes()))
    outcome = run("int8", runtime_name, golden, path=path)
    assert outcome.passed is False
    assert outcome.verdict.agreement < 0.9
    assert "at least 0.900" in outcome.reason


def test_another_networks_results_fail(runtime_name: str) -> None:
    golden = golden_for("int8", runtime_name)
    turned = replace(golden, class_ids=(golden.class_ids + np.int32(1)) % np.int32(4))
    outcome = run("int8", runtime_name, turned)
    assert outcome.passed is False
    assert outcome.verdict.agreement < 0.2  # where int8 and float differ, it may be right by chance


def test_without_a_bound_nothing_is_judged(runtime_name: str) -> None:
    manifest = manifest_for("int8", tolerances={"edgetpu": Tolerance(min_agreement=1.0, max_mean_score_error=0.0)})
    outcome = run("int8", runtime_name, golden_for("int8", runtime_name), manifest, kernels="reference")
    assert outcome.passed is None
    assert outcome.reason == "the bundle states no tolerance for reference"
    assert outcome.verdict.judged >= 20


@pytest.mark.parametrize("kind", ["float32", "int8", "uint8"])
def test_preprocessing_of_another_kind_fails(kind: str, runtime_name: str) -> None:
    golden = golden_for(kind, runtime_name)
    outcome = run(kind, runtime_name, replace(golden, picture=golden.picture[..., ::-1].copy()))
    assert outcome.passed is False
    assert outcome.preprocessing_steps > 2
    assert "preprocessing differs by" in outcome.reason
    brighter = np.clip(golden.picture.astype(int) + 2, 0, 255).astype(np.uint8)
    outcome = run(kind, runtime_name, replace(golden, picture=brighter))
    assert (outcome.passed, outcome.preprocessing_steps) == (True, 2)


def test_golden_vectors_of_another_network_are_a_fault(runtime_name: str) -> None:
    with pytest.raises(SelfTestError, match=r"x\.tflite: golden inputs do not fit the network: expected .*int8\[1, 16"):
        run("int8", runtime_name, golden_for("uint8", runtime_name))


def test_a_confidence_below_a_half_is_not_judged(runtime_name: str) -> None:
    golden = golden_for("int8", runtime_name)
    unsure = replace(golden, scores=(golden.scores * np.float32(0.49)).astype(np.float32))
    assert run("int8", runtime_name, unsure).verdict.judged == 0


class Echo:
    """An engine of any input dtype whose network always answers the same."""

    def __init__(self, tensor: TensorSpec) -> None:
        self.inputs = (tensor,)
        self.outputs = (TensorSpec("scores", (1, 2), np.dtype(np.float32)),)
        self.description = EngineDescription("echo 1", "none", 1, "reference")

    def allocate(self) -> tuple[list[Tensor], list[Tensor]]:
        return [self.inputs[0].allocate()], [self.outputs[0].allocate()]

    def invoke(self, inputs: Any, outputs: Any, *, deadline_s: float | None = None) -> None:
        outputs[0][...] = (0.9, 0.1)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("dtype", "scale", "mean", "std"),
    [
        ("int16", 1 / 32768, 127.5, (127.5,)),
        ("float32", 0.0, 127.5, (127.5,)),
        ("float32", 0.0, 0.0, (58.395, 57.12, 0.5)),
        ("int8", 0.02, 127.5, (58.0,)),
        ("uint8", 0.0, 0.0, (1.0,)),
    ],
)
@pytest.mark.parametrize(("levels", "passes"), [(0, True), (1, True), (2, True), (9, False)])
def test_preprocessing_is_compared_in_grey_levels(
    dtype: str, scale: float, mean: float, std: tuple[float, ...], levels: int, passes: bool
) -> None:
    zero = 0
    tensor = TensorSpec("in", (1, 8, 8, 3), np.dtype(dtype), scale, zero)
    rgb = np.full((8, 8, 3), 100, np.uint8)
    real = (rgb.astype(np.float64) - mean) / np.array(std)
    raw = (np.rint(real / scale) if scale else real).astype(dtype)
    other = rgb.copy()
    other[3, 3, 0] += levels
    golden = from_results(
        raw[None], [Classes(np.array([0.9], np.float32), np.array([0], np.int32))], [], other[..., ::-1].copy(), raw
    )
    spec = ImageInput(height=8, width=8, mean=(mean,), std=std)
    manifest = msgspec.structs.replace(manifest_for("int8"), input=spec)
    outcome = run_self_test(Echo(tensor), manifest, 2, golden, "x")
    coarse = 1 if dtype == "int8" else 0  # where a step is more than a level, steps count
    assert abs(outcome.preprocessing_steps - levels) <= coarse
    assert outcome.passed is passes
