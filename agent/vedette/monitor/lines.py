"""One message as one line for people.

Read without the schemas: an older or newer agent's message shows what this version knows of it. What is not as docs/WIRE.md
says is shown as it is, cut.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from rich.text import Text

from vedette.contract.errors import one_line
from vedette.service.health import throttled_words

from .place import Place

MAX_THINGS: Final = 6  # of one message that a line names
MAX_TEXT: Final = 240  # characters of one name, reason or stranger's payload

STATES: Final = {"ready": "green", "init": "cyan", "alert": "bold yellow", "stopped": "magenta", "lost": "bold red"}
"""How a device's state is coloured."""
_NAMES: Final = {"detections": "", "events": "bold cyan", "state": "cyan", "status": "bold", "reply": "magenta"}

Part = tuple[str, str]
"""Text and style."""


def line(place: Place, payload: bytes, *, retained: bool, marks: Iterable[Part] = ()) -> Text:
    """``marks``: what else is to be said of it, before the rest."""
    when = "" if retained else now().isoformat()
    unsure = False
    parts: list[Part]
    if not payload:
        parts = [("cleared", "dim")]
    elif place.name == "snapshot":
        parts = [(f"picture of {len(payload) / 1e3:.0f} kB", "")]
    else:
        try:
            body = msgspec.json.decode(payload)
            # a status says since when its state is so, which may be long ago
            when = body.get("ts") or (body.get("since") if retained else when) or ""
            unsure = body.get("clock") == "unsynced"
            clock_text(when)
            parts = _WRITERS.get(place.name, _unknown)(body, place)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError):
            when = ""
            parts = [("not as documented: ", "red"), (printable(payload.decode("utf-8", "replace")), "dim")]
    text = Text(no_wrap=True)
    text.append(f"{clock_text(when, unsure=unsure):<13}  ", "dim")
    text.append(where_text(place))
    text.stylize(_NAMES.get(place.name, "dim"), len(text) - 12)
    text.append("  ")
    for words, style in (*marks, *parts, *((("  retained", "dim"),) if retained else ())):
        text.append(words, style)
    return text


def printable(text: object, most: int = MAX_TEXT) -> str:
    """Without what a terminal would obey, and no longer than ``most`` characters."""
    shown = str(text)
    shown = f"{shown[:most]}..." if len(shown) > most else shown
    return one_line(shown)


def clock_text(stamp: str, *, unsure: bool = False) -> str:
    """A message's time by this machine's clock and zone, with the date where it is not today's; at most 13 characters."""
    if not stamp:
        return ""
    moment = datetime.fromisoformat(stamp).astimezone()
    today = moment.date() == now().date()
    text = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}" if today else f"{moment:%m-%d %H:%M} "
    return f"{text}?" if unsure else text


def where_text(place: Place) -> str:
    """Device, pipeline and topic, in columns."""
    return f"{printable(str(place)):<18}  {printable(place.name):<10}"


def now() -> datetime:
    """By this machine's clock, with its zone."""
    return datetime.now().astimezone()


def size(count: float | None) -> str:
    """Bytes for people."""
    if count is None:
        return "?"
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def counts(values: Mapping[str, Any], most: int = MAX_THINGS) -> str:
    """``stale 12, outbox_full 3``"""
    named = [f"{printable(name, 40)} {number(value)}" for name, value in list(values.items())[:most]]
    return ", ".join(named) + (f" and {len(values) - most} more" if len(values) > most else "")


def number(value: float | None) -> str:
    """Four digits; null is a number that is none."""
    return "none" if value is None else f"{value:.4g}"


def _things(items: list[Any], text: Callable[[Any], str]) -> list[Part]:
    if not items:
        return [("nothing", "dim")]
    more = f" and {len(items) - MAX_THINGS} more" if len(items) > MAX_THINGS else ""
    return [(", ".join(text(item) for item in items[:MAX_THINGS]) + more, "")]


def _scored(item: Any) -> str:
    track = f" #{item['track']:d}" if item.get("track") is not None else ""
    return f"{printable(item['label'], 40)}{track} {item['score']:.2f}"


