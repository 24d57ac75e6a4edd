"""A running agent takes another model: every frame accounted for, a bad one refused, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerator import TestDelegate, accelerated_bundle
from real import CLIP, DATA, ROOT, Agent, Mosquitto, Subscriber, needs_mosquitto, wait_for
from test_engine_selftest import golden_for
from test_trust import KEY, sign

from tiny import make_manifest
from vedette.contract import golden
from vedette.contract.bundle import open_bundle, write_bundle
from vedette.contract.manifest import Tolerance
from vedette.demo.broker import LOOPBACK
from vedette.trust.signatures import public_pem

pytestmark = needs_mosquitto

MODELS = ROOT / "models"
RESNET8, WIDE = (MODELS / f"cifar10-{name}.tflite" for name in ("resnet8", "resnet20-wide"))
COCO, PERSON = MODELS / "coco-ssdlite-mobilenet-v2.tflite", MODELS / "vtest-person.tflite"
CAMERA = f'[pipeline.{{name}}.source]\nurl = "{CLIP}"\nloop = true\n'

# An agent whose proofs hang for good, in their children, once they have said so in a file
HANGING = """
import sys
import vedette.engine
from vedette.cli import main

sys.modules["vedette.engine.probe"]._CHILD = '''
import sys, time
from vedette.engine.child import end_with
end_with(int(sys.argv[1]))
open(sys.argv[2] + ".{0}", "w").close()
time.sleep(1000)
'''
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


class Site:
    """An agent whose pipelines look at the clip, and whoever commands it."""

    def __init__(self, folder: Path, broker: Mosquitto, *names: str, top: str = "", each: str = "") -> None:
        """``each``: lines of every pipeline's table."""
        self.device = folder.name.replace("_", "-")[:40]
        self.port = broker.port
        self.state = folder / "state"
        self.config = folder / "site.toml"
        self._names = names
        self._top, self._each = top, each
        self.agent = Agent(self.config)
        self.subscriber = Subscriber(broker.port, f"vedette/{self.device}/#", v5=True)
        self._commands = 0

    def write(self, *models: Path, top: str | None = None) -> None:
        """The configuration: a model for each pipeline, by name."""
        tables = [
            f'[pipeline.{name}]\nmodel = "{model}"\n{self._each}\n' + CAMERA.format(name=name)
            for name, model in zip(self._names, models, strict=True)
        ]
        self.config.write_text(
            f'device = "{self.device}"\nstate_dir = "{self.state}"\n{self._top if top is None else top}\n'
            f'[mqtt]\nhost = "{LOOPBACK}"\nport = {self.port}\n'
            "[intervals]\nstats_s = 0.5\nledger_s = 0.5\nhealth_s = 0.5\n" + "".join(tables)
        )

    def __enter__(self) -> Site:
        self.subscriber.__enter__()
        self.agent.__enter__()
        self.subscriber.wait("/status", lambda status: status["state"] == "ready")
        for name in self._names:
            self.found(name, 1)
        return self

    def __exit__(self, *exception: object) -> None:
        self.agent.__exit__(*exception)
        self.subscriber.__exit__(*exception)

    def ask(self, name: str, **fields: Any) -> str:
        """Sends a command. Its id."""
        self._commands += 1
        command_id = f"c{self._commands}"
        payload = json.dumps({"id": command_id, "expires": time.time() + 30.0, **fields})
        self.subscriber.client.publish(f"vedette/{self.device}/cmd/{name}", payload, qos=1)
        return command_id

    def command(self, name: str, **fields: Any) -> Any:
        """Its reply, parsed."""
        return self.subscriber.wait(f"/reply/{self.ask(name, **fields)}").json

    def reloaded(self, *changed: str) -> None:
        """Reloads, which must take over these pipelines."""
        reply = self.command("reload")
        assert reply["ok"], reply
        assert reply["result"] == {"changed": [f"pipeline.{name}" for name in changed], "needs_restart": []}

    def found(self, pipeline: str, more: int = 5) -> list[Any]:
        """What the pipeline found, once there is so much more of it than now."""
        topic = f"/{pipeline}/detections"
        before = len(self.subscriber.messages(topic))
        wait_for(f"{more} more of {topic}", lambda: len(self.subscriber.messages(topic)) >= before + more)
        return [message.json for message in self.subscriber.messages(topic)]

    def status(self) -> Any:
        """As it was said last."""
        return self.subscriber.messages("/status")[-1].json

    @property
    def pid(self) -> int:
        assert self.agent.process is not None
        return self.agent.process.pid


