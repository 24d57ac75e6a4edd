"""The self-test of networks of windows: real networks, on every runtime that is installed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_engine import INSTALLED

from series_bundle import golden_for, manifest_for, network
from signals import LABELS, OUTPUTS, STD, series_input
from vedette.contract.errors import SelfTestError
from vedette.contract.golden import Golden
from vedette.contract.manifest import AnomalyOutput, ImageInput, Manifest, Tolerance
from vedette.engine import SelfTest, TfliteEngine, load_runtime, run_self_test


@pytest.fixture(scope="module", params=INSTALLED)
def runtime_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(
    name: str, kind: str, runtime_name: str, golden: Golden, manifest: Manifest | None = None, **options: Any
) -> SelfTest:
    engine = TfliteEngine(options.pop("path", network(name, kind)), load_runtime(runtime_name), **options)
    return run_self_test(engine, manifest or manifest_for(name, kind), len(LABELS[name]), golden, "x.tflite")


@pytest.mark.parametrize("kernels", ["default", "reference"])
@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_good_network_passes(name: str, kind: str, kernels: Any, runtime_name: str) -> None:
    outcome = run(name, kind, runtime_name, golden_for(name, kind, runtime_name), kernels=kernels)
    assert outcome.passed is True, outcome.reason
    assert outcome.preprocessing_steps == 0
    assert outcome.verdict.judged == (64 if name == "regress" else 32)
    assert outcome.verdict.agreement >= (1.0 if kind == "float32" else 0.95)
    assert outcome.verdict.mean_score_error <= (1e-4 if kind == "float32" else 0.05)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_network_with_other_weights_fails(name: str, tmp_path: Any, runtime_name: str) -> None:
    data = network(name, "float32").read_bytes()
    # the last dense layer's kernel, its rows in another order
    module = load_runtime(runtime_name).module
    plain = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = module.Interpreter(model_content=data, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    kernels = [
        np.asarray(interpreter.get_tensor(detail["index"])) for detail in interpreter.get_tensor_details()
        if len(detail["shape"]) == 2 and detail["dtype"] == np.float32 and min(detail["shape"]) > 1
    ]  # fmt: skip
    constant = [kernel for kernel in kernels if data.count(kernel.tobytes()) == 1]
    assert constant
    for kernel in constant:
        data = data.replace(kernel.tobytes(), np.roll(kernel, 1, axis=0).tobytes())
    path = tmp_path / "other.tflite"
    path.write_bytes(data)
    outcome = run(name, "float32", runtime_name, golden_for(name, "float32", runtime_name), path=path)
    assert outcome.passed is False
    assert "agreement" in outcome.reason


def test_a_threshold_on_the_other_side_fails(runtime_name: str) -> None:
    golden = golden_for("anomaly", "int8", runtime_name)
    strict = manifest_for("anomaly", "int8", output=AnomalyOutput(threshold=1e6))
    outcome = run("anomaly", "int8", runtime_name, golden, strict)
    assert outcome.passed is False
    assert outcome.verdict.agreement == 0.5


def test_values_that_are_off_by_more_than_the_bound_fail(runtime_name: str) -> None:
    golden = golden_for("regress", "int8", runtime_name)
    exact = Tolerance(min_agreement=0.0, max_mean_score_error=0.0)
    manifest = manifest_for("regress", "int8", tolerances=dict.fromkeys(("xnnpack", "builtin", "reference"), exact))
    assert run("regress", "int8", runtime_name, golden, manifest).passed is False


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize(
    "changes",
    [{"mean": (0.0,)}, {"std": (2.0,)}, {"rate_hz": 40.0}, {"rate_hz": None}, {"interpolation": "previous"}],
)
def test_preprocessing_of_another_kind_fails(kind: str, changes: dict[str, Any], runtime_name: str) -> None:
    golden = golden_for("classify", kind, runtime_name)
    outcome = run("classify", kind, runtime_name, golden, manifest_for("classify", kind, input=series_input(**changes)))
    assert outcome.passed is False
    assert outcome.preprocessing_steps > 1
    assert outcome.reason.startswith("preprocessing differs by") and "at most 1 are allowed" in outcome.reason


def test_a_value_between_two_steps_may_go_either_way(runtime_name: str) -> None:
    golden = golden_for("classify", "int8", runtime_name)
    assert golden.window_tensor is not None
    for by, passed in ((1, True), (2, False)):
        moved = replace(golden, window_tensor=(golden.window_tensor + np.int8(by)).astype(np.int8))
        outcome = run("classify", "int8", runtime_name, moved)
        assert (outcome.passed, outcome.preprocessing_steps) == (passed, by)
    floats = golden_for("classify", "float32", runtime_name)
    assert floats.window_tensor is not None
    outcome = run(
        "classify", "float32", runtime_name, replace(floats, window_tensor=floats.window_tensor + np.float32(0.002))
    )
    assert (outcome.passed, outcome.preprocessing_steps) == (False, 2)
    assert min(STD) > 1


def test_vectors_of_another_kind_are_a_fault(runtime_name: str) -> None:
    golden = golden_for("classify", "int8", runtime_name)
    assert golden.recording is not None and golden.recording_times_ns is not None
    short = replace(golden, recording=golden.recording[:5], recording_times_ns=golden.recording_times_ns[:5])
    with pytest.raises(SelfTestError, match="makes no window: expected 24 or more readings of 3 channels"):
        run("classify", "int8", runtime_name, short)
    with pytest.raises(SelfTestError, match=r"makes no window.*found shape \(60, 2\)"):
        run("classify", "int8", runtime_name, replace(golden, recording=golden.recording[:, :2].copy()))
    picture = replace(
        golden, recording=None, recording_times_ns=None, window_tensor=None,
        picture=np.zeros((8, 8, 3), np.uint8), picture_tensor=golden.window_tensor,
    )  # fmt: skip
    with pytest.raises(SelfTestError, match="expected a recording, found a picture"):
        run("classify", "int8", runtime_name, picture)
    with pytest.raises(SelfTestError, match="expected a picture, found a recording"):
        run(
            "classify",
            "int8",
            runtime_name,
            golden,
            manifest_for("classify", "int8", input=ImageInput(height=24, width=3)),
        )
