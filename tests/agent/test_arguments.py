"""Mistakes of a command line, of both programs: one line each."""

from __future__ import annotations

from importlib import import_module

import pytest

from vedette.cli import COMMANDS, main

MISTAKES = [
    ("inferr", "COMMAND: bad value: expected one of run, ", "found 'inferr'; did you mean infer? see vedette --help"),
    ("infer m p --decoder clasify", "--decoder: bad value: ", "did you mean classify? see vedette infer --help"),
    ("infer m p --decodr ssd", "unknown option: found --decodr", "did you mean --decoder? see vedette infer --help"),
    ("command eye frob", "NAME: bad value: expected one of ping, reload", "found 'frob'; see vedette command --help"),
    (
        "command eye ping -c a --broker b",
        "--broker: not allowed with argument -c/--config",
        "see vedette command --help",
    ),
    ("watch --topic", "--topic: expected one argument", "see vedette watch --help"),
    ("check", "incomplete: expected -c/--config", "see vedette check --help"),
    ("top a b", "more than it takes: found 'b'", "see vedette top --help"),
    ("top -n x", "-n/--count: bad value: expected a whole number, found 'x'", "see vedette top --help"),
]


@pytest.mark.parametrize(("typed", "says", "way_out"), MISTAKES)
def test_a_mistake_is_one_line_with_a_way_out(
    typed: str, says: str, way_out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert line.startswith(f"vedette: error: {says}") and line.endswith(way_out) and out == ""


def test_an_end_of_line_that_somebody_typed_makes_no_second_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["top", "a", "b\nc"])
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_wide_as_the_terminal_and_keeps_examples_whole(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"vedette.cli.{command}")
    for columns, most in ((80, 80), (300, 120)):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        examples = {line for line in module.EXAMPLES.splitlines() if line.startswith("  ")}
        assert examples <= set(text.splitlines())
        assert not [line for line in text.splitlines() if len(line) > most and line not in examples]
        assert "\n--json" in text or "\n--json" not in module.EXAMPLES
        assert "{classify" not in text