def sha256(path: Path) -> str:
    return open_bundle(path).sha256


def in_turn(messages: list[Any]) -> list[str]:
    """The models of these messages, each as often as it came anew."""
    shas = [message["model"]["sha256"] for message in messages]
    return [sha for sha, before in zip(shas, [None, *shas], strict=False) if sha != before]


def test_a_model_is_exchanged_under_load_without_a_hole(tmp_path: Path, broker: Mosquitto) -> None:
    site = Site(tmp_path, broker, "door")
    site.write(RESNET8)
    with site:
        site.write(WIDE)
        site.reloaded("door")
        model = site.subscriber.wait("/door/model", lambda model: model["name"] == "cifar10-resnet20-wide").json
        proofs = json.loads((site.state / "proofs.json").read_text())
        said = {proof["circumstances"]["bundle"]: proof["outcome"]["reason"] for proof in proofs}
        assert (model["sha256"], model["self_test_detail"]) == (sha256(WIDE), said[sha256(WIDE)])
        assert said[sha256(WIDE)] != said[sha256(RESNET8)], "each its own"
        site.found("door")
        site.write(RESNET8)
        site.reloaded("door")
        messages = site.found("door")
        assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1)), "a hole, or out of order"
        frames = [m["frame"]["seq"] for m in messages]
        assert frames == sorted(set(frames))
        assert in_turn(messages) == [sha256(RESNET8), sha256(WIDE), sha256(RESNET8)], "one after the other"
        # every frame that the source gave is a message, or counted as dropped
        site.agent.signal(signal.SIGTERM)
        assert site.agent.wait() == 0
        stats = [message.json for message in site.subscriber.messages("/door/stats")]
        inferred = sum(one["inferred"] for one in stats)
        ledger = site.subscriber.messages("/ledger")[-1].json
        [row] = [row for row in ledger["streams"] if row["topic"] == "detections"]
        assert row["last"] == inferred and row["acknowledged"] == inferred
        dropped = sum(stats[-1]["dropped"].values())
        last = site.subscriber.messages("/door/detections")[-1].json["frame"]["seq"]
        assert last <= inferred + dropped <= last + 1, "one may have been taken as it stopped"
    assert "alert" not in {message.json["state"] for message in site.subscriber.messages("/status")}


def test_a_file_that_is_written_over_is_another_model(tmp_path: Path, broker: Mosquitto) -> None:
    model = tmp_path / "model.tflite"
    shutil.copyfile(WIDE, model)
    site = Site(tmp_path, broker, "door", "gate")
    site.write(model, model)
    with site:
        site.reloaded()  # nothing is another one
        shutil.copyfile(RESNET8, model)  # the very file that the running agent has loaded
        site.found("door")
        site.reloaded("door", "gate")
        for name in ("door", "gate"):
            assert in_turn(site.found(name)) == [sha256(WIDE), sha256(RESNET8)]
        # one of two that shared a model takes another, and comes back to it
        site.write(WIDE, model)
        site.reloaded("door")
        site.write(model, model)
        site.reloaded("door")
        assert in_turn(site.found("door"))[2:] == [sha256(WIDE), sha256(RESNET8)]
        assert in_turn(site.found("gate")) == [sha256(WIDE), sha256(RESNET8)], "the other one was left alone"


