"""Which rows of a matrix span it, and how far the others are from what some of them span."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-6  # of the mean square norm of rows, added to squares so that rows may repeat each other


def leverage(gram: Tensor, rank: int) -> Tensor:
    """Return the leverage score of every row: the squared norm of its entries in the first left singular vectors.

    Args:
        gram: inner products of all pairs of rows, shape (rows, rows).
        rank: number of singular vectors, those of the largest singular values; at most one fewer than rows counts, as
            the scores of all of them are 1.

    Returns:
        Scores in [0, 1], shape (rows,).
    """
    vectors: Tensor = torch.linalg.eigh(gram.float())[1]
    return vectors[:, -max(1, min(rank, len(gram) - 1)) :].square().sum(1)


def residual(gram: Tensor, base: Tensor, others: Tensor) -> Tensor:
    """Return how far rows are from the span of other ones: the norm of `w - P w`, P being the projection on the span.

    Args:
        gram: inner products of all pairs of rows, shape (rows, rows), float64, as rows may repeat each other.
        base: numbers of the rows that are spanned, shape (base rows,).
        others: numbers of the rows that are asked for, shape (other rows,).

    Returns:
        Norms, shape (other rows,), float64.
    """
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-30)
    root = torch.linalg.cholesky(gram[base][:, base] + ridge * torch.eye(len(base), dtype=gram.dtype))
    inside: Tensor = torch.linalg.solve_triangular(root, gram[base][:, others], upper=False)
    return (gram.diagonal()[others] - inside.square().sum(0)).clamp_min(0).sqrt()
