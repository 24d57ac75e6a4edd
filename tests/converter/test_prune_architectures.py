"""Published architectures, pruned: proved, smaller, and faster as TFLite networks.

``python tests/converter/test_prune_architectures.py`` prints what half of the channels gain here; no test, for it judges
nothing and takes minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_prune_proof import outputs, prove, randomise

from vedette.contract.types import TensorSpec
from vedette.engine import load_runtime
from vedette_converter import quantise
from vedette_converter.latency import time_both
from vedette_converter.load import Network
from vedette_converter.prune import GeometricMedian, L1Norm, analyse, apply, count, masked, plan, plan_for_latency
from vedette_converter.prune.calls import load_keras
from vedette_converter.tensorflow import load_tensorflow


def bottlenecks(blocks: int = 2, widths: Sequence[int] = (16, 32, 64)) -> Any:
    """ResNet-50's blocks (1x1, 3x3, 1x1 with a projection), fewer and narrower; ``blocks`` of each width."""
    keras = load_keras()
    layers = keras.layers
    inputs = keras.Input((64, 64, 3), name="image")

    def unit(x: Any, filters: int, size: int, strides: int = 1, act: str = "relu") -> Any:
        x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.Activation(act)(layers.BatchNormalization()(x))

    x = layers.MaxPooling2D(3, strides=2, padding="same")(unit(inputs, 32, 7, 2))
    for stage, filters in enumerate(widths):
        for block in range(blocks):
            strides = 2 if stage and not block else 1
            y = unit(unit(unit(x, filters, 1, strides), filters, 3), 4 * filters, 1, act="linear")
            x = x if block else unit(x, 4 * filters, 1, strides, "linear")
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name="bottlenecks")


def applications(name: str, side: int, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        make = getattr(load_keras().applications, name)
        return make(weights=None, input_shape=(side, side, 3), classes=100, **options)

    return build


def shallow(name: str) -> Callable[[], Any]:
    """A published architecture's own blocks, as its own code puts them together, but fewer of each: what can be coupled is
    coupled in them, and the whole takes a minute. (The builders with a depth are not what Keras exports.)"""

    def build() -> Any:
        load_keras()
        from keras.src.applications import densenet, efficientnet, nasnet, resnet

        common = {"weights": None, "input_shape": (64, 64, 3), "classes": 100}
        match name:
            case "ResNet":

                def stacks(x: Any) -> Any:
                    for number, filters in enumerate([64, 128]):
                        stride = 2 if number else 1
                        x = resnet.stack_residual_blocks_v1(x, filters, 2, stride1=stride, name=f"conv{number + 2}")
                    return x

                return resnet.ResNet(stacks, preact=False, use_bias=True, **common)
            case "DenseNet":
                return densenet.DenseNet([2, 2, 2, 2], **common)
            case "EfficientNet":
                return efficientnet.EfficientNet(1.0, 0.5, 64, **common)
            case "NASNet":
                return nasnet.NASNet(penultimate_filters=288, num_blocks=1, skip_reduction=False, **common)
            case other:
                raise ValueError(other)

    return build


NETWORKS: dict[str, Callable[[], Any]] = {
    "MobileNetV2 0.35": applications("MobileNetV2", 96, alpha=0.35),
    "MobileNetV3Small": applications("MobileNetV3Small", 96),
    "bottlenecks": bottlenecks,
}
LARGE: dict[str, Callable[[], Any]] = {
    "MobileNet 0.5": applications("MobileNet", 96, alpha=0.5),
    "Xception": applications("Xception", 96),
    "EfficientNet": shallow("EfficientNet"),
    "ResNet": shallow("ResNet"),
    "DenseNet": shallow("DenseNet"),
    "NASNet": shallow("NASNet"),
}
WHOLE: dict[str, Callable[[], Any]] = {
    "MobileNet 0.5": LARGE["MobileNet 0.5"],
    "EfficientNetB0": applications("EfficientNetB0", 64),
    "ResNet50": applications("ResNet50", 64),
}
RESNET_8 = "mlperf-tiny/pretrainedResnet.h5"


def resnet_8(shared_data: Path) -> Any:
    """MLPerf Tiny's, as Keras 3 itself reads it; skips where it is absent."""
    path = shared_data / RESNET_8
    if not path.is_file():
        pytest.skip(f"../shared/data/{RESNET_8} is absent")
    return load_keras().models.load_model(path, compile=False)


@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_pruned_is_masked(tf: Any, name: str) -> None:
    model = randomise({**NETWORKS, **LARGE}[name]())
    graph = analyse(model)
    assert set(graph.unknown) <= {"normalization", "predictions"}  # the input's, and the classifier's softmax
    assert len(graph.kept) == 1  # the classifier
    chosen = plan(model, GeometricMedian(), ratio=0.5)
    reference = masked(model, chosen)
    pruned = prove(model, chosen, reference=reference)
    assert count(pruned).macs < 0.6 * count(model).macs
    whole = outputs(model)[0]
    difference = np.abs(whole - outputs(reference)[0]).max()
    assert difference > 1e-3 * np.abs(whole).max()


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_resnet_8_with_its_published_weights(tf: Any, shared_data: Path, scope: Any) -> None:
    model = resnet_8(shared_data)
    assert {group.layers: group.size for group in analyse(model).groups} == {
        ("conv2d", "conv2d_2"): 16, ("conv2d_1",): 16, ("conv2d_3",): 32, ("conv2d_4", "conv2d_5"): 32,
        ("conv2d_6",): 64, ("conv2d_7", "conv2d_8"): 64,
    }  # fmt: skip
    assert count(model).macs == 12_501_632
    prove(model, plan(model, L1Norm(), ratio=0.5, scope=scope))


# --- as TFLite networks ----------------------------------------------------------------------------------------------


def as_network(tf: Any, model: Any) -> Network:
    """Batch 1, softmax and all."""
    (tensor,) = model.inputs
    shape = (1, *tensor.shape[1:])
    struct = model.input if isinstance(model.input, list) else None
    function = tf.function(lambda x: [model([x] if struct else x, training=False)])
    concrete = function.get_concrete_function(tf.TensorSpec(shape, tf.float32, name="input"))
    out = TensorSpec("output", (1, *model.outputs[0].shape[1:]), np.dtype(np.float32))
    return Network((TensorSpec("input", shape, np.dtype(np.float32)),), (out,), concrete)


def engine_of(tf: Any, model: Any, path: Path, precision: str = "float32") -> Any:
    """A loaded engine, its float outputs checked against TensorFlow's."""
    network = as_network(tf, model)
    rng = np.random.default_rng(1)
    samples = [rng.uniform(-1, 1, network.input.shape).astype(np.float32) for _ in range(4)]
    if precision == "int8":
        path.write_bytes(quantise.to_int8(network, samples))
        return quantise.load_proven(path, load_runtime())
    path.write_bytes(quantise.to_float32(network))
    engine = quantise.load_proven(path, load_runtime())
    quantise.expect_same(engine, network, samples[0])
    return engine


def sample_for(engine: Any) -> np.ndarray[Any, Any]:
    (spec,) = engine.inputs
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, spec.shape).astype(spec.dtype)


