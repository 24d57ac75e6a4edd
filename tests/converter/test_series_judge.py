"""Figures over windows, each against what it means, counted out."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vedette.contract.manifest import Dataset
from vedette_converter import gate
from vedette_converter.agreement import Agreement
from vedette_converter.evaluate import Accuracy
from vedette_converter.latency import Latency, Timing
from vedette_converter.recipe import ANY_RATIO, Gate
from vedette_converter.series.judge import _draws, auc, f1, macro_f1, r2, tellable, told
from vedette_converter.series.recordings import Recording
from vedette_converter.series.windows import Windows


@pytest.mark.parametrize("seed", range(6))
def test_auc_is_the_share_of_pairs_in_the_right_order_and_a_tie_is_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, 40).astype(np.float64)  # many ties
    positive = rng.random(40) < 0.3
    wins = [(a > b) + (a == b) / 2 for a, b in itertools.product(scores[positive], scores[~positive])]
    assert auc(scores, positive) == pytest.approx(np.mean(wins), abs=1e-12)


def test_auc_of_one_kind_alone_is_no_number() -> None:
    assert np.isnan(auc(np.arange(3.0), np.zeros(3, bool))) and np.isnan(auc(np.arange(3.0), np.ones(3, bool)))
    assert auc(np.array([1.0, 2.0]), np.array([False, True])) == 1.0


def test_f1_counts_what_was_found_and_what_was_there() -> None:
    found, there = np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 1, 1, 0], bool)
    precision, recall = 2 / 3, 2 / 3
    assert f1(found, there) == pytest.approx(2 * precision * recall / (precision + recall))
    assert f1(np.zeros(3, bool), np.zeros(3, bool)) == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_what_alarms_are_worth_is_the_share_of_right_ones_less_that_of_false_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, odd = rng.integers(0, 5, 40).astype(np.float64), rng.random(40) < 0.3
    each = [sum(scores[odd] > at) / odd.sum() - sum(scores[~odd] > at) / (~odd).sum() for at in np.arange(-1, 6)]
    assert [told(scores, odd, at) for at in np.arange(-1, 6)] == pytest.approx(each)
    assert tellable(scores, odd) == pytest.approx(max(each))
    assert told(scores, odd, -1) == told(scores, odd, 5) == 0  # all are alarms, or none
    assert told(odd * 1.0, odd, 0.5) == tellable(odd * 1.0, odd) == 1


def test_a_gate_asks_that_alarms_be_worth_something() -> None:
    latency = Latency(Timing(1, 1, 1, 1, 1), Timing(1, 1, 1, 1, 1), 5, "", 1, "")
    data, agreement = Dataset(name="d", count=1, sha256="0" * 64), Agreement(1, 1, 1, 1)
    for worth, best, fix in ((0.02, 0.5, "another threshold would have reached 0.5"), (-0.1, 0.05, "no threshold")):
        judged = Accuracy("AUC", data, 0.86, 0.86, None, {}, told=worth, tellable=best)
        [row] = gate.failing(gate.judge(Gate(), ANY_RATIO, judged, agreement, latency, 1))
        assert row.key == "[gate] min_told" and row.fix.startswith(fix)
        assert not gate.failing(gate.judge(Gate(), ANY_RATIO, replace(judged, told=0.1), agreement, latency, 1))


def test_macro_f1_gives_a_rare_class_the_weight_of_a_common_one() -> None:
    truth = np.array([0] * 9 + [1], np.int32)
    everything_common = np.zeros(10, np.int32)
    assert macro_f1(everything_common, truth) == pytest.approx((18 / 19 + 0.0) / 2)
    assert macro_f1(truth, truth) == 1.0


def test_r2_is_1_for_the_truth_and_0_for_its_mean() -> None:
    truth = np.random.default_rng(0).normal(size=(50, 2))
    assert r2(truth, truth) == 1.0
    assert r2(np.broadcast_to(truth.mean(axis=0), truth.shape), truth) == pytest.approx(0.0)
    assert r2(-truth, truth) == 0.0  # worse than the mean is no worse than useless


def test_whole_recordings_are_drawn_and_every_label_stays() -> None:
    recordings = tuple(Recording(Path(f"{n}"), f"{n}", label) for n, label in enumerate([0, 0, 0, 1]))
    number = np.repeat(np.arange(4, dtype=np.int32), [5, 2, 3, 4])
    windows = Windows(np.zeros((14, 2, 1), np.float32), np.zeros((14, 0), np.float32), number, recordings)
    draws = _draws(windows, 50, seed=1)
    assert [d.tolist() for d in draws] == [d.tolist() for d in _draws(windows, 50, seed=1)]
    sizes = {len(draw) for draw in draws}
    assert len(sizes) > 1
    for draw in draws:
        counts = np.bincount(number[draw], minlength=4) / [5, 2, 3, 4]
        assert (counts == counts.astype(int)).all()  # whole ones
        assert counts[:3].sum() == 3 and counts[3] == 1
