"""Spearman's rank correlation between what methods say of the same channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the rank of every value, the least being 1; equal values share the mean of their ranks.

    Args:
        values: shape (n,).

    Returns:
        Shape (n,), float64.

    >>> ranks([0.5, 2.0, 0.5, 7.0]).tolist()
    [1.5, 3.0, 1.5, 4.0]
    """
    _, place, count = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place.reshape(-1)]


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Return Spearman's rank correlation: Pearson's of the ranks; nan if one of both says the same of everything.

    Args:
        a: shape (n,).
        b: shape (n,).

    >>> round(spearman([1, 2, 3, 4], [1, 3, 2, 4]), 3)
    0.8
    """
    x, y = (found - found.mean() for found in (ranks(a), ranks(b)))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")


def overall(rankings: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rank correlations between methods over all channels of a network.

    Args:
        rankings: of every method, shape (channels,).

    Returns:
        Shape (methods, methods).
    """
    return np.array([[spearman(a, b) for b in rankings] for a in rankings])


def within_groups(rankings: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Return the median over channel groups of the rank correlations within them.

    Args:
        rankings: of every method, shape (channels,).
        sizes: channels of every group, in order.

    Returns:
        Shape (methods, methods); nan where there is no group in which both methods tell channels apart.
    """
    ends = np.cumsum(sizes)[:-1]
    parts = [np.split(ranking, ends) for ranking in rankings]
    found = np.full((len(rankings), len(rankings)), np.nan)
    for i, mine in enumerate(parts):
        for j, other in enumerate(parts):
            per_group = [spearman(a, b) for a, b in zip(mine, other, strict=True)]
            known = [value for value in per_group if np.isfinite(value)]
            if known:
                found[i, j] = np.median(known)
    return found


def ordered(matrix: np.ndarray) -> list[int]:
    """Return an order in which methods that rank alike stand together.

    It begins with the one that is most like all others; the next is always the one that is most like any before it.

    Args:
        matrix: of rank correlations, shape (methods, methods).
    """
    known = np.nan_to_num(matrix)
    order = [int(known.sum(1).argmax())]
    while len(order) < len(known):
        nearest = known[order].max(0)
        nearest[order] = -np.inf
        order.append(int(nearest.argmax()))
    return order


def families(matrix: np.ndarray, least: float) -> list[list[int]]:
    """Return the methods in families: two are in one if a chain of correlations of at least so much joins them.

    Args:
        matrix: of rank correlations, shape (methods, methods).
        least: the correlation from which two rank alike.
    """
    family = list(range(len(matrix)))
    for i, j in np.argwhere(np.nan_to_num(matrix) >= least):
        kept, gone = family[i], family[j]
        family = [kept if one == gone else one for one in family]
    return [[i for i, one in enumerate(family) if one == name] for name in dict.fromkeys(family)]
