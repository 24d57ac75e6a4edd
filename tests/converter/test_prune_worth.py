"""Channels ranked by what they are worth: importance by cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vedette.contract.errors import UserError
from vedette_converter.prune import L1Norm, analyse, apply, count
from vedette_converter.prune.calls import load_keras
from vedette_converter.prune.worth import MACS_PER_ELEMENT, MACS_PER_RUN, Worth, plan_for_work, work


@pytest.fixture(scope="module")
def model(tf: Any) -> Any:
    """Two convolutions of the same kernel, on 32x32 and, behind a stride of four, on 8x8."""
    keras = load_keras()
    keras.utils.set_random_seed(1)
    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(32, 1, name="fine")(x)
    x = layers.Conv2D(32, 1, strides=4, name="coarse")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x))


def test_work_is_multiplications_and_the_maps_that_are_read_and_written(model: Any) -> None:
    elements = 32 * 32 * (3 + 32) + (32 * 32 * 32 + 8 * 8 * 32) + 8 * 8 * (32 + 2)
    assert work(model) == count(model).macs + MACS_PER_ELEMENT * elements + MACS_PER_RUN


def test_of_two_channels_that_matter_alike_the_one_on_the_fine_map_goes(model: Any) -> None:
    scores = Worth(lambda graph: {group.name: np.ones(group.size) for group in graph.groups})(analyse(model))
    assert (scores["coarse"] > 3 * scores["fine"]).all()


def test_the_mildest_cut_that_leaves_the_share(model: Any) -> None:
    floor = MACS_PER_RUN / work(model)
    share = floor + (1 - floor) * 0.5
    found = plan_for_work(model, L1Norm(), ratio=share, floor=0.1, multiple=1)
    left = work(apply(model, found)) / work(model)
    assert share - 0.03 * (1 - floor) < left <= share
    cut = {c.group: len(c.removed) for c in found.cuts}
    assert cut["fine"] > cut["coarse"]


def test_what_cannot_be_reached_is_said(model: Any) -> None:
    with pytest.raises(
        UserError, match=r"so little work cannot be reached by pruning.*each group at its floor of 0\.5"
    ):
        plan_for_work(model, L1Norm(), ratio=0.5 * MACS_PER_RUN / work(model), floor=0.5)
    with pytest.raises(UserError, match="share of the work"):
        plan_for_work(model, L1Norm(), ratio=0.0, floor=0.5)
