"""Write filters as primary ones and combinations of them, as closely as possible."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 20
DUST = 1e-14


def factorize(filters: Tensor, primary: int, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Return B and C such that `cat(B, C B)` is close to given filters, in the sum of squares.

    Begins with the first filters for B, and with the least squares fit of the others on them for C. Then B and C are
    fitted in turn (alternating least squares), which makes the error smaller in every round. It nears the smallest
    error that there can be, that of the truncated SVD (Eckart and Young, 1936). B and C of the SVD itself would have
    large coefficients that cancel each other; after some rounds they are of the order of 1.

    Args:
        filters: W, one per row, shape (filters, features).
        primary: rows of B, fewer than there are filters.
        rounds: of the alternation; without any, B is the first filters themselves.

    Returns:
        B, shape (primary, features), and C, shape (filters - primary, primary), both float64.

    >>> b, c = factorize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [2.0, -1.0, 0.0]]), 2)
    >>> b.round(decimals=6).tolist(), c.round(decimals=6).tolist()
    ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[2.0, -1.0]])
    """
    whole = filters.detach().double()
    gram = whole @ whole.T  # all that the fits need to know of the filters
    unit = torch.eye(primary, dtype=whole.dtype, device=whole.device)
    mix = torch.cat([unit, unit.new_zeros(primary, len(whole) - primary)], 1)  # B = mix W
    coefficients = _fit_others(gram, mix)
    for _ in range(rounds):
        combine = torch.cat([unit, coefficients])  # W is to be combine B
        mix = torch.linalg.solve(combine.T @ combine, combine.T)
        coefficients = _fit_others(gram, mix)
    return _without_dust(mix @ whole), _without_dust(coefficients)


def _without_dust(values: Tensor) -> Tensor:
    """Return values with those set to 0 that are nothing beside the largest: denormal numbers are slow to compute with.

    Args:
        values: of any shape.
    """
    return torch.where(values.abs() > DUST * values.abs().max(), values, 0.0)


def _fit_others(gram: Tensor, mix: Tensor) -> Tensor:
    """Return C, the least squares fit of the last filters on B.

    Args:
        gram: inner products of the filters, shape (filters, filters).
        mix: B in terms of the filters, shape (primary, filters).
    """
    inverse = torch.linalg.pinv(mix @ gram @ mix.T, hermitian=True)  # filters may be zero, or equal
    fitted: Tensor = inverse @ mix @ gram[:, len(mix) :]
    return fitted.T
