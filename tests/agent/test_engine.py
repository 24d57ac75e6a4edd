"""The engine on real networks, in every runtime that is installed here."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny import DATA, FAKE_FLATBUFFER, LABELS, golden_arrays, make_manifest, npz
from vedette.contract.bundle import Bundle, open_bundle, write_bundle
from vedette.contract.errors import EngineFaultError, MissingPackageError, ModelError
from vedette.contract.types import Tensor
from vedette.engine import RUNTIMES, Runtime, TfliteEngine, load_runtime, probe

MODULES = {"litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
INSTALLED = [name for name in RUNTIMES if importlib.util.find_spec(MODULES[name])]
TINY = ["float32", "int8", "uint8"]


@pytest.fixture(params=INSTALLED)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return load_runtime(request.param)


def sample(engine: TfliteEngine, seed: int) -> Tensor:
    """A random input of the network's dtype."""
    spec = engine.inputs[0]
    rng = np.random.default_rng(seed)
    if spec.dtype == np.float32:
        return rng.uniform(0, 1, spec.shape).astype(np.float32)
    info = np.iinfo(spec.dtype.name)
    return rng.integers(info.min, info.max + 1, spec.shape).astype(spec.dtype)


def bare(module: Any, path: Path, data: Tensor) -> Tensor:
    """The same by a second interpreter, built as TFLite's own documentation does."""
    interpreter = module.Interpreter(model_content=path.read_bytes())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], data)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


# --- Loading and running ---


def test_there_is_a_runtime() -> None:
    assert INSTALLED


@pytest.mark.parametrize("kind", TINY)
def test_results_are_those_of_a_bare_interpreter(runtime: Runtime, kind: str) -> None:
    path = DATA / f"tiny-{kind}.tflite"
    engine = TfliteEngine(path, runtime)
    inputs, outputs = engine.allocate()
    seen = set()
    for seed in range(5):
        inputs[0][...] = sample(engine, seed)
        engine.invoke(inputs, outputs)
        np.testing.assert_array_equal(outputs[0], bare(runtime.module, path, inputs[0]))
        seen.add(outputs[0].tobytes())
    assert len(seen) > 1  # it is no constant
    engine.close()
    engine.close()


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TINY)
def test_results_are_those_of_tensorflows_interpreter(runtime: Runtime, kind: str) -> None:
    tf = pytest.importorskip("tensorflow")
    path = DATA / f"tiny-{kind}.tflite"
    engine = TfliteEngine(path, runtime, kernels="reference")
    inputs, outputs = engine.allocate()
    inputs[0][...] = sample(engine, 3)
    engine.invoke(inputs, outputs)
    wanted = bare(tf.lite, path, inputs[0])
    step = 1e-5 if kind == "float32" else 2  # kernels round differently
    assert np.abs(outputs[0].astype(np.float64) - wanted).max() <= step


@pytest.mark.parametrize("kind", TINY)
def test_tensors_are_described_as_the_file_has_them(runtime: Runtime, kind: str) -> None:
    engine = TfliteEngine(DATA / f"tiny-{kind}.tflite", runtime)
    (given,), (result,) = engine.inputs, engine.outputs
    assert given.shape == (1, 16, 16, 3)
    assert result.shape == (1, 4)
    assert given.dtype == result.dtype == np.dtype(kind)
    scales = {"float32": (0, 0), "int8": (1 / 255, 1 / 256), "uint8": (1 / 255, 1 / 256)}[kind]
    assert (given.scale, result.scale) == pytest.approx(scales, rel=1e-6)
    assert given.zero_point == result.zero_point == (-128 if kind == "int8" else 0)
    assert given.quantised == (kind != "float32")


