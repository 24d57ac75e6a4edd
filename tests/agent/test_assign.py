"""The assignment against an exhaustive search."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vedette.follow.assign import assign

SHAPES = st.tuples(st.integers(0, 5), st.integers(0, 5))
# few distinct values, so that ties are common; and values at and below 0, which make no pair
GAINS = SHAPES.flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([-1.0, 0.0, 0.1, 0.25, 0.5, 1.0, 3.0]))
)


def most(gains: np.ndarray) -> float:
    """The sum of the best assignment, by trying all of them."""
    rows, columns = gains.shape
    if rows > columns:
        gains, rows, columns = gains.T, columns, rows
    worth = np.maximum(gains, 0.0)
    return max(
        (sum(worth[i, j] for i, j in enumerate(chosen)) for chosen in permutations(range(columns), rows)), default=0.0
    )


@given(GAINS)
def test_no_other_assignment_gains_more(gains: np.ndarray) -> None:
    rows, columns = assign(gains)
    assert len(set(rows.tolist())) == len(rows) == len(columns) == len(set(columns.tolist()))
    assert sorted(rows.tolist()) == rows.tolist()
    assert (gains[rows, columns] > 0).all()
    assert np.isclose(gains[rows, columns].sum(), most(gains))


@given(st.integers(0, 2**32 - 1), st.integers(6, 30), st.floats(0.05, 1.0))
def test_large_problems_are_solved_as_scipy_solves_them(seed: int, size: int, density: float) -> None:
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(seed)
    gains = rng.random((size, size + 3)) * (rng.random((size, size + 3)) < density)
    rows, columns = assign(gains)
    best = gains[linear_sum_assignment(-gains)].sum()
    assert np.isclose(gains[rows, columns].sum(), best)


def test_a_greedy_choice_would_be_wrong() -> None:
    # the best single pair is (0, 0); taking it leaves 0.1 for the other
    rows, columns = assign(np.array([[1.0, 0.9], [0.9, 0.1]]))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]
