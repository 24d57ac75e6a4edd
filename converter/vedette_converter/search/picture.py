"""The front as a picture: latency across, accuracy up, the flatbuffer's size as the circle's area. SVG, no library."""

from __future__ import annotations

import math
from html import escape
from typing import Final

from .search import Result

WIDTH: Final = 860
HEIGHT: Final = 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 210, 48, 64  # margins
_LARGEST: Final = 18.0  # radius of the largest circle


def svg(result: Result) -> str:
    """Every network that was tried, the front among them with names, the budget as a line."""
    before = result.original_timing.p50_ms
    others = [one for one in result.tried.done if one.choice not in {found.choice for found in result.front}]
    dots = [(one.point.ratio * before, -one.point.drop, one.point.bytes, "") for one in others]
    named = [(one.point.ratio * before, -one.point.drop, one.point.bytes, one.choice.words) for one in result.front]
    original = (before, 0.0, result.original.bytes, "float32 original")
    everything = [*dots, *named, original]
    across = _Axis.over([x for x, *_ in everything], _LEFT, WIDTH - _RIGHT)
    up = _Axis.over([y for _, y, *_ in everything] + [-result.budget], HEIGHT - _BOTTOM, _TOP)
    largest = max(size for _, _, size, _ in everything)
    chosen = result.chosen.choice.words if result.chosen is not None else None

    def circle(x: float, y: float, size: int, kind: str) -> str:
        radius = max(2.5, _LARGEST * math.sqrt(size / largest))
        return f'<circle class="{kind}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="{radius:.1f}"/>'

    marks = [circle(x, y, size, "tried") for x, y, size, _ in dots]
    if named:
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, *_ in sorted(named))
        marks.append(f'<polyline class="front" points="{path}"/>')
    marks += [circle(x, y, size, "chosen" if name == chosen else "best") for x, y, size, name in named]
    marks.append(circle(*original[:3], "original"))
    marks += _names([*named, original], across, up)
    budget = up(-result.budget)
    title = f"{result.name}: {result.tried.finished} networks tried, circles by size of the flatbuffer"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        "<style>.tried{fill:#9aa5b1;fill-opacity:.35}.best{fill:#2166ac;fill-opacity:.75}.chosen{fill:#1a9850}"
        ".original{fill:none;stroke:#333;stroke-width:1.5}.front{fill:none;stroke:#2166ac;stroke-dasharray:4 3}"
        ".grid{stroke:#ddd}.budget{stroke:#d73027;stroke-dasharray:6 4}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
        *(f'<line class="grid" x1="{across(v):.1f}" y1="{_TOP}" x2="{across(v):.1f}" y2="{HEIGHT - _BOTTOM}"/>'
          f'<text x="{across(v):.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{v:g}</text>' for v in across.ticks),
        *(f'<line class="grid" x1="{_LEFT}" y1="{up(v):.1f}" x2="{WIDTH - _RIGHT}" y2="{up(v):.1f}"/>'
          f'<text x="{_LEFT - 8}" y="{up(v) + 4:.1f}" text-anchor="end">{v:+g}</text>' for v in up.ticks),
        f'<line class="budget" x1="{_LEFT}" y1="{budget:.1f}" x2="{WIDTH - _RIGHT}" y2="{budget:.1f}"/>',
        *marks,
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 18}" text-anchor="middle">latency, median, ms</text>',
        f'<text x="20" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 20 {HEIGHT / 2})">'
        f"change of {escape(result.metric)}, red: the budget</text>",
        "</svg>",
        "",
    ])  # fmt: skip


def _names(named: list[tuple[float, float, int, str]], across: _Axis, up: _Axis) -> list[str]:
    """Beside the plot, so that none covers another, with a line to its circle."""
    lines, last = [], _TOP - 14.0
    for x, y, _, name in sorted(named, key=lambda dot: up(dot[1])):
        last = max(last + 14, up(y))
        right = WIDTH - _RIGHT + 14
        lines.append(
            f'<line class="grid" x1="{across(x):.1f}" y1="{up(y):.1f}" x2="{right - 3}" y2="{last:.1f}"/>'
            f'<text x="{right}" y="{last + 4:.1f}" font-size="10">{escape(name)}</text>'
        )
    return lines


class _Axis:
    """Values to places."""

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self.low, self.high, self.first, self.last = low, high, first, last

    @classmethod
    def over(cls, values: list[float], first: float, last: float) -> _Axis:
        """Wide enough for all of them."""
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.01 * max(abs(high), 1.0)
        return cls(low - room, high + room, first, last)

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    @property
    def ticks(self) -> list[float]:
        """Some 5 round numbers: 1, 2 or 5 times a power of ten apart."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough)
        return [round(n * step, 10) for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
