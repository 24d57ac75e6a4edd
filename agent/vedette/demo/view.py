"""What the demo draws in a terminal: labels, boxes, frames a second, latency a stage."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vedette.flow.stats import STAGES, Latency
from vedette.mqtt.results import DetectionsMessage

from .listener import Heard

MAP_COLUMNS = (24, 64)  # least and most of the little map of boxes
TABLE_COLUMNS = 56  # what stands beside it
LATENCY_NOTE = (
    "sent: from the frame, or a window's last reading, in memory to the MQTT client;\n"
    "acknowledged: from the same to the broker's word that it has the message"
)


def live(
    heard: Heard, newest: DetectionsMessage | None, broker: str, seconds_left: float, width: int
) -> RenderableType:
    """One moment of the camera's demo, ``width`` columns wide."""
    if newest is None:
        return waiting(heard, broker, seconds_left)
    latency = newest.latency_ms
    head = Text.assemble(
        ("  ", ""), (f"{heard.rate(time.monotonic()):.1f} fps", "bold green"),
        f"   {heard.received} messages   frame {newest.frame.seq} {newest.frame.width}x{newest.frame.height}",
        f"   infer {latency.infer:.1f} ms, total {latency.total:.1f} ms",
    )  # fmt: skip
    columns = Table.grid(padding=(0, 2))
    columns.add_row(
        box_map(newest, width - TABLE_COLUMNS), Group(objects_table(newest), Text(), latency_table(heard.stages))
    )
    return Panel(Group(head, Text(), columns), title=title(broker, seconds_left))


def title(broker: str, seconds_left: float) -> str:
    """What stands above the view."""
    return f"vedette demo: what the broker ({escape(broker)}) delivers, {max(0.0, seconds_left):.0f} s left"


def waiting(heard: Heard, broker: str, seconds_left: float) -> Panel:
    """As long as nothing has come."""
    return Panel(Text(f"{waiting_line(heard)} ..."), title=title(broker, seconds_left))


def waiting_line(heard: Heard) -> str:
    """The same as one line; with the agent's reason, where it has one."""
    silence = heard.silence
    return "waiting for the first message" + (f": source {silence.outcome}: {silence.why}" if silence else "")


def box_map(message: DetectionsMessage, columns: int) -> Panel:
    """The frame as a small field of characters with the boxes in it."""
    width = min(max(columns, MAP_COLUMNS[0]), MAP_COLUMNS[1])
    height = max(6, round(width * message.frame.height / message.frame.width * 0.4))  # a character is tall and thin
    cells = [[" "] * width for _ in range(height)]
    for number, found in enumerate(message.objects, start=1):
        x0, y0, x1, y1 = found.box
        left, right = int(x0 * (width - 1)), int(x1 * (width - 1))
        top, bottom = int(y0 * (height - 1)), int(y1 * (height - 1))
        for x in range(left, right + 1):
            cells[top][x] = cells[bottom][x] = "─"
        for y in range(top, bottom + 1):
            cells[y][left] = cells[y][right] = "│"
        cells[top][left], cells[top][right] = "┌", "┐"
        cells[bottom][left], cells[bottom][right] = "└", "┘"
        mark = str(number)
        for offset, character in enumerate(mark):
            if left + 1 + offset < width:
                cells[top][left + 1 + offset] = character
    return Panel(Text("\n".join("".join(row) for row in cells)), padding=0, width=width + 2)


def objects_table(message: DetectionsMessage, most: int = 8) -> Table:
    """Labels, scores and boxes."""
    table = Table(box=None, pad_edge=False)
    for column in ("#", "label", "score", "box"):
        table.add_column(column)
    for number, found in enumerate(message.objects[:most], start=1):
        box = " ".join(f"{v:.2f}" for v in found.box)
        table.add_row(str(number), escape(found.label), f"{found.score:.2f}", box)
    if len(message.objects) > most:
        table.add_row("", f"and {len(message.objects) - most} more", "", "")
    return table


def latency_table(stages: dict[str, Latency]) -> Table:
    """p50 and p99 a stage."""
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "p50 ms", "p99 ms", "max ms"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in STAGES:
        latency = stages.get(stage)
        if latency is not None and latency.count:
            table.add_row(stage, f"{latency.p50:.2f}", f"{latency.p99:.2f}", f"{latency.max:.2f}")
    return table


def plain_line(heard: Heard, newest: DetectionsMessage | None) -> str:
    """The same moment as one line, for where there is no terminal."""
    if newest is None:
        return waiting_line(heard)
    labels = ", ".join(f"{found.label} {found.score:.2f}" for found in newest.objects) or "nothing"
    return (
        f"{heard.rate(time.monotonic()):5.1f} fps  {heard.received:4d} messages  "
        f"infer {newest.latency_ms.infer:5.1f} ms  {labels}"
    )
