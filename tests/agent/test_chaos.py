"""``vedette chaos`` and ``bench/chaos.py``: what they do to an agent, and that a fault without its defence is seen."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from real import ROOT, agent_config, mosquitto_path, needs_mosquitto, run_cli, write_pictures

from vedette.chaos.account import Account
from vedette.chaos.clock import set_clock, wall_clock
from vedette.chaos.proxy import RETRANSMIT_S, Conditions, Proxy
from vedette.chaos.sources import mend, stage_source, tear
from vedette.chaos.stage import set_stage
from vedette.chaos.toml import write_toml
from vedette.config import SourceConfig, load_config
from vedette.demo.broker import LOOPBACK
from vedette.mqtt import Topics

TOPICS = Topics("vedette", "dev-1")


# the proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that says back what it hears; its port."""
    server = socket.create_server((LOOPBACK, 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return  # reset, as some tests want it

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(LOOPBACK, echo) as made:
        yield made


def connected(proxy: Proxy, timeout_s: float = 20.0) -> socket.socket:
    made = socket.create_connection((LOOPBACK, proxy.port), timeout=timeout_s)
    made.sendall(b"hello")
    assert made.recv(5) == b"hello"
    return made


def test_the_proxy_hands_on_everything_both_ways(proxy: Proxy) -> None:
    data = random.Random(1).randbytes(3_000_000)
    with connected(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        got = bytearray()
        while len(got) < len(data):
            got += client.recv(65536)
        sender.join()
        assert got == data
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"", "an end is handed on, too"
    assert proxy.connections == 1


def test_the_proxy_cuts_resets_and_refuses(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.cut()
        assert client.recv(1) == b""
    with connected(proxy) as client:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connected(proxy) as client:
        proxy.become(Conditions(refused=True))
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, proxy.port))
    proxy.heal()
    connected(proxy).close()


def test_the_proxy_stalls_without_losing_anything(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.become(Conditions(silent=True))
        client.sendall(b"later")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(5)
        proxy.heal()
        client.settimeout(20)
        assert client.recv(5) == b"later"


def test_what_the_proxy_swallowed_is_gone_and_the_connection_with_it(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.become(Conditions(swallowed=True))
        client.sendall(b"gone")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(4)
        proxy.heal()
        client.settimeout(20)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.parametrize("conditions", [Conditions(delay_s=0.15), Conditions(loss=0.999)])
def test_the_proxy_delays_and_loses_in_order(proxy: Proxy, conditions: Conditions) -> None:
    with connected(proxy) as client:
        proxy.become(conditions)
        begun = time.monotonic()
        client.sendall(b"a")
        if conditions.delay_s:
            assert client.recv(1) == b"a"
            assert time.monotonic() - begun >= 0.3, "there and back"
            return
        client.settimeout(RETRANSMIT_S[0] / 2)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_proxy_without_a_server_resets() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
    with (
        Proxy(LOOPBACK, port) as proxy,
        pytest.raises(ConnectionResetError),  # on connecting, or on the first read: as fast as the proxy is
        socket.create_connection((LOOPBACK, proxy.port), timeout=20) as client,
    ):
        client.recv(1)


# the account


def kept(account: Account, seq: int, epoch: int = 1, **fields: Any) -> None:
    message = {
        "id": f"dev-1-{epoch}-door-detections-{seq}",
        "epoch": epoch,
        "seq": seq,
        "mono_us": seq,
        "n": seq,
        **fields,
    }
    account.hear("vedette/dev-1/door/detections", msgspec.json.encode(message))


def ledger(account: Account, epoch: int = 1, **counts: Any) -> None:
    row = {
        "epoch": epoch, "pipeline": "door", "topic": "detections", "first": 1, "last": 10, "acknowledged": 0, "waiting": 0,
        "rejected": 0, "dropped": 0, "dropped_ranges": [], "ranges_cut": 0, "lost_at_crash": 0, **counts,
    }  # fmt: skip
    document = {"v": 1, "device": "dev-1", "epoch": epoch, "ts": "", "streams": [row]}
    account.hear("vedette/dev-1/ledger", msgspec.json.encode(document))


def heard(*seqs: int, epoch: int = 1) -> Account:
    account = Account(TOPICS)
    for seq in seqs:
        kept(account, seq, epoch)
    return account


def test_an_account_of_everything_holds_and_copies_do_not_matter() -> None:
    account = heard(*range(1, 11), 4)
    kept(account, 5, replay=True, ts="later")
    ledger(account, acknowledged=10)
    verdict = account.verdict()
    assert (verdict.given, verdict.received, verdict.twice, verdict.missing) == (10, 10, 2, 0)
    assert verdict.holds


def test_a_message_that_nobody_accounts_for_is_missing() -> None:
    account = heard(1, 2, 3, 5)
    assert account.verdict().missing == 1, "without a ledger"
    ledger(account, acknowledged=10)
    verdict = account.verdict()
    assert (verdict.missing, verdict.holds) == (6, False)
    assert "[4, 6, 7, 8, 9] of 10" in verdict.examples[0]


def test_what_the_ledger_says_is_accounted_for_and_no_more() -> None:
    account = heard(1, 2, 3, 5)
    ledger(
        account, acknowledged=4, dropped=2, dropped_ranges=[{"first": 6, "last": 7, "reason": "outbox_full"}],
        rejected=1, lost_at_crash=2, waiting=1,
    )  # fmt: skip
    verdict = account.verdict()
    assert verdict.accounted == {"dropped": 2, "rejected": 1, "lost with a crash": 2}
    assert (verdict.missing, verdict.waiting, verdict.holds) == (0, 1, False)


def test_an_id_stands_for_one_message() -> None:
    account = heard(1, 2)
    kept(account, 2, n=99)
    verdict = account.verdict()
    assert (verdict.conflicts, verdict.holds) == (1, False)
    assert "dev-1-1-door-detections-2 stood for two messages" in verdict.examples


def test_of_an_epoch_that_nobody_knows_only_gaps_count() -> None:
    account = heard(1, 2, 3)
    ledger(account, last=None, lost_at_crash=None)
    verdict = account.verdict()
    assert (verdict.unknown, verdict.missing, verdict.holds) == (1, 0, True)
    kept(account, 5)
    assert account.verdict().missing == 1


def test_a_ledger_that_does_not_balance_and_a_message_that_is_none_are_seen() -> None:
    account = heard(*range(1, 11))
    ledger(account, acknowledged=9)
    account.hear("vedette/dev-1/door/detections", b'{"seq":1}')
    verdict = account.verdict()
    assert (verdict.unbalanced, verdict.malformed, verdict.holds) == (1, 1, False)


def test_what_is_retained_or_anothers_says_nothing() -> None:
    account = Account(TOPICS)
    message = msgspec.json.encode({"id": "x", "epoch": 1, "seq": 9, "mono_us": 1})
    account.hear("vedette/dev-1/door/detections", message, retained=True)
    account.hear("vedette/dev-2/door/detections", message)
    assert account.verdict().given == 0


# the stage


def test_toml_is_written_as_it_is_read() -> None:
    document = {
        "text": 'a "b" \\ \n \x7f é \U0001f600', "number": -3, "real": 1e300, "infinite": float("-inf"), "yes": True,
        "list": [1, [2.5], {"a": "b"}], "a key.with dots": {"": {"deep": []}},
    }  # fmt: skip
    assert tomllib.loads(write_toml(document)) == document


@pytest.mark.parametrize(
    ("url", "kind", "moved"),
    [
        ("http://user:pw@127.0.0.1:8080/video?x=1", "proxy", "http://user:pw@127.0.0.1:{port}/video?x=1"),
        ("rtsp://127.0.0.1/stream", "proxy", "rtsp://127.0.0.1:{port}/stream"),
        ("mqtt://127.0.0.1/some/topic", "proxy", "mqtt://127.0.0.1:{port}/some/topic"),
        ("{file}", "file", "{place}"),
        ("file://{file}", "file", "file://{place}"),
        ("csv://{file}?columns=a,b", "file", "csv://{place}?columns=a,b"),
        ("{folder}", "folder", "{place}"),
        ("exec:/usr/bin/thing", "program", None),
        ("v4l2:///dev/video0", "none", None),
        ("udp://127.0.0.1:9000", "none", None),
    ],
)
def test_a_source_is_put_where_it_can_be_taken_away(tmp_path: Path, url: str, kind: str, moved: str | None) -> None:
    original, pictures, place = tmp_path / "clip.mp4", tmp_path / "pictures", tmp_path / "place"
    original.write_bytes(b"x" * 1000)
    write_pictures(pictures, 1)
    place.mkdir()
    url = url.format(file=original, folder=pictures)
    with ExitStack() as opened:
        staged = stage_source("door", SourceConfig(url=url), {"url": url, "fps": 5}, place, opened)
        assert staged.kind == kind
        assert staged.table["fps"] == 5
        port = staged.proxy.port if staged.proxy else 0
        assert staged.table["url"] == (moved.format(port=port, place=staged.place) if moved else url)
        assert bool(staged.why) == (kind == "none")
        assert staged.table.get("loop", False) == (kind in ("file", "folder"))
        if kind == "file":
            assert staged.place is not None
            tear(staged, 0.5)
            assert staged.place.stat().st_size == 500
            mend(staged)
            assert staged.place.read_bytes() == original.read_bytes()
        if kind == "folder":
            assert staged.place is not None
            tear(staged, 0.5)
            assert not staged.place.exists()
            mend(staged)
            assert list(staged.place.iterdir())


def test_rtsp_over_udp_goes_past_a_proxy(tmp_path: Path) -> None:
    source = SourceConfig(url="rtsp://127.0.0.1/x", rtsp_transport="udp")
    with ExitStack() as opened:
        assert "UDP" in stage_source("door", source, {"url": source.url}, tmp_path, opened).why


@needs_mosquitto
def test_pipelines_that_share_a_camera_share_it_on_the_stage(tmp_path: Path) -> None:
    config = tmp_path / "vedette.toml"
    table = '[pipeline.{}]\nmodel = "vtest-person"\nsource = "http://127.0.0.1:9/{}"\n'
    config.write_text(
        f'device = "dev-1"\nstate_dir = "{tmp_path}/state"\n[mqtt]\nhost = "{LOOPBACK}"\n'
        + "".join(table.format(*one) for one in ("ax", "bx", "cy"))
    )
    with set_stage(config, own_broker=True) as stage:
        staged = load_config(stage.config).pipelines
        assert stage.pipelines == ("a", "b", "c")
        assert [source.pipeline for source in stage.sources] == ["a", "c"]
        assert staged["a"].source_config == staged["b"].source_config != staged["c"].source_config


# the whole


def chaos(config: Path, *arguments: object, mutation: str = "", timeout_s: float = 170.0) -> tuple[int, dict[str, Any]]:
    """``vedette chaos --json``; ``mutation``: Python that runs first in it and in the agent. Exit code and document."""
    folder = config.parent / "mutation"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import vedette.chaos.run as run\nrun.SETTLE_S = 1.0\n{mutation}\n")
    done = subprocess.run(
        [sys.executable, "-m", "vedette", "chaos", "-c", str(config), "--seed", "1", "--json", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=timeout_s, env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An agent of one pipeline that has a message for the broker twenty times a second."""
    pictures = write_pictures(tmp_path / "pictures", 5)
    return agent_config(tmp_path, 1, f'url = "{pictures}"\nfps = 20', pipeline="threshold = 0.0")


@pytest.mark.slow
def test_an_agent_stands_what_is_done_to_it(config: Path) -> None:
    wanted = ("broker away", "broker swallows", "agent killed", "disk full", "source", "model")
    code, said = chaos(config, "--seconds", 25, *(word for name in wanted for word in ("--only", name)))
    assert (code, said["failures"]) == (0, [])
    assert said["passed"] and said["messages"]["missing"] == 0
    assert said["messages"]["received"] > 100
    assert {one["name"] for one in said["faults"]} <= {*wanted, "source door torn", "model torn"}
    assert {"engine"} <= {one["name"] for one in said["not_tried"]}
    assert all(one["times"] == len(one["back_s"]) > 0 for one in said["faults"])


@pytest.mark.slow
def test_an_agents_wall_clock_is_set_and_nothing_is_lost(config: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: clock jumps stay untested")
    code, said = chaos(config, "--seconds", 12, "--only", "clock")
    assert (code, said["failures"]) == (0, [])
    [jumps] = said["faults"]
    assert jumps["name"] == "clock jumps" and jumps["times"] > 0
    assert said["messages"]["missing"] == 0 and said["messages"]["received"] > 50
    assert "clock jumps" not in {one["name"] for one in said["not_tried"]}


def test_a_clock_that_cannot_be_set_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set_clock(tmp_path) == "no C compiler"
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'cc: no such header' >&2; exit 1\n")
    compiler.chmod(0o755)
    assert set_clock(tmp_path) == "cc cannot compile set_clock.c: cc: no such header"
    monkeypatch.setattr("vedette.chaos.clock._PLACES", (str(tmp_path),))
    assert wall_clock(tmp_path) == (
        "cc cannot compile set_clock.c: cc: no such header; no libfaketime, and the machine's own clock is not ours to set"
    )


MUTATIONS = {
    "what was in flight is forgotten": (
        "broker swallows", "messages still wait in the agent: epoch 1",
        "from vedette.outbox.core import Core\nCore.release = lambda self: self._in_flight.clear()",
    ),
    "an epoch is used twice": (
        "agent killed", "ids stood for two messages",
        "import vedette.outbox.epoch as epoch\nepoch._next = lambda *_: 1",
    ),
    "a source that was lost is left alone": (
        "source", "nothing more was heard",
        "import vedette.sources.supervise as supervise\nsupervise.BACKOFF_MIN_S = 1000.0\nrun.RECOVERY_S = 5.0",
    ),
    "a torn model is passed over in silence": (
        "model", "not a word of a model that was cut to",
        "from vedette.service.reload import Reload\nReload.begin = lambda self: {}",
    ),
    "connections leave their descriptors behind": (
        "broker closes", "more and more open_files",
        "import os\nfrom vedette.mqtt.connection import Connection\nclose = Connection.close\n"
        "def leave(self, **kw):\n    close(self, **kw)\n    [os.dup(2) for _ in range(5)]\n"
        "Connection.close = leave\nrun.LIFE_S = 1.0",
    ),
    "a full disk ends the agent": (
        "disk", "the agent ended by itself",
        "from vedette.outbox.disk import DiskOutbox\nimport os\n"
        "DiskOutbox._guarded = lambda self, work: work() if self._core.depth().messages < 20 else os._exit(3)",
    ),
}  # fmt: skip
"""By what is taken out: the fault that shows it, what is said then, and how it is taken out."""


@pytest.mark.slow
@pytest.mark.parametrize("taken_out", MUTATIONS)
def test_without_its_defence_a_fault_is_seen(config: Path, taken_out: str) -> None:
    fault, says, mutation = MUTATIONS[taken_out]
    if "epoch" in taken_out:  # on disk the epoch is counted twice
        config.write_text(config.read_text() + '[outbox]\ndurable = "memory"\n')
    code, said = chaos(config, "--seconds", 6, "--only", fault, mutation=mutation)
    assert code == 1 and not said["passed"]
    assert any(says in failure for failure in said["failures"]), said["failures"]


def bench(*arguments: object, timeout_s: float, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "bench/chaos.py"), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=timeout_s, env={**os.environ, **environment},
    )  # fmt: skip


TOGETHER = (
    ("together",), ("engine", "jumps", "away"), ("kills-always", "kills-spill", "restarts"),
    ("resets", "silences", "loss"),
)  # fmt: skip
"""What of the suite is run side by side: as long as the first takes."""


@pytest.mark.slow
@needs_mosquitto
@pytest.mark.timeout(420)
def test_the_short_form_of_the_whole_suite_holds() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "import chaos; print(*chaos.PARTS)"],
        cwd=ROOT / "bench", capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert sorted(listed) == sorted(part for group in TOGETHER for part in group)

    def run(group: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return bench("--short", 40, *(word for part in group for word in ("--only", part)), timeout_s=400)

    with ThreadPoolExecutor(len(TOGETHER)) as pool:  # they wait most of the time
        ended = list(pool.map(run, TOGETHER))
    for done in ended:
        assert done.returncode == 0, done.stdout + done.stderr
    assert sum(done.stdout.count(": holds") for done in ended) > 20


@pytest.mark.slow
@needs_mosquitto
@pytest.mark.parametrize(
    ("part", "mutation", "says"),
    [
        (
            "kills-always",
            "from vedette.outbox.disk import DiskOutbox\nDiskOutbox._must_wait = lambda self, item: False\n"
            "import vedette.outbox.disk as disk\ndisk.TICK_S = 5.0",
            "accepted messages missing at the subscriber",
        ),
        (
            "resets",
            "from vedette.outbox.core import Core\nCore.release = lambda self: self._in_flight.clear()",
            "messages missing of",
        ),
    ],
    ids=["append that does not wait for the disk", "what was in flight is forgotten"],
)
def test_the_suite_sees_what_is_taken_out(tmp_path: Path, part: str, mutation: str, says: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(mutation)
    done = bench("--short", 60, "--only", part, timeout_s=170, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert any(says in line and "DOES NOT HOLD" in line for line in done.stdout.splitlines()), done.stdout


def test_a_fault_that_there_is_none_of_is_the_users_mistake(config: Path) -> None:
    if mosquitto_path() is None:
        pytest.importorskip("iotcore")
    config.write_text(f"# caf\u00e9\n{config.read_text()}", "utf-8")
    small = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # ASCII
    done = run_cli("chaos", "-c", config, "--only", "earthquake", **small)
    assert done.returncode == 2
    assert "no such fault here: expected one of broker closes," in done.stderr