def _detections(body: Any, place: Place) -> list[Part]:
    parts: list[Part]
    if "objects" in body:
        parts = _things(body["objects"], _scored)
    elif "classes" in body:
        parts = _things(body["classes"], _scored)
    elif "poses" in body:
        parts = _things(body["poses"], lambda pose: f"pose {pose['score']:.2f}")
    elif "segments" in body:
        parts = _things(body["segments"], lambda item: f"{printable(item['label'], 40)} {item['share']:.0%}")
    elif "anomaly" in body:
        parts = _anomaly(body["anomaly"], body["anomaly"]["anomalous"])
    else:
        parts = [(counts(body["values"]), "")]
    latency = body["latency_ms"]
    return [
        (f"#{body['seq']:d}  ", "dim"), *parts,
        (f"  infer {latency['infer']:.1f}, total {latency['total']:.1f} ms", "dim"),
    ]  # fmt: skip


def _anomaly(said: Any, active: bool) -> list[Part]:
    far = sorted(said.get("channels", {}).items(), key=lambda item: -(item[1] if item[1] is not None else float("inf")))
    channels = f" ({counts(dict(far[:3]))})" if far else ""
    words = "anomalous" if active else "normal"
    return [
        (words, "bold red" if active else "green"),
        (f" {number(said['score'])}, threshold {number(said['threshold'])}{channels}", ""),
    ]


def _events(body: Any, place: Place) -> list[Part]:
    kind = printable(body["kind"], 40).replace("_", " ")
    words = []
    if "previous" in body:
        words.append(f"{_or_none(body['previous'])} -> {_or_none(body.get('label'))}")
    elif body.get("label") is not None:
        words.append(printable(body["label"], 40) + (f" #{body['track']:d}" if "track" in body else ""))
    words += [printable(body[key], 64) for key in ("zone", "wire", "direction") if key in body]
    words += [f"{key} {body[key]:.3g}" for key in ("score", "peak") if key in body]
    words += [
        f"{name} {body[key]:.1f} s" for name, key in (("stayed", "dwell_s"), ("lasted", "duration_s")) if key in body
    ]
    if body.get("ago_s", 0.0) >= 0.1:
        words.append(f"{body['ago_s']:.1f} s ago")
    loud = kind in ("anomaly began",)
    return [(f"#{body['seq']:d}  ", "dim"), (kind, "bold red" if loud else "bold"), ("  " + ", ".join(words), "")]


def _or_none(label: str | None) -> str:
    return "none" if label is None else printable(label, 40)


def _state(body: Any, place: Place) -> list[Part]:
    if "counts" in body:
        zones = [f"{printable(name, 64)}: {counts(there)}" for name, there in body.get("zones", {}).items()]
        return [("; ".join([counts(body["counts"]) or "nothing", *zones[:MAX_THINGS]]), "")]
    if "class" in body:
        said = body["class"]
        score = f" {said['score']:.2f}" if said.get("score") is not None else ""
        return [(f"{_or_none(said['label'])}{score}", "bold"), (f"  since {clock_text(said['since'])}", "dim")]
    if "anomaly" in body:
        said = body["anomaly"]
        return [*_anomaly(said, said["active"]), (f"  since {clock_text(said['since'])}", "dim")]
    return [(counts(body["values"]), "")]


def _status(body: Any, place: Place) -> list[Part]:
    parts: list[Part] = [
        (printable(body["state"]), STATES.get(body["state"], "")),
        (f"  epoch {body['epoch']:d}", "dim"),
    ]
    if body.get("why"):
        parts.append((f"  {printable(body['why'])}", "yellow"))
    if body.get("degraded"):
        parts.append((f"  degraded: {', '.join(printable(name, 64) for name in body['degraded'])}", "yellow"))
    names = ", ".join(printable(name, 64) for name in body["pipelines"][:MAX_THINGS])
    return [*parts, (f"  vedette {printable(body['agent'], 32)}: {names}", "dim")]


