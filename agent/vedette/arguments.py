"""A command line whose mistakes are one line: what is wrong, the nearest right word, and where the help is."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from vedette import journal
from vedette.contract.errors import UserError
from vedette.contract.wording import nearest

# argparse's own words, which are the same from Python 3.11 on but for the quotes around choices
_CHOICE: Final = re.compile(r"(?P<where>.+?): invalid choice: (?P<found>.+?) \(choose from (?P<choices>.*)\)", re.S)
_VALUE: Final = re.compile(r"(?P<where>.+?): invalid (?P<kind>\S+) value: (?P<found>.*)", re.S)
_NEEDED: Final = "the following arguments are required: "
_NUMBERS: Final = {"int": "a whole number", "float": "a number"}
_MAX_COLUMNS: Final = 120  # of help: longer lines are hard to follow
# what begins a line of its own: an example, or the next statement
_NEW_LINE: Final = re.compile(r"\n(?= |--|Exit codes:)")


class Help(argparse.HelpFormatter):
    """Text as wide as the terminal, examples (indented lines) as they are written."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **options)
        self._width = min(self._width, _MAX_COLUMNS)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrapped(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        def filled(lines: str) -> str:
            return lines if lines.startswith(" ") else "\n".join(_wrapped(lines, width))

        blocks = ("\n".join(map(filled, _NEW_LINE.split(block))) for block in text.strip().split("\n\n"))
        return textwrap.indent("\n\n".join(blocks), indent)


def numbers(text: str) -> tuple[float, ...]:
    """An option's value: ``127.5`` or ``123.7,116.3,103.5``. Raises `ValueError`."""
    return tuple(float(part) for part in text.split(","))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, break_long_words=False, break_on_hyphens=False
    )  # what is typed stays in one piece


class Parser(argparse.ArgumentParser):
    """As `argparse.ArgumentParser`, and so are its subcommands. A mistake ends the program with exit code 2."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See `argparse`. What is left over is this parser's to tell: the one above it does not know its options."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self._stop(self._unknown(rest))
        return found, rest

    def error(self, message: str) -> NoReturn:
        """See `argparse`."""
        self._stop(self._in_house(message.removeprefix("argument ")))

    def _stop(self, error: UserError) -> NoReturn:
        program = self.prog.split()[0]
        self.exit(2, f"{journal.prefix(journal.ERROR)}{program}: error: {error.line()}\n")

    def _in_house(self, message: str) -> UserError:
        if match := _CHOICE.fullmatch(message):
            choices = [choice.strip("'") for choice in match["choices"].split(", ")]
            near = self._fix(nearest(match["found"].strip("'\""), choices))
            return UserError(
                "bad value",
                where=match["where"],
                expected=f"one of {', '.join(choices)}",
                found=match["found"],
                fix=near,
            )
        if (match := _VALUE.fullmatch(message)) and match["kind"] in _NUMBERS:
            expected = _NUMBERS[match["kind"]]
            return UserError(
                "bad value", where=match["where"], expected=expected, found=match["found"], fix=self._fix()
            )
        if message.startswith(_NEEDED):
            return UserError("incomplete", expected=message.removeprefix(_NEEDED), fix=self._fix())
        return UserError(message, fix=self._fix())

    def _unknown(self, rest: Sequence[str]) -> UserError:
        option = next((word for word in rest if word.startswith("-")), None)
        if option is None:
            return UserError("more than it takes", found=" ".join(map(repr, rest)), fix=self._fix())
        name = option.partition("=")[0]
        return UserError("unknown option", found=name, fix=self._fix(nearest(name, self._option_string_actions)))

    def _fix(self, near: str = "") -> str:
        return f"{f'did you mean {near}? ' if near else ''}see {self.prog} --help"
