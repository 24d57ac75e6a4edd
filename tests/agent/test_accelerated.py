"""An accelerator that fails, and the CPU that takes over: by the engine alone, and in a pipeline's messages."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerator import TestDelegate, accelerated_bundle, compiled, random_input
from real import DEADLINE_S, Agent, BrokerAddress, Subscriber, run_cli, wait_for, write_pictures

from tiny import DATA
from vedette.contract.errors import EngineRefusedError, ModelError
from vedette.contract.manifest import ClassifyOutput, Tolerance
from vedette.demo.broker import LOOPBACK
from vedette.engine import AcceleratedEngine, Engine, Proof, TfliteEngine, load_runtime, probe
from vedette.models.acceleration import Acceleration, accelerate, check_acceleration
from vedette.models.model import PlainModel, read_model

TAKE_OVER_S = 5.0  # what is promised


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> TestDelegate:
    # by its name the Edge TPU's: it then runs the bundle's edgetpu.tflite
    return TestDelegate(tmp_path_factory.mktemp("delegate"), name="libedgetpu.so.1")


@pytest.fixture
def device(library: TestDelegate, tmp_path: Path) -> TestDelegate:
    library.command = tmp_path / "command"
    library.does("w")
    return library


Make = Callable[..., AcceleratedEngine]


@pytest.fixture
def make(device: TestDelegate, tmp_path: Path) -> Iterator[Make]:
    """Makes accelerated engines, tried again at once, and closes them."""
    made: list[AcceleratedEngine] = []

    def one(path: Path | None = None, **options: Any) -> AcceleratedEngine:
        spec = read_model(str(path or accelerated_bundle(tmp_path)))
        runtime = load_runtime("litert")
        settings = {"deadline_s": 1.0, "check_s": 0.0, "first_s": DEADLINE_S, "retry_s": (0.05, 0.2), **options}
        acceleration = Acceleration(device.delegate("edgetpu"), **settings)
        made.append(accelerate(spec, TfliteEngine(spec.path, runtime), runtime, acceleration))
        return made[-1]

    yield one
    for engine in made:
        engine.close()


def run(engine: AcceleratedEngine, seed: int = 1) -> str:
    """Runs a random input, compares the result with the CPU's, and says who ran it."""
    inputs, outputs = engine.allocate()
    inputs[0][...] = random_input(inputs[0].shape, inputs[0].dtype, seed)
    engine.invoke(inputs, outputs)
    cpu = TfliteEngine(DATA / "tiny-uint8.tflite", load_runtime("litert"))
    wanted = cpu.allocate()[1]
    cpu.invoke(inputs, wanted)
    assert np.abs(outputs[0].astype(np.int16) - wanted[0]).max() <= 1
    return engine.description.delegate


def until(engine: AcceleratedEngine, delegate: str) -> None:
    wait_for(f"{delegate} to run the model", lambda: run(engine) == delegate)


def test_an_accelerator_that_works_runs_the_model(make: Make) -> None:
    engine = make()
    assert engine.description.delegate == "edgetpu"
    assert engine.description.engine_class == "edgetpu"
    for seed in range(5):
        assert run(engine, seed) == "edgetpu"
    status = engine.status()
    assert (status.trusted, status.why, status.starts, status.taken_over) == (True, "", 1, 0)
    assert status.proof.startswith("edgetpu: agreement ")
    assert set(status.faults.values()) == {0}
    engine.close()
    engine.close()


@pytest.mark.parametrize(
    ("letter", "kind", "says"),
    [
        ("h", "hung", "no answer in time"),
        ("c", "crashed", "SIGSEGV"),
        ("f", "refused", "the device does not answer"),
    ],
)
def test_when_it_fails_the_cpu_has_the_very_same_input(
    make: Make, device: TestDelegate, letter: str, kind: str, says: str
) -> None:
    engine = make()
    assert run(engine) == "edgetpu"
    device.does(letter)
    begun = time.monotonic()
    assert run(engine, seed=2) == "xnnpack"
    assert time.monotonic() - begun < TAKE_OVER_S
    status = engine.status()
    assert status.faults[kind] >= 1
    assert status.taken_over == 1
    assert not status.trusted
    assert says in status.why
    assert run(engine, seed=3) == "xnnpack"


