"""Who belongs to whom: the assignment that gains most."""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Rows and the columns they are paired with, rows ascending."""


def assign(gains: NDArray[np.float64]) -> Pairs:
    """The pairs of rows and columns, each used once at most, whose gains (n, m) sum up to the most.

    Only a gain above 0 makes a pair; a row or column may stay alone. Optimal: where the best column of every row is
    another, that is the answer; the rest falls into groups that share no candidate, and each is solved by shortest
    augmenting paths (Jonker and Volgenant, "A Shortest Augmenting Path Algorithm for Dense and Sparse Linear Assignment
    Problems", Computing 38, 1987, the augmentation phase). Deterministic.
    """
    possible = gains > 0.0
    rows = np.flatnonzero(possible.any(axis=1))
    if not len(rows):
        return rows, rows
    best = gains.argmax(axis=1)[rows]
    if len(set(best.tolist())) == len(rows):
        return rows, best
    columns = np.flatnonzero(possible.any(axis=0))
    best = gains.argmax(axis=0)[columns]
    if len(set(best.tolist())) == len(columns):
        order = best.argsort()
        return best[order], columns[order]
    found: list[tuple[int, int]] = []
    for group_rows, group_columns in _groups(possible):
        if len(group_rows) == 1:
            row = group_rows[0]
            found.append((row, max(group_columns, key=gains[row].__getitem__)))
        else:
            part = gains[np.ix_(group_rows, group_columns)].tolist()
            found += [(group_rows[i], group_columns[j]) for i, j in _augment(part)]
    found.sort()
    pairs = np.array(found, np.intp)
    return pairs[:, 0], pairs[:, 1]


def _groups(possible: NDArray[np.bool_]) -> list[tuple[list[int], list[int]]]:
    """Rows and columns that are connected through possible pairs."""
    of_row = [np.flatnonzero(row).tolist() for row in possible]
    of_column = [np.flatnonzero(column).tolist() for column in possible.T]
    seen_rows: set[int] = set()
    groups = []
    for start, candidates in enumerate(of_row):
        if start in seen_rows or not candidates:
            continue
        seen_rows.add(start)
        rows, columns, open_rows = [start], set[int](), [start]
        while open_rows:
            for column in of_row[open_rows.pop()]:
                if column in columns:
                    continue
                columns.add(column)
                fresh = [row for row in of_column[column] if row not in seen_rows]
                seen_rows.update(fresh)
                rows += fresh
                open_rows += fresh
        groups.append((sorted(rows), sorted(columns)))
    return groups


def _augment(gains: list[list[float]]) -> list[tuple[int, int]]:
    """Optimal pairs of a small dense problem; O(rows^2 * (rows + columns)).

    As a problem of costs: a pair costs minus its gain, and every row has a column of its own that costs nothing and means
    "alone". Column 0 is the augmenting path's root, columns from 1 on are real, then come those of the lonely.
    """
    n, m = len(gains), len(gains[0])
    size = m + n
    costs = [
        [-gain if gain > 0.0 else inf for gain in row] + [0.0 if j == i else inf for j in range(n)]
        for i, row in enumerate(gains)
    ]
    u = [0.0] * n
    v = [0.0] * (size + 1)
    owner = [-1] * (size + 1)  # the row that a column belongs to
    for start in range(n):
        owner[0] = start
        shortest = [inf] * (size + 1)
        previous = [0] * (size + 1)
        done = [False] * (size + 1)
        column = 0
        while owner[column] >= 0:
            done[column] = True
            row = owner[column]
            costs_of_row, offset = costs[row], u[row]
            step, nearest = inf, 0
            for j in range(1, size + 1):
                if done[j]:
                    continue
                reduced = costs_of_row[j - 1] - offset - v[j]
                if reduced < shortest[j]:
                    shortest[j] = reduced
                    previous[j] = column
                if shortest[j] < step:
                    step, nearest = shortest[j], j
            for j in range(size + 1):
                if done[j]:
                    u[owner[j]] += step
                    v[j] -= step
                else:
                    shortest[j] -= step
            column = nearest
        while column:
            owner[column] = owner[previous[column]]
            column = previous[column]
    return [(owner[j], j - 1) for j in range(1, m + 1) if owner[j] >= 0]