@pytest.mark.parametrize("kernels", ["default", "builtin", "reference"])
@pytest.mark.parametrize("kind", TINY)
def test_every_kind_of_kernel_agrees(runtime: Runtime, kind: str, kernels: Any) -> None:
    engine = TfliteEngine(DATA / f"tiny-{kind}.tflite", runtime, kernels=kernels)
    described = engine.description
    assert described.runtime == f"{runtime.name} {runtime.version}"
    by_default = "xnnpack" if runtime.name == "litert" or kind == "float32" else "builtin"
    assert described.engine_class == (by_default if kernels == "default" else kernels)
    assert described.delegate == ("xnnpack" if described.engine_class == "xnnpack" else "none")
    inputs, outputs = engine.allocate()
    inputs[0][...] = sample(engine, 1)
    engine.invoke(inputs, outputs)
    real = engine.outputs[0].to_real(outputs[0])
    assert real.sum() == pytest.approx(1.0, abs=0.02)  # it ends in a softmax
    other = TfliteEngine(DATA / "tiny-float32.tflite", runtime, kernels="reference")
    pixels, wanted = other.allocate()
    pixels[0][...] = engine.inputs[0].to_real(inputs[0])
    other.invoke(pixels, wanted)
    assert np.abs(real - wanted[0]).max() < 0.15
    assert real.argmax() == wanted[0].argmax()


def test_a_bundle_loads_as_it_is(runtime: Runtime, tmp_path: Path) -> None:
    path = bundle(tmp_path, "int8").path
    engine = TfliteEngine(path, runtime)
    inputs, outputs = engine.allocate()
    inputs[0][...] = sample(engine, 0)
    engine.invoke(inputs, outputs)
    np.testing.assert_array_equal(outputs[0], bare(runtime.module, DATA / "tiny-int8.tflite", inputs[0]))
    probe(path, runtime.name)


def bundle(folder: Path, kind: str) -> Bundle:
    flatbuffer = (DATA / f"tiny-{kind}.tflite").read_bytes()
    members = {"labels.txt": LABELS, "golden.npz": npz(**golden_arrays())}
    return write_bundle(folder / f"{kind}.tflite", flatbuffer, make_manifest(flatbuffer, members), members)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_do_not_change_results(runtime: Runtime, threads: int) -> None:
    path = DATA / "tiny-int8.tflite"
    engine = TfliteEngine(path, runtime, threads=threads)
    assert engine.description.threads == threads
    inputs, outputs = engine.allocate()
    inputs[0][...] = sample(engine, 9)
    engine.invoke(inputs, outputs)
    np.testing.assert_array_equal(outputs[0], bare(runtime.module, path, inputs[0]))


@pytest.mark.parametrize("threads", [0, -1, 65, 10**6])
def test_a_number_of_threads_that_cannot_be_is_refused(runtime: Runtime, threads: int) -> None:
    with pytest.raises(ModelError, match=f"bad number of threads: expected 1 to 64, found {threads}"):
        TfliteEngine(DATA / "tiny-int8.tflite", runtime, threads=threads)


# --- Buffers ---


def test_buffers_are_the_callers_own(runtime: Runtime) -> None:
    engine = TfliteEngine(DATA / "tiny-float32.tflite", runtime)
    inputs, first = engine.allocate()
    _, second = engine.allocate()
    inputs[0][...] = sample(engine, 1)
    kept = inputs[0].copy()
    engine.invoke(inputs, first)
    result = first[0].copy()
    np.testing.assert_array_equal(inputs[0], kept)
    inputs[0][...] = sample(engine, 2)
    np.testing.assert_array_equal(first[0], result)
    engine.invoke(inputs, second)
    np.testing.assert_array_equal(first[0], result)
    assert (second[0] != result).any()
    first[0].fill(9)
    engine.invoke(inputs, second)  # whatever is done to a result, the network does not see it
    np.testing.assert_array_equal(second[0], bare(runtime.module, DATA / "tiny-float32.tflite", inputs[0]))
    engine.close()
    assert (first[0] == 9).all()


