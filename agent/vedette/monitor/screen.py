"""What ``vedette top`` shows: lines of text of a given width, and of a given height where there is a screen."""

from __future__ import annotations

import time
from typing import Final

from rich.text import Text

from vedette.flow.stats import STAGES, Latency
from vedette.service.health import THROTTLED_NOW

from .bars import BLOCKS, bars
from .fleet import DeviceSeen, Fleet, PipelineSeen
from .lines import STATES, now, printable, size

LABEL: Final = 10  # columns before the stages
MAX_PROBLEMS: Final = 8
MANY_WAITING: Final = 100  # messages in an outbox, from which on it is told from a hiccup
SHOWN: Final = tuple(stage for stage in STAGES if stage != "sent")  # eighty columns have room for no more
_SHORT: Final = {"preprocess": "preproc", "acknowledged": "acknowl"}


def lines(fleet: Fleet, title: str, *, width: int, height: int | None, blocks: str = BLOCKS) -> list[Text]:
    """One moment. ``height``: rows there are; None where nothing need be left out. Where the stages of all pipelines do not
    fit, each pipeline has a row and no more."""
    then = time.monotonic()
    with fleet.lock:
        devices = sorted(fleet.devices.items())
        count = sum(len(device.pipelines) for _, device in devices)
        said = f"  {now():%H:%M:%S}  {_some(len(devices), 'device')}, {_some(count, 'pipeline')}"
        said += "  q quits" if height is not None else ""
        head = Text(f"vedette top  {title}", "bold")
        head.truncate(max(0, width - len(said)), overflow="ellipsis")
        head.append(said, "not bold")
        problems = _problems(fleet.problems(then), MAX_PROBLEMS if height is not None else None)
        body = _detailed(devices, then, width, blocks)
        if height is not None and len(body) + len(problems) + 2 > height:
            body = _compact(devices, then, width, blocks)
    if not devices:
        body = [Text("nobody has said anything yet", "dim")]
    room = None if height is None else max(1, height - len(problems) - 2)
    if room is not None and len(body) > room:
        body = [*body[: room - 1], Text(f"... and {len(body) - room + 1} more rows: a higher window has them", "dim")]
    found = [head, Text(), *body, *problems][:height]
    for line in found:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return found


def _problems(found: list[str], most: int | None) -> list[Text]:
    if not found:
        return [Text(), Text("no problems", "green")]
    shown = found if most is None or len(found) <= most else found[: most - 1]
    more = [Text(f"  and {len(found) - len(shown)} more", "dim")] if len(shown) < len(found) else []
    return [
        Text(),
        Text(_some(len(found), "problem") + ":", "bold yellow"),
        *(Text(f"  {t}", "yellow") for t in shown),
        *more,
    ]


