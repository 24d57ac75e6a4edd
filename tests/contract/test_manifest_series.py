"""Manifests of networks of readings: what is said is read again, what cannot be is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from signals import OUTPUTS, series_input
from tiny import make_manifest
from vedette.contract import manifest as manifest_module
from vedette.contract.manifest import (
    AnomalyOutput,
    ClassifyOutput,
    ImageInput,
    Manifest,
    PostprocessOutput,
    SeriesInput,
    kind_name,
    task_of,
)


def manifest(**changes: Any) -> Manifest:
    fields = {"task": "anomaly", "input": series_input(), "output": OUTPUTS["anomaly"]}
    return make_manifest(bytes(16), {}, **{**fields, **changes})


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_is_written_is_read_again(name: str) -> None:
    one = manifest(task=task_of(OUTPUTS[name]), output=OUTPUTS[name])
    again = manifest_module.decode(manifest_module.encode(one))
    assert again == one
    assert kind_name(again.input) == "series"


@pytest.mark.parametrize("output", [ClassifyOutput(), AnomalyOutput(threshold=1.0)])
def test_pictures_have_these_tasks_too(output: Any) -> None:
    assert manifest(task=task_of(output), output=output, input=ImageInput(height=8, width=8)).task == task_of(output)


def test_tasks_that_do_not_go_with_an_input_or_a_decoder() -> None:
    with pytest.raises(ValueError, match="'detect' does not go with an input of kind 'series'"):
        manifest(task="detect", output=PostprocessOutput())
    with pytest.raises(ValueError, match="'classify' does not go with the decoder 'anomaly'"):
        manifest(task="classify")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"channels": [{"name": "x"}, {"name": "x"}]}, "names that differ"),
        ({"channels": []}, "length >= 1"),
        ({"channels": [{"name": ""}]}, "matching regex"),
        ({"channels": [{"name": 'a"b'}]}, "matching regex"),
        ({"channels": [{"name": "a\\b"}]}, "matching regex"),
        ({"channels": [{"name": "a\n"}]}, "matching regex"),
        ({"channels": [{"name": "x", "unit": "\x00"}]}, "matching regex"),
        ({"mean": [1.0, 2.0]}, "expected 1 or 3 values, found 2"),
        ({"std": [1.0, 0.0, 1.0]}, "numbers above 0"),
        ({"std": [1e30]}, "finite"),
        ({"length": 0}, ">= 1"),
        ({"stride": 0}, ">= 1"),
        (
            {"length": 65_536, "channels": [{"name": f"c{i}"} for i in range(16)], "mean": [0.0], "std": [1.0]},
            "at most",
        ),
        ({"rate_hz": 0.0}, ">= "),
        ({"max_gap": 0.5}, ">= 1.0"),
        ({"layout": "sideways"}, "Invalid enum value"),
        ({"surprise": 1}, "unknown field"),
    ],
)
def test_an_input_that_cannot_be_is_refused(changes: dict[str, Any], problem: str) -> None:
    stated = {**msgspec.to_builtins(series_input()), **changes}
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(stated, SeriesInput)