def test_the_pruned_network_is_a_smaller_tflite_network_that_runs(tf: Any, tmp_path: Path) -> None:
    model = randomise(bottlenecks())
    pruned = apply(model, plan(model, L1Norm(), ratio=0.5))
    before = engine_of(tf, model, tmp_path / "before.tflite")
    after = engine_of(tf, pruned, tmp_path / "after.tflite")
    assert (tmp_path / "after.tflite").stat().st_size < 0.4 * (tmp_path / "before.tflite").stat().st_size
    inputs, results = after.allocate()
    np.copyto(inputs[0], sample_for(after))
    after.invoke(inputs, results)
    np.testing.assert_allclose(results[0], np.asarray(pruned(inputs[0], training=False)), atol=1e-5)
    latency = time_both(before, after, (sample_for(before), sample_for(after)), 30)
    assert latency.ratio < 0.9  # a quarter of the work: at least a tenth faster on any machine, however busy


def by_turns(tf: Any, model: Any, folder: Path) -> Callable[[Any], float]:
    """Measures against the whole network, by turns: what else the machine does hits both alike."""
    whole = engine_of(tf, model, folder / "whole.tflite")

    def measure(candidate: Any) -> float:
        other = engine_of(tf, candidate, folder / "candidate.tflite")
        return time_both(whole, other, (sample_for(whole), sample_for(other)), 100).ratio

    return measure


@pytest.mark.slow
def test_pruning_to_a_measured_latency(tf: Any, tmp_path: Path) -> None:
    model = randomise(bottlenecks(blocks=1, widths=(64,)))  # each group is cut, converted and timed
    found = plan_for_latency(model, L1Norm(), by_turns(tf, model, tmp_path), ratio=0.6)
    assert found.after_ms <= 0.6 * found.before_ms
    assert 0 < found.plan.ratio < 0.75
    prove(model, found.plan)


def print_table(data: Path, folder: Path) -> None:
    """Half of each group's channels: work, weights, file and time, before and after, timed by turns on one thread."""
    tf = load_tensorflow()
    networks = NETWORKS | WHOLE
    if (data / RESNET_8).is_file():
        networks["ResNet-8 (MLPerf)"] = lambda: load_keras().models.load_model(data / RESNET_8, compile=False)
    row = "{:18} {:8} {:>16} {:>17} {:>15} {:>17} {:>7}"
    print(row.format("network", "", "MMAC", "k parameters", "file KB", "p50 ms", "faster"))
    for name, build in networks.items():
        model = build()
        pruned = apply(model, plan(model, L1Norm(), ratio=0.5))
        costs = count(model), count(pruned)
        for precision in ("float32", "int8"):
            paths = [folder / f"{side}.tflite" for side in ("before", "after")]
            engines = [engine_of(tf, m, path, precision) for m, path in zip((model, pruned), paths, strict=True)]
            latency = time_both(engines[0], engines[1], (sample_for(engines[0]), sample_for(engines[1])), 200)
            print(
                row.format(
                    name, precision, "{:.1f} -> {:.1f}".format(*(c.macs / 1e6 for c in costs)),
                    "{:.0f} -> {:.0f}".format(*(c.parameters / 1e3 for c in costs)),
                    "{:.0f} -> {:.0f}".format(*(path.stat().st_size / 1000 for path in paths)),
                    f"{latency.before.p50_ms:.3f} -> {latency.after.p50_ms:.3f}", f"{1 / latency.ratio:.2f}x",
                ),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print_table(Path(__file__).resolve().parents[3] / "shared" / "data", Path(name))