def _detailed(devices: list[tuple[str, DeviceSeen]], now: float, width: int, blocks: str) -> list[Text]:
    cell = max((width - LABEL) // len(SHOWN), 8)
    header = Text(" " * LABEL + "".join(f"{_SHORT.get(stage, stage):<{cell}}" for stage in SHOWN), "dim")
    found = [header]
    for name, device in devices:
        found.append(_device(name, device))
        for pipeline_name, pipeline in sorted(device.pipelines.items()):
            found.append(_pipeline(pipeline_name, pipeline, device))
            stages = pipeline.stages(now)
            found += _stages(stages, cell, blocks) if any(latency.count for latency in stages.values()) else []
    return found


def _device(name: str, device: DeviceSeen) -> Text:
    text = Text(printable(name, 64), "bold")
    text.append("  ")
    text.append_text(_state(device))
    waiting = _outbox(device)
    if waiting is not None:
        text.append(f"  outbox {waiting}", "not bold" if waiting < MANY_WAITING else "not bold yellow")
    health = device.health
    if health is None:
        return text
    if health.temperature_c is not None:
        text.append(f"  {health.temperature_c:.1f}°C", "not bold")
    if health.throttled is not None:
        words = "ok" if not health.throttled else f"{health.throttled:#x}"
        bad = "bold red" if health.throttled & THROTTLED_NOW else "not bold yellow"
        text.append(f"  power {words}", "not bold" if not health.throttled else bad)
    text.append(f"  {health.clock}", "not bold" if health.clock == "synced" else "not bold yellow")
    text.append(f"  mem {_short(health.agent_pss_bytes)} free {_short(health.memory_available_bytes)}", "not bold")
    return text


def _short(count: int | None) -> str:
    """Bytes, in four characters or so."""
    return size(count).replace(" ", "").rstrip("B")


def _outbox(device: DeviceSeen) -> int | None:
    """Messages that wait, of all pipelines together, as the one heard last says."""
    heard = [pipeline for pipeline in device.pipelines.values() if pipeline.stats is not None]
    newest = max(heard, key=lambda pipeline: pipeline.heard_s, default=None)
    return newest.stats.outbox.messages if newest is not None and newest.stats is not None else None


def _state(device: DeviceSeen) -> Text:
    state = device.status.state if device.status is not None else "?"
    return Text(state, STATES.get(state, "dim"))


def _pipeline(name: str, pipeline: PipelineSeen, device: DeviceSeen) -> Text:
    text = Text(f"  {printable(name, 64)}", "" if not device.gone else "dim")
    if pipeline.settings is not None and not pipeline.settings.enabled:
        text.append("  off", "bold yellow")
    stats = pipeline.stats
    if stats is None:
        text.append("  no statistics yet", "dim")
        return text
    text.append(f"  in {stats.fps_in:.1f}/s  out {stats.fps_out:.1f}/s")
    if stats.load.share is not None:
        text.append(f"  share {stats.load.share:.0%}", "yellow" if stats.load.share < 0.9 else "")
    if stats.load.cap_fps is not None:
        text.append(f"  slowed to {stats.load.cap_fps:.1f}/s", "yellow")
    if stats.dropped:
        text.append("  dropped ")
        lately = pipeline.dropped_lately
        for number, (reason, count) in enumerate(sorted(stats.dropped.items(), key=lambda item: -item[1])):
            text.append(f"{', ' if number else ''}{printable(reason, 40)} {count}")
            if reason in lately:
                text.append(f" (+{lately[reason]})", "yellow")
    return text


def _stages(stages: dict[str, Latency], cell: int, blocks: str) -> list[Text]:
    numbers, drawn = Text(f"{'  p50/p99':<{LABEL}}", "dim"), Text(" " * LABEL)
    for stage in SHOWN:
        latency = stages.get(stage)
        known = latency is not None and latency.count
        numbers.append(f"{_quantiles(latency) if known and latency else '-':<{cell}}", "not dim")
        picture = bars(latency.histogram, cell - 1, blocks) if known and latency else ""
        drawn.append(f"{picture:<{cell}}", "cyan")
    numbers.rstrip()
    drawn.rstrip()
    return [numbers, drawn]


def _compact(devices: list[tuple[str, DeviceSeen]], now: float, width: int, blocks: str) -> list[Text]:
    names = [f"{name}/{pipeline}" for name, device in devices for pipeline in device.pipelines]
    column = min(max((len(name) for name in names), default=10), max(16, width - 58))
    found = [
        Text(
            f"{'':<{column}}  {'state':<7} {'in/s':>5} {'out/s':>5} {'share':>5}  {'infer ms':<9} {'total ms':<9} ",
            "dim",
        )
        + Text("dropped", "dim")
    ]
    for name, device in devices:
        if not device.pipelines:
            found.append(Text(f"{printable(name, column):<{column}}  ") + _state(device))
        for pipeline_name, pipeline in sorted(device.pipelines.items()):
            stats = pipeline.stats
            text = Text(f"{printable(f'{name}/{pipeline_name}', column):<{column}}  ")
            state = _state(device)
            text.append_text(state).append(" " * (8 - len(state)))
            if stats is not None:
                share = f"{stats.load.share:.0%}" if stats.load.share is not None else "-"
                stages = pipeline.stages(now)
                text.append(f"{stats.fps_in:>5.1f} {stats.fps_out:>5.1f} {share:>5}  ")
                text.append("".join(f"{_quantiles(stages[s]) if s in stages else '-':<10}" for s in ("infer", "total")))
                lately = sum(pipeline.dropped_lately.values())
                text.append(f"{sum(stats.dropped.values())}").append(f" (+{lately})" if lately else "", "yellow")
            found.append(text)
    return found


def _quantiles(latency: Latency) -> str:
    return f"{_ms(latency.p50)}/{_ms(latency.p99)}"


def _ms(value: float) -> str:
    """Milliseconds in at most four characters."""
    for digits, most in ((2, 9.995), (1, 99.95), (0, 999.5)):
        if value < most:
            return f"{value:.{digits}f}"
    return f"{value / 1000:.1f}s" if value < 9950 else f"{value / 1000:.0f}s"


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
