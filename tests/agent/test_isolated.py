"""An engine in a process of its own, with a real delegate that works, hangs, crashes and refuses; nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerator import TestDelegate, compiled, random_input
from real import wait_for

from tiny import DATA
from vedette.contract.errors import (
    ConfigError,
    EngineCrashedError,
    EngineFaultError,
    EngineHungError,
    EngineRefusedError,
)
from vedette.engine import Delegate, IsolatedEngine, TfliteEngine, find_delegate, load_runtime

KINDS = ["float32", "int8", "uint8"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> TestDelegate:
    return TestDelegate(tmp_path_factory.mktemp("delegate"))


@pytest.fixture
def device(library: TestDelegate, tmp_path: Path) -> TestDelegate:
    library.command = tmp_path / "command"
    library.does("w")
    return library


@pytest.fixture
def engine(device: TestDelegate) -> Iterator[IsolatedEngine]:
    made = start(device)
    yield made
    made.close()


def start(device: TestDelegate, kind: str = "uint8", **options: Any) -> IsolatedEngine:
    return IsolatedEngine(compiled(kind), device.delegate(), load_runtime("litert"), **options)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_the_cpu(device: TestDelegate, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "compiled.tflite"
    path.write_bytes(compiled(kind))
    cpu = TfliteEngine(DATA / f"tiny-{kind}.tflite", load_runtime("litert"))
    for network in (path.read_bytes(), path):
        engine = IsolatedEngine(network, device.delegate(), load_runtime("litert"))
        assert [(s.shape, s.dtype, s.scale, s.zero_point) for s in (*engine.inputs, *engine.outputs)] == [
            (s.shape, s.dtype, s.scale, s.zero_point) for s in (*cpu.inputs, *cpu.outputs)
        ]
        inputs, found = engine.allocate()
        wanted = cpu.allocate()[1]
        seen = set()
        for seed in range(5):
            inputs[0][...] = random_input(inputs[0].shape, inputs[0].dtype, seed)
            engine.invoke(inputs, found)
            cpu.invoke(inputs, wanted)
            step = 1e-5 if kind == "float32" else 1
            assert np.abs(found[0].astype(np.float64) - wanted[0]).max() <= step
            seen.add(found[0].tobytes())
        assert len(seen) > 1
        engine.close()
        engine.close()


def test_it_says_who_it_is(device: TestDelegate) -> None:
    for name, engine_class in (("test", "xnnpack"), ("edgetpu", "edgetpu")):
        engine = IsolatedEngine(compiled("int8"), device.delegate(name), load_runtime("litert"), threads=2)
        described = engine.description
        assert (described.delegate, described.engine_class, described.threads) == (name, engine_class, 2)
        assert described.runtime.startswith("litert ")
        engine.close()


def test_the_child_imports_the_runtime_and_numpy_alone() -> None:
    code = (
        "import sys, runpy; sys.argv = ['child', '0', '0']; before = set(sys.modules)\n"
        "import numpy, ai_edge_litert.interpreter\n"
        "own = set(sys.modules)\n"
        "from pathlib import Path\n"
        "runpy.run_path(sys.stdin.read(), run_name='child')\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - own}\n"
        "print(sorted(m for m in new if m not in sys.stdlib_module_names))"
    )
    child = Path(sys.modules["vedette.engine.child"].__file__ or "")
    done = subprocess.run([sys.executable, "-c", code], input=str(child), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("letter", "kind", "says"),
    [
        ("h", EngineHungError, "no answer in time"),
        ("c", EngineCrashedError, "SIGSEGV"),
        ("f", EngineRefusedError, "the device does not answer"),
    ],
)
def test_a_delegate_that_fails_while_it_runs(
    device: TestDelegate, engine: IsolatedEngine, letter: str, kind: type[EngineFaultError], says: str
) -> None:
    inputs, outputs = engine.allocate()
    engine.invoke(inputs, outputs)
    device.does(letter)
    with pytest.raises(kind, match=says):
        engine.invoke(inputs, outputs, deadline_s=0.3)
    device.does("w")
    with pytest.raises(EngineRefusedError, match="has ended"):
        engine.invoke(inputs, outputs)
    pid = engine.pid
    engine.close()
    assert gone(pid)


def test_the_deadline_is_kept(device: TestDelegate, engine: IsolatedEngine) -> None:
    inputs, outputs = engine.allocate()
    device.does("h")
    begun = time.monotonic()
    with pytest.raises(EngineHungError):
        engine.invoke(inputs, outputs, deadline_s=0.3)
    assert 0.3 <= time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("letter", "kind", "says"),
    [
        ("n", EngineRefusedError, "no such device"),
        ("p", EngineRefusedError, "compiled for another device"),
        ("H", EngineHungError, "no answer in time"),
    ],
)
def test_a_delegate_that_does_not_start(
    device: TestDelegate, letter: str, kind: type[EngineFaultError], says: str
) -> None:
    device.does(letter)
    with pytest.raises(kind, match=says):
        start(device, start_timeout_s=2.0 if letter == "H" else 60.0)


@pytest.mark.parametrize(
    ("library", "says"),
    [("/nowhere/libnone.so", "No such file"), ("libm.so.6", "libm.so.6 is no delegate")],
)
def test_a_library_that_is_none(library: str, says: str) -> None:
    with pytest.raises(EngineRefusedError, match=says):
        IsolatedEngine(compiled("int8"), Delegate("test", library), load_runtime("litert"))


def test_a_network_that_is_none(device: TestDelegate) -> None:
    with pytest.raises(EngineRefusedError, match="says no"):
        IsolatedEngine(b"\x1c\0\0\0TFL3" + bytes(200), device.delegate(), load_runtime("litert"))


def test_whoever_waits_can_be_told_to_give_up(device: TestDelegate) -> None:
    device.does("H")
    cancel = os.eventfd(0)
    threading.Timer(0.2, os.eventfd_write, (cancel, 1)).start()
    begun = time.monotonic()
    with pytest.raises(EngineRefusedError, match="given up"):
        start(device, start_timeout_s=60.0, cancel_fd=cancel)
    assert time.monotonic() - begun < 30
    os.close(cancel)


def test_a_child_that_is_killed_is_a_crash(device: TestDelegate, engine: IsolatedEngine) -> None:
    inputs, outputs = engine.allocate()
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineCrashedError, match="SIGKILL"):
        engine.invoke(inputs, outputs)


def test_it_is_not_ended_by_what_a_service_is_sent(device: TestDelegate, engine: IsolatedEngine) -> None:
    # systemd sends SIGTERM to every process of a unit, a terminal SIGINT
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(engine.pid, number)
    inputs, outputs = engine.allocate()
    engine.invoke(inputs, outputs)


def test_an_engine_that_is_forgotten_leaves_no_process(device: TestDelegate) -> None:
    engine = start(device)
    pid = engine.pid
    del engine
    gc.collect()
    wait_for("the child's end", lambda: gone(pid))


@pytest.mark.parametrize("letter", ["w", "h"])
def test_the_child_ends_with_its_parent(device: TestDelegate, tmp_path: Path, letter: str) -> None:
    """Even one that hangs, in the middle of a run, with its parent killed."""
    network = tmp_path / "compiled.tflite"
    network.write_bytes(compiled("uint8"))
    code = (
        "import sys; from pathlib import Path; from vedette.engine import Delegate, IsolatedEngine, load_runtime\n"
        "network, library, command = sys.argv[1:]\n"
        "delegate = Delegate('test', library, {'command': command})\n"
        "engine = IsolatedEngine(Path(network), delegate, load_runtime('litert'))\n"
        "print(engine.pid, flush=True); sys.stdin.readline()\n"
        "engine.invoke(*engine.allocate(), deadline_s=600); print('ran', flush=True); sys.stdin.readline()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(network), str(device.library), str(device.command)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with parent:
        assert parent.stdin is not None and parent.stdout is not None
        child = int(parent.stdout.readline())
        device.does(letter)
        parent.stdin.write("\n")
        parent.stdin.flush()
        if letter == "w":
            assert parent.stdout.readline() == "ran\n"
        else:
            wait_for("the child to hang", device.command.with_name("command.hung").exists)
        parent.kill()
    wait_for("the child's end", lambda: gone(child))


def open_files() -> list[str]:
    kinds = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            kinds.append(str(link.readlink()).split(":")[0])
        except FileNotFoundError:
            continue  # the folder's own
    return sorted(kinds)


def children() -> list[int]:
    text = "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return [int(pid) for pid in text.split()]


def test_fifty_lives_leave_nothing_behind(device: TestDelegate) -> None:
    inputs, outputs = start_once(device)
    gc.collect()  # what earlier tests left in cycles may hold files, and go meanwhile
    before = (open_files(), threading.active_count(), mapped("memfd:"))
    born = set(children())
    for number in range(50):
        device.does("w")
        engine = start(device)
        device.does("wchf"[number % 4])
        if number % 4:
            with pytest.raises(EngineFaultError):
                engine.invoke(inputs, outputs, deadline_s=0.05 if number % 4 == 2 else None)
        else:
            engine.invoke(inputs, outputs)
        engine.close()
    assert (open_files(), threading.active_count(), mapped("memfd:")) == before
    assert set(children()) <= born


def start_once(device: TestDelegate) -> Any:
    """What the first time alone opens is open then."""
    engine = start(device)
    buffers = engine.allocate()
    engine.invoke(*buffers)
    engine.close()
    return buffers


def mapped(what: str) -> int:
    return sum(what in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_delegates_are_named_by_edgetpu_or_a_path(tmp_path: Path) -> None:
    assert find_delegate("edgetpu", {"device": "usb"}) == Delegate("edgetpu", "libedgetpu.so.1", {"device": "usb"})
    assert find_delegate("edgetpu").compiled
    for name, called, compiled_for in (
        ("libedgetpu.so.1.0", "edgetpu", True),
        ("libvx_delegate.so", "vx_delegate", False),
    ):
        path = tmp_path / name
        path.touch()
        found = find_delegate(str(path))
        assert (found.name, found.library, found.compiled) == (called, str(path), compiled_for)
    with pytest.raises(
        ConfigError, match=r'engine\.delegate: no such delegate: expected "edgetpu", or an absolute path'
    ):
        find_delegate("gpu", where="engine.delegate")
    with pytest.raises(ConfigError, match="no such library: found /nowhere"):
        find_delegate("/nowhere/libx.so")