def _stats(body: Any, place: Place) -> list[Part]:
    share, cap = (body.get("load", {}).get(name) for name in ("share", "cap_fps"))
    total = body["latency_ms"]["total"]
    parts: list[Part] = [
        (f"in {body['fps_in']:.1f}/s, out {body['fps_out']:.1f}/s", ""),
        (f", share {share:.0%}" if share is not None else "", "yellow" if share is not None and share < 0.9 else ""),
        (f", slowed to {cap:.1f}/s" if cap is not None else "", "yellow"),
        (f", total p50 {total['p50']:.1f}, p99 {total['p99']:.1f} ms", ""),
    ]
    waiting = body["outbox"]["messages"]
    if waiting:
        parts.append((f", {waiting:d} waiting", ""))
    if body["dropped"]:
        parts.append((f"; dropped {counts(body['dropped'])}", "yellow"))
    if body["source"]["outcome"] is not None:
        parts.append(
            (f"; source {printable(body['source']['outcome'], 40)}: {printable(body['source']['why'])}", "red")
        )
    return parts


def _model(body: Any, place: Place) -> list[Part]:
    engine = body["engine"]
    return [
        (f"{printable(body['name'], 64)} {printable(body['version'], 32)}", "bold"),
        (f" on {printable(engine['runtime'], 40)}, {printable(engine['delegate'], 40)}", ""),
        (f", threads {body['threads']:d}, self-test {printable(body['self_test'], 40)}", ""),
    ]


def _settings(body: Any, place: Place) -> list[Part]:
    on = body["enabled"] is True
    own = f", {counts(body['thresholds'])}" if body["thresholds"] else ""
    return [("on" if on else "off", "" if on else "bold yellow"), (f", threshold {number(body['threshold'])}{own}", "")]


def _ledger(body: Any, place: Place) -> list[Part]:
    rows = body["streams"]
    sums = {
        name: sum(row[name] or 0 for row in rows)
        for name in ("acknowledged", "waiting", "rejected", "dropped", "lost_at_crash")
    }
    bad = any(sums[name] for name in ("rejected", "dropped", "lost_at_crash"))
    said = counts({name: count for name, count in sums.items() if count}) or "nothing yet"
    return [(f"{len(rows)} streams: {said}", "yellow" if bad else "")]


def _health(body: Any, place: Place) -> list[Part]:
    warm = body["temperature_c"]
    bits = body["throttled"]
    load = body["load_1m"]
    said = throttled_words(bits) if bits else []
    return [
        (f"{warm:.1f} °C, " if warm is not None else "", "bold red" if warm is not None and warm >= 80 else ""),
        (f"{', '.join(said)}, " if said else "", "bold red"),
        (f"clock {printable(body['clock'], 16)}, ", "" if body["clock"] == "synced" else "yellow"),
        (
            f"memory {size(body['memory_available_bytes'])} free, agent {size(body['agent_pss_bytes'])}, "
            f"disk {size(body['disk_free_bytes'])} free, load {'?' if load is None else f'{load:.2f}'}",
            "",
        ),
    ]


def _command(body: Any, place: Place) -> list[Part]:
    rest = {key: value for key, value in body.items() if key not in ("id", "expires", "v")}
    return [(printable(place.detail, 64), "bold"), (f" {printable(json.dumps(rest))}" if rest else "", "")]


def _reply(body: Any, place: Place) -> list[Part]:
    name = printable(body["command"], 64)
    if body["ok"] is True:
        return [(f"{name} done", "green"), (f" {printable(json.dumps(body['result']))}" if body["result"] else "", "")]
    return [(f"{name} {printable(body['error']['code'], 40)}: {printable(body['error']['message'])}", "yellow")]


def _unknown(body: Any, place: Place) -> list[Part]:
    return [(printable(json.dumps(body, ensure_ascii=False)), "dim")]


_WRITERS: Final[dict[str, Callable[[Any, Place], list[Part]]]] = {
    "detections": _detections,
    "events": _events,
    "state": _state,
    "status": _status,
    "stats": _stats,
    "model": _model,
    "settings": _settings,
    "ledger": _ledger,
    "health": _health,
    "cmd": _command,
    "reply": _reply,
}