def test_it_runs_again_and_again(runtime: Runtime) -> None:
    engine = TfliteEngine(DATA / "tiny-uint8.tflite", runtime)
    inputs, outputs = engine.allocate()
    samples = [sample(engine, seed) for seed in range(4)]
    first: list[bytes] = []
    for number in range(400):
        inputs[0][...] = samples[number % 4]
        engine.invoke(inputs, outputs, deadline_s=1.0)
        if number < 4:
            first.append(outputs[0].tobytes())
        assert outputs[0].tobytes() == first[number % 4]


def test_a_buffer_that_does_not_fit_is_a_fault_of_the_engine(runtime: Runtime) -> None:
    engine = TfliteEngine(DATA / "tiny-float32.tflite", runtime)
    inputs, outputs = engine.allocate()
    for wrong in ([np.zeros((1, 16, 15, 3), np.float32)], [np.zeros((1, 16, 16, 3), np.uint8)], []):
        with pytest.raises(EngineFaultError, match=r"invoke failed"):
            engine.invoke(wrong, outputs)
    with pytest.raises(EngineFaultError, match=r"invoke failed"):
        engine.invoke(inputs, [np.zeros((1, 5), np.float32)])
    engine.invoke(inputs, outputs)  # and it still works


def test_an_output_whose_size_is_computed_from_an_open_batch_has_it_from_the_beginning(runtime: Runtime) -> None:
    path = DATA / "tiny-open-batch.tflite"
    probe(path, runtime.name)
    engine = TfliteEngine(path, runtime)
    assert [tensor.shape for tensor in engine.outputs] == [(1, 16, 3)]
    inputs, outputs = engine.allocate()
    inputs[0][...] = np.arange(48).reshape(1, 4, 4, 3)
    engine.invoke(inputs, outputs)
    assert (outputs[0] == inputs[0].reshape(1, 16, 3)).all()


def test_an_output_whose_size_depends_on_the_input_is_said_to_be_one(runtime: Runtime) -> None:
    path = DATA / "tiny-any-size.tflite"
    engine = TfliteEngine(path, runtime)
    inputs, outputs = engine.allocate()
    inputs[0][0, 0, :2] = 1.0
    with pytest.raises(EngineFaultError, match=r"float32\[1, 3\] that became \[2, 3\]: only outputs of one size"):
        engine.invoke(inputs, outputs)
    with pytest.raises(ModelError, match=r"cannot be run: found output tensor .* that became \[0, 3\]"):
        probe(path, runtime.name)


# --- Runtimes ---


def test_auto_takes_the_first_there_is() -> None:
    assert load_runtime().name == INSTALLED[0]
    assert load_runtime().version == importlib.import_module("importlib.metadata").version(
        {"litert": "ai-edge-litert", "tflite-runtime": "tflite-runtime"}[INSTALLED[0]]
    )


def test_a_runtime_that_is_not_installed_says_how_to_get_it() -> None:
    missing = [name for name in RUNTIMES if name not in INSTALLED]
    if not missing:
        pytest.skip("every runtime is installed")
    for name in missing:
        with pytest.raises(MissingPackageError, match=rf"no TFLite runtime: expected {name}.*; pip install"):
            load_runtime(name)


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(MissingPackageError, match=r"expected auto, litert, tflite-runtime, found 'torch'"):
        load_runtime("torch")


# --- What native code prints ---


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_native_chatter_stays_off_stderr(runtime: Runtime) -> None:
    code = """
import sys
from pathlib import Path
from vedette.engine import TfliteEngine, load_runtime
engine = TfliteEngine(Path(sys.argv[1]), load_runtime(sys.argv[2]))
buffers = engine.allocate()
engine.invoke(*buffers)
engine.close()
print("done")
"""
    for kind in TINY:
        done = run_python(code, str(DATA / f"tiny-{kind}.tflite"), runtime.name)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_what_others_print_meanwhile_is_not_lost() -> None:
    code = """
import os, sys
from vedette.engine.native_log import captured_stderr
print("before", file=sys.stderr)
with captured_stderr() as lines:
    os.write(2, b"INFO: chatter\\nERROR: from native code\\n\\n")
    print("from Python", file=sys.stderr)
print("after", lines, file=sys.stderr)
try:
    with captured_stderr() as lines:
        os.write(2, b"ERROR: then it failed\\n")
        raise ValueError
except ValueError:
    print(lines, file=sys.stderr)
"""
    done = run_python(code)
    assert done.stderr.splitlines() == [
        "before", "ERROR: from native code", "from Python", "after ['ERROR: from native code', 'from Python']",
        "ERROR: then it failed", "['ERROR: then it failed']",
    ]  # fmt: skip