@pytest.mark.parametrize("letter", ["h", "c", "f", "r"])
def test_once_repaired_it_is_trusted_again(make: Make, device: TestDelegate, letter: str) -> None:
    engine = make(check_s=0.001)
    assert run(engine) == "edgetpu"
    device.does(letter)
    until(engine, "xnnpack")
    starts = engine.status().starts
    # a broken one is tried again and again, and not trusted
    wait_for("another try", lambda: engine.status().starts > starts + 1)
    assert run(engine) == "xnnpack"
    assert engine.status().why
    device.does("w")
    until(engine, "edgetpu")
    status = engine.status()
    assert (status.trusted, status.why) == (True, "")
    assert sum(status.faults.values()) >= 2


@pytest.mark.parametrize(
    ("letter", "kind", "says"),
    [("r", "wrong", "self-test failed"), ("n", "refused", "no such device"), ("p", "refused", "another device")],
)
def test_one_that_never_worked_leaves_the_cpu_to_it(
    make: Make, device: TestDelegate, letter: str, kind: str, says: str
) -> None:
    device.does(letter)
    engine = make()
    assert engine.description.delegate == "xnnpack"
    assert run(engine) == "xnnpack"
    status = engine.status()
    assert status.faults[kind] >= 1
    assert says in status.why
    device.does("w")
    until(engine, "edgetpu")


def test_rubbish_is_found_out_by_the_next_check(make: Make, device: TestDelegate) -> None:
    engine = make(check_s=0.2)
    assert run(engine) == "edgetpu"
    device.does("r")
    inputs, outputs = engine.allocate()

    def noticed() -> bool:
        engine.invoke(inputs, outputs)
        return engine.description.delegate == "xnnpack"

    wait_for("the rubbish to be noticed", noticed, TAKE_OVER_S)
    status = engine.status()
    assert status.faults["wrong"] >= 1
    assert "answers a golden input otherwise than before" in status.why or "self-test failed" in status.why


def test_doubtful_results_are_counted(make: Make, device: TestDelegate) -> None:
    engine = make(check_s=3600.0)
    inputs, outputs = engine.allocate()
    device.does("r")
    for _ in range(7):
        engine.invoke(inputs, outputs)
    assert engine.description.delegate == "edgetpu"
    engine._check_at = 0.0  # an hour later
    engine.invoke(inputs, outputs)
    assert engine.description.delegate == "xnnpack"
    assert engine.status().doubtful == 7


def test_a_start_does_not_wait_for_one_that_hangs(make: Make, device: TestDelegate) -> None:
    device.does("H")
    begun = time.monotonic()
    engine = make(first_s=0.2)
    assert run(engine) == "xnnpack"
    assert time.monotonic() - begun < 10
    engine.close()  # and neither does the end
    assert time.monotonic() - begun < 20


def test_tries_become_rarer(tmp_path: Path) -> None:
    tried: list[float] = []

    def refuses(cancel_fd: int) -> Engine:
        tried.append(time.monotonic())
        raise EngineRefusedError("no such device")

    cpu = TfliteEngine(DATA / "tiny-uint8.tflite", load_runtime("litert"))
    proof = Proof(lambda _: pytest.fail("judged"), np.zeros((1, 16, 16, 3), np.uint8))
    engine = AcceleratedEngine("tiny", cpu, "test", refuses, proof, check_s=0.0, retry_s=(0.05, 0.4))
    wait_for("seven tries", lambda: len(tried) >= 7)
    engine.close()
    gaps = np.diff(tried)
    assert (gaps[:6] >= [0.05, 0.1, 0.2, 0.4, 0.4, 0.4]).all(), gaps
    assert engine.status().faults["refused"] == engine.status().starts