def bad(what: str, model: Path, folder: Path) -> str:
    """Makes the model a bad one. Words of the reason why it is refused."""
    if what == "truncated":
        os.truncate(model, model.stat().st_size // 2)
        return "model.tflite"
    if what == "another digest":
        data = bytearray(model.read_bytes())
        data[2000] ^= 0xFF
        model.write_bytes(data)
        return "sha256"
    if what == "failing":
        hopeless = Tolerance(min_agreement=1.0, max_mean_score_error=0.0)
        shutil.copyfile(accelerated_bundle(folder, tolerances={"xnnpack": hopeless}, version="3.0"), model)
        sign(model)
        return "self-test failed"
    version = "1.0" if what == "older" else "3.0"
    shutil.copyfile(accelerated_bundle(folder, version=version), model)
    if what == "older":
        sign(model)
        return "older than the one that ran here before"
    return "not signed"


def test_a_bad_model_is_refused_and_the_old_one_goes_on(tmp_path: Path, broker: Mosquitto) -> None:
    (tmp_path / "site.pub").write_bytes(public_pem(KEY.public()))
    trust = f'[trust]\nkeys = ["{tmp_path}/site.pub"]\nno_rollback = true\n'
    model, good = tmp_path / "model.tflite", tmp_path / "good.tflite"
    shutil.copyfile(accelerated_bundle(tmp_path, version="2.0"), model)
    sign(model)
    shutil.copyfile(model, good)
    site = Site(tmp_path, broker, "door", top=trust)
    site.write(model)
    with site:
        for what in ("truncated", "another digest", "failing", "unsigned", "older"):
            shutil.copyfile(good, model)
            words = bad(what, model, tmp_path)
            reply = site.command("reload")
            assert (reply["ok"], reply["error"]["code"]) == (False, "refused"), (what, reply)
            assert words in reply["error"]["message"] and "\n" not in reply["error"]["message"], (what, reply)
            assert reply["error"]["message"] in site.agent.text(), "the journal has it too"
            assert in_turn(site.found("door")) == [sha256(good)], what
            assert (site.status()["state"], site.status()["why"]) == ("ready", None), what
        # who may sign is not changed by the way, and not before a restart
        shutil.copyfile(accelerated_bundle(tmp_path, version="3.0"), model)
        site.write(model, top="")
        assert "not signed" in site.command("reload")["error"]["message"]
        site.write(model)
        # a newer one runs, and only then is there no way back
        assert json.loads((site.state / "models.json").read_text())["versions"] == {"tiny": "2.0"}
        sign(model)
        site.reloaded("door")
        assert json.loads((site.state / "models.json").read_text())["versions"] == {"tiny": "3.0"}
        shutil.copyfile(good, model)
        assert "older than" in site.command("reload")["error"]["message"]


def test_what_the_pipeline_was_not_made_for_needs_a_restart(tmp_path: Path, broker: Mosquitto) -> None:
    site = Site(tmp_path, broker, "door")
    site.write(RESNET8)
    with site:
        site.write(COCO)
        message = site.command("reload")["error"]["message"]
        assert "another task" in message and "restart the agent for this" in message
        site.write(MODELS / "shuttle-anomaly.tflite")
        assert "takes readings" in site.command("reload")["error"]["message"]
        site.write(WIDE)
        site.config.write_text(site.config.read_text().replace("loop = true", "loop = false"))
        assert site.command("reload")["result"] == {"changed": [], "needs_restart": ["pipeline.door"]}
        assert in_turn(site.found("door")) == [sha256(RESNET8)]


def test_tracks_end_with_the_labels_that_they_were_given_and_ids_go_on(tmp_path: Path, broker: Mosquitto) -> None:
    site = Site(
        tmp_path, broker, "door", each='[pipeline.door.track]\n[pipeline.door.snapshots]\nfolder = ""\nmqtt = true'
    )
    site.write(COCO)

    def events(kind: str) -> list[Any]:
        found = [message.json for message in site.subscriber.messages("/door/events")]
        return [event for event in found if event["kind"] == kind]

    with site:
        wait_for("tracks", lambda: len(events("track_began")) >= 2)
        site.write(PERSON)
        site.reloaded("door")
        wait_for("a track of the new one", lambda: events("track_began")[-1]["model"]["name"] == "vtest-person")
        began = [(event["track"], event["model"]["name"]) for event in events("track_began")]
        old, new = ([t for t, name in began if (name == "vtest-person") is latter] for latter in (False, True))
        assert len(set(old + new)) == len(began), "no id is given twice"
        assert max(old) < min(new), "ids go on"  # among one model's, whoever is hidden for a while counts later
        ended = [(e["track"], e["model"]["name"]) for e in events("track_ended") if e["track"] in old]
        assert {name for _, name in ended} == {"coco-ssdlite-mobilenet-v2"} and {t for t, _ in ended} == set(old)
        assert {o["label"] for m in site.found("door", 20)[-20:] for o in m["objects"]} == {"person"}


def test_pictures_and_home_assistant_are_told_the_other_models_labels(tmp_path: Path, broker: Mosquitto) -> None:
    def bundle(labels: str) -> Path:
        flatbuffer = (DATA / "tiny-uint8.tflite").read_bytes()
        members = {"labels.txt": labels.encode(), "golden.npz": golden.encode(golden_for("uint8", "litert"))}
        close = Tolerance(min_agreement=0.9, max_mean_score_error=0.05)
        manifest = make_manifest(flatbuffer, members, tolerances={"xnnpack": close, "builtin": close}, precision="int8")
        path = tmp_path / "model.tflite"
        write_bundle(path, flatbuffer, manifest, members)
        return path

    pictures = tmp_path / "pictures"
    options = f'[pipeline.door.snapshots]\nfolder = "{pictures}"\nuncertain = 0.5\nuncertain_every_s = 0.0'
    assistant = "[home_assistant]\nenabled = true\n"
    site = Site(tmp_path, broker, "door", top=assistant, each=f"[pipeline.door.steady]\n{options}")
    site.write(bundle("ash\nbirch\ncedar\nelm\n"))

    def named(*labels: str) -> bool:
        names = [path.stem.split("uncertain-")[1] for path in pictures.glob("door/*uncertain*")]
        return any(set(name.split("-")[:2]) <= set(labels) for name in names)

    with site:
        wait_for("a picture", lambda: named("ash", "birch", "cedar", "elm"))
        bundle("one\ntwo\nthree\nfour\n")
        site.reloaded("door")
        wait_for("a picture of the other", lambda: named("one", "two", "three", "four"))
        with Subscriber(broker.port, "homeassistant/#") as told:
            components = told.wait(f"/device/{site.device}/config").json["components"].values()
            assert [c["options"] for c in components if "options" in c] == [["one", "two", "three", "four"]]


def test_a_signal_reloads_too(tmp_path: Path, broker: Mosquitto) -> None:
    site = Site(tmp_path, broker, "door")
    site.write(RESNET8)
    with site:
        site.write(tmp_path / "nothing.tflite")
        site.agent.signal(signal.SIGHUP)
        status = site.subscriber.wait("/status", lambda status: status["state"] == "alert").json
        assert "not reloaded" in status["why"] and "nothing.tflite" in status["why"]
        site.write(WIDE)
        site.agent.signal(signal.SIGHUP)
        site.subscriber.wait("/door/model", lambda model: model["name"] == "cifar10-resnet20-wide")
        assert in_turn(site.found("door")) == [sha256(RESNET8), sha256(WIDE)]


def test_twenty_exchanges_leave_nothing_behind(tmp_path: Path, broker: Mosquitto) -> None:
    site = Site(tmp_path, broker, "door", each="detections = true\nmax_fps = 5")
    site.write(COCO)

    def usage() -> tuple[int, int, int]:
        """Descriptors, threads, anonymous memory in KiB."""
        process = Path(f"/proc/{site.pid}")
        rollup = (process / "smaps_rollup").read_text().splitlines()
        anonymous = next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:"))
        return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir())), anonymous

    def exchange(times: int) -> tuple[int, int, int]:
        for _ in range(times):
            for model in (PERSON, COCO):
                site.write(model)
                site.reloaded("door")
        return usage()

    with site:
        fds, threads, kib = exchange(2)
        again = exchange(10)
        wait_for("the same descriptors and threads", lambda: usage()[:2] == (fds, threads))
        # each of the two has 4 to 10 MiB of weights, which the runtime packs once more
        assert again[2] < kib + 10 * 1024, f"{kib} KiB before twenty exchanges, {again[2]} KiB after"