# --- Broken files ---


@pytest.mark.parametrize("data", [b"", b"hello" * 100, FAKE_FLATBUFFER[:8]], ids=["empty", "text", "head"])
def test_rubbish_is_refused_at_arms_length(runtime: Runtime, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rubbish.tflite"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        probe(path, runtime.name)
    assert "rubbish.tflite" in str(caught.value)
    assert str(caught.value).isprintable()


def test_missing_files_and_folders_are_refused(runtime: Runtime, tmp_path: Path) -> None:
    for path in (tmp_path / "gone.tflite", tmp_path):
        with pytest.raises(ModelError, match=path.name):
            probe(path, runtime.name)
        with pytest.raises(ModelError, match=path.name):
            TfliteEngine(path, runtime)


def test_a_good_network_passes(runtime: Runtime) -> None:
    for kind in TINY:
        probe(DATA / f"tiny-{kind}.tflite", runtime.name)


def test_warnings_as_errors_in_the_environment_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error::RuntimeWarning")
    probe(DATA / "tiny-int8.tflite")


def assert_cut_files_kill_nobody(path: Path, points: list[int], folder: Path, runtime: str) -> list[str]:
    """Each is refused or runs; what the refusals say."""
    data = path.read_bytes()
    cut = folder / "cut.tflite"
    lines = []
    for keep in points:
        cut.write_bytes(data[:keep])
        try:
            probe(cut, runtime)
        except ModelError as error:
            assert "cut.tflite" in str(error)
            assert str(error).isprintable()
            lines.append(str(error))
    return lines


def test_truncated_networks_kill_nobody(runtime: Runtime, tmp_path: Path) -> None:
    path = DATA / "tiny-int8.tflite"
    size = path.stat().st_size
    points = [9, 24, size // 4, size // 2, size * 3 // 4, size - 200, size - 4]
    lines = assert_cut_files_kill_nobody(path, points, tmp_path, runtime.name)
    assert len(lines) >= 4  # the last bytes of a flatbuffer may be padding


@pytest.mark.slow
def test_a_truncated_resnet_kills_nobody(runtime: Runtime, shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "mlperf-tiny" / "pretrainedResnet_quant.tflite"
    size = path.stat().st_size
    points = [size * k // 9 for k in range(1, 9)]
    assert assert_cut_files_kill_nobody(path, points, tmp_path, runtime.name)


def test_a_crash_of_the_child_is_an_error_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a stand-in for the interpreter that dies as native code does
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -SEGV $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(
        ModelError, match=r"tiny-int8\.tflite: crashes the runtime that loads it: found SIGSEGV; the file"
    ):
        probe(DATA / "tiny-int8.tflite")
    python.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ModelError, match=r"tiny-int8\.tflite: cannot be run"):
        probe(DATA / "tiny-int8.tflite")


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    # the package shows its function under the module's name
    monkeypatch.setattr(importlib.import_module("vedette.engine.probe"), "TIMEOUT_S", 0.2)
    with pytest.raises(ModelError, match=r"does not finish one run: expected at most 0\.2 s"):
        probe(DATA / "tiny-int8.tflite")


def test_a_bundle_that_was_cut_is_refused_before_any_runtime_sees_it(tmp_path: Path) -> None:
    path = bundle(tmp_path, "int8").path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"int8\.tflite: no archive at its end"):
        open_bundle(path)
