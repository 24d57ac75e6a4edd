"""The small classifier of the zoo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vedette.contract.errors import UserError
from vedette_converter.prune import L1Norm, analyse, apply, count, plan
from vedette_converter.zoo import mobilenet


def test_its_cost_is_the_papers(tf: Any) -> None:
    model = mobilenet.build(1000)
    assert round(count(model).macs / 1e6) == 569  # arXiv 1704.04861, table 4
    assert round(sum(np.prod(weight.shape) for weight in model.trainable_weights) / 1e6, 1) == 4.2


@pytest.mark.parametrize(("multiplier", "stem", "last"), [(0.25, 8, 256), (0.5, 16, 512), (0.01, 8, 8)])
def test_width_and_size_follow(tf: Any, multiplier: float, stem: int, last: int) -> None:
    model = mobilenet.build(2, height=64, width=96, channels=1, multiplier=multiplier, dropout=0.1)
    assert model.get_layer("stem").filters == stem and model.get_layer("block_13_pointwise").filters == last
    assert model(np.zeros((3, 64, 96, 1), np.float32)).shape == (3, 2)


def test_every_width_but_the_logits_can_be_pruned(tf: Any) -> None:
    model = mobilenet.build(5, height=32, width=32, multiplier=0.25)
    graph = analyse(model)
    assert len(graph.groups) == 14 and set(graph.kept) == {"logits"}
    smaller = apply(model, plan(model, L1Norm(), ratio=0.5))
    assert smaller.output.shape == (None, 5) and count(smaller).macs < 0.5 * count(model).macs


@pytest.mark.parametrize("wrong", [{"height": 31}, {"channels": 0}, {"multiplier": 0.0}, {"dropout": 1.0}])
def test_impossible_numbers_are_refused(tf: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        mobilenet.build(2, **wrong)