def test_its_tensors_must_be_the_networks(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerator.compiled", lambda _: compiled("int8"))
    engine = make(accelerated_bundle(tmp_path, "uint8"))
    assert run(engine) == "xnnpack"
    assert "tensors are not those of the network that the CPU runs" in engine.status().why


def test_the_bundles_own_bound_for_it_comes_first(make: Make, tmp_path: Path) -> None:
    hopeless = Tolerance(min_agreement=1.0, max_mean_score_error=0.0)  # int8 is not float
    loose = Tolerance(min_agreement=0.5, max_mean_score_error=0.5)
    engine = make(accelerated_bundle(tmp_path, tolerances={"xnnpack": loose, "edgetpu": hopeless}))
    assert run(engine) == "xnnpack"
    assert "self-test failed" in engine.status().why
    assert "at most 0.000" in engine.status().why


def test_a_bundle_replaced_meanwhile_changes_nothing(make: Make, device: TestDelegate, tmp_path: Path) -> None:
    path = accelerated_bundle(tmp_path)
    engine = make(path)
    path.unlink()
    device.does("c")
    assert run(engine) == "xnnpack"
    device.does("w")
    until(engine, "edgetpu")


def test_nothing_is_left_when_it_is_closed(make: Make, device: TestDelegate) -> None:
    from test_isolated import children, open_files

    make().close()
    gc.collect()  # what earlier tests left in cycles may hold files, and go meanwhile
    before = (open_files(), threading.active_count(), children())
    for letter in "whcrn":
        device.does(letter)
        make(first_s=0.1).close()
    assert (open_files(), threading.active_count(), children()) == before


def test_what_cannot_be_accelerated_is_refused(device: TestDelegate, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\n")
    plain = read_model(str(DATA / "tiny-uint8.tflite"), PlainModel(ClassifyOutput(), labels_file=labels))
    with pytest.raises(ModelError, match="has no golden vectors"):
        check_acceleration(plain, device.delegate("edgetpu"))
    spec = read_model("cifar10-resnet8")
    with pytest.raises(ModelError, match=r"no network for the Edge TPU: expected edgetpu\.tflite"):
        check_acceleration(spec, device.delegate("edgetpu"))
    check_acceleration(spec, replace(device.delegate("edgetpu"), name="another"))


def test_another_delegate_runs_the_network_itself(device: TestDelegate, tmp_path: Path) -> None:
    # this one claims nothing in it: TFLite's own kernels run all of it, in the child
    spec = read_model(str(accelerated_bundle(tmp_path)))
    runtime = load_runtime("litert")
    acceleration = Acceleration(device.delegate("another"), first_s=DEADLINE_S)
    engine = accelerate(spec, TfliteEngine(spec.path, runtime), runtime, acceleration)
    assert run(engine) == "another"
    assert engine.description.engine_class == "xnnpack"
    engine.close()


def agent_with_accelerator(folder: Path, broker: BrokerAddress, device: TestDelegate) -> Path:
    """A configuration of one camera, whose bundle the Edge TPU runs."""
    write_pictures(folder / "pictures")
    path = folder / "dev-1.toml"
    path.write_text(
        f'device = "dev-1"\nstate_dir = "{folder / "state"}"\n'
        f'[mqtt]\nhost = "{LOOPBACK}"\nport = {broker.port}\nprotocol = "{broker.protocols[0]}"\n'
        f'[engine]\ndelegate = "edgetpu"\ndelegate_options = {{ command = "{device.command}" }}\ncheck_s = 0.1\n'
        f'[pipeline.door]\nmodel = "{accelerated_bundle(folder)}"\n'
        f'[pipeline.door.source]\nurl = "{folder / "pictures"}"\nfps = 20.0\nloop = true\n'
    )
    return path


@pytest.mark.broker
@pytest.mark.parametrize("letter", ["h", "c", "r"])
def test_each_message_says_who_ran_it(device: TestDelegate, tmp_path: Path, broker: BrokerAddress, letter: str) -> None:
    config = agent_with_accelerator(tmp_path, broker, device)
    # by its name alone: the system's loader finds it
    with Subscriber(broker.port) as subscriber, Agent(config, LD_LIBRARY_PATH=str(device.library.parent)) as agent:

        def speaks(delegate: str, after: int = 0) -> Callable[[Any], bool]:
            return lambda m: m["engine"]["delegate"] == delegate and m["seq"] > after

        first = subscriber.wait("/detections", speaks("edgetpu")).json
        assert subscriber.wait("/model").json["accelerator"]["trusted"]
        device.does(letter)
        taken_over = subscriber.wait("/detections", speaks("xnnpack", first["seq"])).json
        # from its capture to its result, of the very frame that found it out
        assert taken_over["latency_ms"]["total"] / 1000 < TAKE_OVER_S
        alert = subscriber.wait("/status", lambda status: status["state"] == "alert").json
        assert "the CPU runs it in edgetpu's place: " in alert["why"]
        lost = subscriber.wait("/model", lambda model: not model["accelerator"]["trusted"]).json["accelerator"]
        assert sum(lost["faults"].values()) >= 1 and lost["why"]
        device.does("w")
        again = subscriber.wait("/detections", speaks("edgetpu", taken_over["seq"])).json
        seqs = [m.json["seq"] for m in subscriber.messages("/detections")]
        assert seqs == list(range(1, len(seqs) + 1)), "no frame's result was lost on the way"
        assert again["seq"] <= seqs[-1]
        wait_for("the alert's end", lambda: subscriber.messages("/status")[-1].json["state"] == "ready")
        wait_for(
            "the model's message to say so",
            lambda: [m.json["engine"]["delegate"] for m in subscriber.messages("/model")][-1] == "edgetpu",
        )
        assert subscriber.messages("/model")[-1].json["accelerator"]["trusted"]
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0
        assert "the CPU takes over" in agent.text()


@pytest.mark.broker
@pytest.mark.parametrize(("letter", "code", "says"), [("w", 0, "edgetpu: agreement"), ("n", 1, "no such device"),
                                                      ("r", 1, "self-test failed"), ("c", 1, "SIGSEGV")])  # fmt: skip
def test_a_check_tries_the_accelerator(
    device: TestDelegate, tmp_path: Path, broker: BrokerAddress, letter: str, code: int, says: str
) -> None:
    config = agent_with_accelerator(tmp_path, broker, device)
    device.does(letter)
    done = run_cli("check", "-c", config, LD_LIBRARY_PATH=str(device.library.parent))
    [line] = [line for line in done.stdout.splitlines() if "door: accelerator" in line]
    assert line.startswith("ok" if code == 0 else "bad") and says in line, done.stdout + done.stderr
    assert done.returncode == code


@pytest.mark.parametrize(
    ("op", "problem", "advice"),
    [
        (b"edgetpu-custom-op", "is compiled for the Edge TPU, and no CPU runs it", "a bundle can carry both"),
        (
            b"PosenetDecoderOp",
            "needs an operation that the runtime has no kernel for",
            "found PosenetDecoderOp; export",
        ),
        (
            b"FlexRFFT",
            "needs an operation that the runtime has no kernel for",
            "convert the network with TFLITE_BUILTINS",
        ),
    ],
)
def test_an_operation_without_a_kernel_is_named_with_the_way_out(
    tmp_path: Path, op: bytes, problem: str, advice: str
) -> None:
    path = tmp_path / "foreign.tflite"
    path.write_bytes(compiled("uint8", op))
    for refused in (lambda: probe(path), lambda: TfliteEngine(path, load_runtime())):
        with pytest.raises(ModelError) as caught:
            refused()
        assert caught.value.line().startswith(f"{path}: {problem}: expected ") and advice in caught.value.line()
