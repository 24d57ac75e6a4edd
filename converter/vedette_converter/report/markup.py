"""HTML and SVG elements, and the sections and tables that a page is made of.

Text is escaped unless it was made here, so that no name from outside becomes markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

_VOID: Final = frozenset({"meta", "img", "br", "hr", "col"})
_CONTROL: Final = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127), "�")


class Markup(str):
    """Elements, or text that was escaped."""

    __slots__ = ()


Content = Markup | str | float | None


def escaped(text: str) -> Markup:
    """Text as a part of a page: no markup, no control characters, nothing that UTF-8 cannot say."""
    sayable = text.encode("utf-8", "replace").decode("utf-8").translate(_CONTROL)
    return Markup(html.escape(sayable, quote=True))


def element(tag: str, *content: Content, **attributes: Content | bool) -> Markup:
    """``<tag attributes>content</tag>``; None is left out.

    Attributes: ``class_`` is class, other underscores are hyphens, True stands without a value, False is left out.
    """
    said = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{tag}{said}>")
    return Markup(f"<{tag}{said}>{joined(content)}</{tag}>")


def joined(content: Iterable[Content]) -> Markup:
    """One after the other."""
    return Markup("".join(part if isinstance(part, Markup) else escaped(_text(part)) for part in content))


def section(title: str, *content: Content, long: bool = False) -> Markup:
    """With a title. ``long``: may be broken where a printed page ends."""
    return element("section", element("h2", title), *content, class_="long" if long else None)


def table(head: Sequence[str], rows: Iterable[Sequence[Content]], product: int = -1) -> Markup:
    """The first cell of each row is its head. ``product``: the column that is tinted."""
    cells = [
        element("th", text, scope="col", class_="product" if place == product else None)
        for place, text in enumerate(head)
    ]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(
                element("td", cell, class_="product" if place == product else None)
                for place, cell in enumerate(row[1:], 1)
            ),
        )
        for row in rows
    ]
    return element(
        "div", element("table", element("thead", element("tr", *cells)), element("tbody", *body)), class_="scroll"
    )


def _attribute(name: str, value: Content | bool) -> str:
    if value is None or value is False:
        return ""
    named = name.rstrip("_").replace("_", "-")
    return f" {named}" if value is True else f' {named}="{escaped(_text(value))}"'


def _text(value: Content) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else f"{value:.6g}"