class Supervisor:
    """Hears what the agent tells systemd."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self.fed = 0
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while data := self._socket.recv(4096):
            self.fed += b"WATCHDOG=1" in data

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.address)
        self._thread.join(10)
        self._socket.close()


def test_a_proof_that_hangs_holds_nobody_up(tmp_path: Path, broker: Mosquitto) -> None:
    import subprocess

    supervisor = Supervisor(tmp_path)
    model = tmp_path / "model.tflite"
    shutil.copyfile(RESNET8, model)
    site = Site(tmp_path, broker, "door")
    site.write(model)
    with site:  # proves it once, and remembers
        pass
    site = Site(tmp_path, broker, "door")
    environment = {**os.environ, "NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": "3000000"}
    with site.subscriber, site.config.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", HANGING, "run", "-c", str(site.config)], env=environment, stdout=log, stderr=log
        )
        try:
            site.found("door")
            shutil.copyfile(WIDE, model)
            reload = site.ask("reload")
            wait_for("the proof to hang", Path(f"{model}._self_test").exists)
            fed = supervisor.fed
            wait_for("the watchdog to be fed", lambda: supervisor.fed >= fed + 4)
            assert in_turn(site.found("door")) == [sha256(RESNET8)]
            assert site.command("ping")["ok"]
            assert site.command("threshold", pipeline="door", value=0.2)["ok"]
            assert "under way" in site.command("reload")["error"]["message"]
            assert site.subscriber.messages(f"/reply/{reload}") == []
            children = (Path(f"/proc/{process.pid}/task/{process.pid}/children").parent.parent).glob("*/children")
            proofs = [int(pid) for file in children for pid in file.read_text().split()]
            assert proofs, "the child that hangs"
            process.terminate()
            assert process.wait(20) == 0, "it stops all the same"
            wait_for("the child's end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in proofs))
        finally:
            process.kill()
            process.wait()
            supervisor.close()


def test_an_accelerated_model_is_exchanged_too_and_its_process_ends(tmp_path: Path, broker: Mosquitto) -> None:
    device = TestDelegate(tmp_path, name="libedgetpu.so.1")
    model = tmp_path / "model.tflite"
    shutil.copyfile(accelerated_bundle(tmp_path), model)
    engine = f'[engine]\ndelegate = "edgetpu"\ndelegate_options = {{ command = "{device.command}" }}\n'
    site = Site(tmp_path, broker, "door", top=engine)
    site.agent = Agent(site.config, LD_LIBRARY_PATH=str(tmp_path))
    site.write(model)

    def children() -> set[int]:
        found = Path(f"/proc/{site.pid}/task").glob("*/children")
        return {int(pid) for file in found for pid in file.read_text().split()}

    with site:
        old = children()
        assert len(old) == 1
        shutil.copyfile(accelerated_bundle(tmp_path, version="2.0"), model)
        site.reloaded("door")
        message = site.subscriber.wait("/door/model", lambda message: message["version"] == "2.0").json
        assert message["accelerator"]["trusted"]
        assert site.found("door")[-1]["engine"]["delegate"] == "edgetpu"
        wait_for("the old one's process to end", lambda: len(children()) == 1 and not children() & old)
