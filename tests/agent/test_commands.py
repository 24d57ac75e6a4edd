"""Commands: what is carried out, once, and what is refused with one clear reply."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real import ROOT

from vedette.clock import ClockState
from vedette.contract.errors import ConfigError
from vedette.mqtt import Incoming, Topics
from vedette.mqtt.commands import MAX_ANSWER, REMEMBERED, Answer, Commands, Handlers
from vedette.mqtt.requests import REQUESTS, Enable, Refusal, Threshold
from vedette.mqtt.schemas import schemas

NOW_S = 1_800_000_000.0
TOPICS = Topics("plant-7/vedette", "eye")
REPLY = jsonschema.Draft202012Validator(schemas()["reply.json"])


class Device:
    """Commands, and what became of them."""

    def __init__(self, handlers: Handlers | None = None, clock_state: ClockState = "synced") -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.alerts: list[str] = []
        self.done: list[Any] = []
        self.now_s = NOW_S
        self.commands = Commands(
            TOPICS, {"enable": self.done.append} if handlers is None else handlers, self._publish, self.alerts.append,
            clock_state=lambda: clock_state, wall_s=lambda: self.now_s,
        )  # fmt: skip

    def _publish(self, topic: str, payload: bytes) -> None:
        reply = json.loads(payload)
        REPLY.validate(reply)
        self.sent.append((topic, reply))

    def hear(self, name: str, payload: bytes | str | dict[str, Any], *, retained: bool = False) -> None:
        if isinstance(payload, dict):
            payload = json.dumps(payload)
        data = payload.encode() if isinstance(payload, str) else payload
        self.commands.receive(Incoming(f"plant-7/vedette/eye/cmd/{name}", data, retained))

    def ask(self, name: str, payload: dict[str, Any], **options: bool) -> dict[str, Any]:
        """The one reply to it."""
        before = len(self.sent)
        self.hear(name, payload, **options)
        assert len(self.sent) == before + 1
        topic, reply = self.sent[-1]
        assert topic == f"plant-7/vedette/eye/reply/{payload['id']}"
        assert reply["id"] == payload["id"]
        return reply


def enable(**changes: Any) -> dict[str, Any]:
    return {"id": "a-1", "expires": NOW_S + 10, "pipeline": "door", "on": False, **changes}


def test_a_command_is_carried_out_and_replied_to() -> None:
    device = Device()
    assert device.ask("enable", enable()) == {
        "v": 1, "id": "a-1", "command": "enable", "ok": True, "error": None, "result": {},
    }  # fmt: skip
    assert device.done == [Enable(id="a-1", expires=NOW_S + 10, pipeline="door", on=False)]
    assert device.commands.counts() == {"done": 1}
    assert device.alerts == []


def test_what_a_handler_returns_is_the_result_and_what_it_raises_is_the_error() -> None:
    def threshold(request: Threshold) -> dict[str, float]:
        if request.label == "cat":
            raise ConfigError("unknown label", found="'cat'", expected="one of person, dog")
        return {"threshold": request.value}

    device = Device({"threshold": threshold})
    told = {"id": "b", "expires": NOW_S + 1, "pipeline": "door", "value": 0.25}
    assert device.ask("threshold", told)["result"] == {"threshold": 0.25}
    refused = device.ask("threshold", {**told, "id": "c", "label": "cat"})
    assert refused["error"] == {"code": "refused", "message": "unknown label: expected one of person, dog, found 'cat'"}
    assert (refused["ok"], refused["result"]) == (False, None)
    assert device.commands.counts() == {"done": 1, "refused": 1}


def test_ping_is_answered_without_a_handler_and_others_are_not_supported() -> None:
    device = Device({})
    assert device.ask("ping", {"id": "p", "expires": NOW_S + 1})["result"] == {"clock": "synced"}
    for name in set(REQUESTS) - {"ping"}:
        extra = {"enable": {"pipeline": "a", "on": True}, "threshold": {"pipeline": "a", "value": 1}}
        told = {"id": name, "expires": NOW_S + 1, **extra.get(name, {"pipeline": "a"} if name == "snapshot" else {})}
        reply = device.ask(name, told)
        assert reply["error"]["code"] == "not_supported", reply


@pytest.mark.parametrize(
    ("name", "payload", "code", "says"),
    [
        ("enable", enable(expires=NOW_S - 3), "expired", "expired 3.0 s ago"),
        ("enable", enable(expires=NOW_S), "expired", "expired 0.0 s ago"),
        ("enable", enable(expires="2027-01-15T07:59:59Z"), "expired", "expired 1.0 s ago"),
        ("nonsense", enable(expires=NOW_S - 3), "expired", "expired"),
        ("enable", enable(expires=NOW_S - 3, extra=1), "expired", "expired"),
        ("enable", enable(expires=(NOW_S + 10) * 1000), "invalid", "expires"),
        ("enable", enable(expires=NOW_S + 86_401), "invalid", "expires: expected within 86400 s, found in 86401 s"),
        ("enable", enable(expires="2027-01-15T08:00:05"), "invalid", "expected 2026-11-22T15:04:05Z"),
        ("enable", enable(expires="soon"), "invalid", "found 'soon'"),
        ("enable", enable(expires=True), "invalid", "expires"),
        ("enable", enable(expires=None), "invalid", "expires"),
        ("enable", {"id": "a-1", "pipeline": "door", "on": True}, "invalid", "missing required field `expires`"),
        ("enable", enable(on=1), "invalid", "Expected `bool`, got `int` - at `$.on`; it takes id, expires, v"),
        ("enable", enable(pipeline="a b"), "invalid", "$.pipeline"),
        ("enable", enable(speed=1), "invalid", "unknown field `speed`"),
        ("enable", enable(v=2), "invalid", "$.v"),
        ("reboot", enable(), "unknown_command", "'reboot': expected one of ping, reload, enable, threshold, snapshot"),
        ("threshold", {"id": "a", "expires": NOW_S + 1, "pipeline": "a", "value": -0.1}, "invalid", "$.value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_once_and_not_carried_out(
    name: str, payload: dict[str, Any], code: str, says: str
) -> None:
    device = Device()
    reply = device.ask(name, payload)
    assert (reply["ok"], reply["error"]["code"], reply["result"]) == (False, code, None)
    assert says in reply["error"]["message"]
    assert "\n" not in reply["error"]["message"]
    assert device.commands.counts() == {code: 1}
    assert device.done == []


@pytest.mark.parametrize("expires", [NOW_S + 5, "2027-01-15T08:00:05Z", "2027-01-15T09:00:05.25+01:00"])
def test_an_expiry_is_seconds_or_rfc_3339(expires: float | str) -> None:
    assert Device().ask("enable", enable(expires=expires))["ok"]


def test_with_a_clock_that_nobody_disciplines_the_past_refuses_and_the_future_does_not() -> None:
    """A device without a real-time clock starts in the past: for it, every expiry is far ahead."""
    device = Device(clock_state="unsynced")
    assert device.ask("enable", enable(expires=NOW_S + 10 * 365 * 86_400))["ok"]
    late = device.ask("enable", enable(id="late", expires=NOW_S - 1))
    assert late["error"]["code"] == "expired"
    assert late["error"]["message"].endswith("this device's clock is not synchronised")


def test_a_retained_command_is_refused_and_the_same_one_sent_properly_is_not() -> None:
    device = Device()
    reply = device.ask("enable", enable(), retained=True)
    assert reply["error"]["code"] == "retained"
    assert device.done == []
    assert device.ask("enable", enable())["ok"]
    assert device.ask("enable", enable(), retained=True)["error"]["code"] == "retained"
    assert len(device.done) == 1


def test_a_command_that_comes_twice_is_carried_out_once_and_replied_to_twice() -> None:
    answers = iter(range(100))
    device = Device({"enable": lambda request: {"turn": next(answers)}})
    first = device.ask("enable", enable())
    device.now_s += 1000.0
    assert device.ask("enable", enable()) == first
    assert next(answers) == 1
    assert device.commands.counts() == {"done": 1, "repeated": 1}


def test_an_id_of_another_command_is_refused_and_what_it_was_is_kept() -> None:
    device = Device()
    first = device.ask("enable", enable())
    for name, payload in (("enable", enable(on=True)), ("reload", enable())):
        assert device.ask(name, payload)["error"]["code"] == "reused"
    assert device.ask("enable", enable()) == first
    assert len(device.done) == 1


def test_its_memory_is_bounded() -> None:
    device = Device()
    for number in range(REMEMBERED + 1):
        device.ask("enable", enable(id=f"n{number}"))
    assert len(device.commands._answered) == REMEMBERED
    device.ask("enable", enable(id="n1"))
    device.ask("enable", enable(id="n0"))
    assert device.commands.counts() == {"done": REMEMBERED + 2, "repeated": 1}


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"off", b"{", b"[]", b"null", b"\xff\xfe", b'{"expires": 1}', b'{"id": 7}', b'{"id": ""}',
        b'{"id": "a/b"}', b'{"id": "#"}', b'{"id": "\\n"}', b'{"id": "a\\n"}', json.dumps({"id": "x" * 65}).encode(),
        b"[" * 10_000, b'{"id": "a"' + b" " * 9 + b', "b": ' + b"[" * 10_000,
    ],
)  # fmt: skip
def test_without_an_id_there_is_no_reply_but_a_count_and_an_alert(payload: bytes) -> None:
    device = Device()
    device.hear("enable", payload)
    assert device.sent == [] and device.done == []
    assert device.commands.counts() == {"no_id": 1}
    assert len(device.alerts) == 1 and "cannot be replied to" in device.alerts[0]


def test_a_fault_in_a_handler_and_an_answer_too_long_are_replied_to() -> None:
    def crash(request: Any) -> None:
        raise ZeroDivisionError("of ours")

    device = Device({"enable": crash, "reload": lambda request: {"x": "x" * MAX_ANSWER}})
    assert device.ask("enable", enable())["error"]["code"] == "fault"
    assert device.ask("reload", {"id": "r", "expires": NOW_S + 1})["error"]["code"] == "fault"
    assert device.commands.counts() == {"fault": 2}


def test_an_answer_that_comes_later_is_the_one_reply() -> None:
    work: list[Future[Answer]] = []

    def reload(request: Any) -> Future[Answer]:
        work.append(Future())
        return work[-1]

    device = Device({"reload": reload})
    told = {"id": "r", "expires": NOW_S + 1}
    device.hear("reload", told)
    device.hear("reload", told)
    assert (len(work), device.sent) == (1, []), "under way once, and nothing said yet"
    assert device.ask("enable", enable())["error"]["code"] == "not_supported", "the link does not wait"
    assert device.ask("reload", {**told, "v": 1})["error"]["code"] == "reused"
    thread = threading.Thread(target=work[0].set_result, args=({"changed": []},))
    thread.start()
    thread.join()
    assert device.sent[-1][1]["result"] == {"changed": []}
    assert device.ask("reload", told)["result"] == {"changed": []}, "remembered"
    for error, code in ((ConfigError("unknown key"), "refused"), (ZeroDivisionError("of ours"), "fault")):
        device.hear("reload", {**told, "id": code})
        work[-1].set_exception(error)
        assert device.sent[-1][1]["error"]["code"] == code
    assert device.commands.counts() == {
        "done": 1,
        "repeated": 2,
        "not_supported": 1,
        "reused": 1,
        "refused": 1,
        "fault": 1,
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(name=st.text(max_size=80).filter(lambda t: "/" not in t), fields=st.dictionaries(
    st.sampled_from(["expires", "pipeline", "on", "value", "label", "v"]), JSON, max_size=5))  # fmt: skip
def test_whatever_is_sent_there_is_one_reply_for_an_id(name: str, fields: dict[str, Any]) -> None:
    device = Device()
    reply = device.ask(name, {**fields, "id": "a"})
    assert reply["ok"] is False
    assert sum(device.commands.counts().values()) == 1


def test_the_schemas_of_commands_agree_with_what_is_taken() -> None:
    soon = datetime.fromtimestamp(NOW_S, UTC) + timedelta(seconds=5)
    told: dict[str, dict[str, Any]] = {
        "ping": {}, "reload": {}, "snapshot": {"pipeline": "a"}, "enable": {"pipeline": "a", "on": True},
        "threshold": {"pipeline": "a", "value": 0.5, "label": "person"},
    }  # fmt: skip
    answer: Callable[[Any], None] = lambda request: None  # noqa: E731
    device = Device({"ping": answer, "reload": answer, "snapshot": answer, "enable": answer, "threshold": answer})
    for name, fields in told.items():
        for expires in (NOW_S + 5, soon.isoformat()):
            payload = {"id": f"{name}-{len(device.sent)}", "expires": expires, **fields}
            jsonschema.validate(payload, schemas()[f"cmd-{name}.json"])
            assert device.ask(name, payload)["ok"]


def test_the_documented_examples_are_what_the_schemas_say() -> None:
    text = (ROOT / "docs" / "WIRE.md").read_text()
    section = text[text.index("## Commands") :]
    lines = [line for block in section.split("```json\n")[1:3] for line in block.split("```")[0].splitlines()]
    told, done, refused = map(json.loads, lines)
    jsonschema.validate(told, schemas()["cmd-enable.json"])
    REPLY.validate(done)
    REPLY.validate(refused)
    assert done["id"] == told["id"]
    for code in get_args(Refusal):
        assert f"`{code}`" in section
