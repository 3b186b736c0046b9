"""Compare outputs whose rows may come in another order: as sets of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from gdp.utils import Difference

DIRECTIONS = 4  # random vectors that rows are projected onto


def as_row_sets(expected: Tensor, actual: Tensor) -> tuple[Tensor, Tensor]:
    """Return two tensors such that they are equal if the given ones are, up to the order of their rows.

    Rows lie along the last dimension and may be permuted along any one of the others, differently for every index of
    the rest; or they lie along the last but one, and are permuted along the last. (In a tensor of less than three
    dimensions they are single numbers then.) Rows are projected onto random directions, and the projections sorted.
    Projections of equal sets of rows are equal sets of numbers; those of different sets differ with probability 1
    (Cramér and Wold 1936: a distribution is given by those of its projections). Rounding stays rounding: sorting moves
    no entry by more than the largest change of any.

    Args:
        expected: outputs of one network.
        actual: outputs of the other.
    """
    if expected.shape != actual.shape or expected.dim() == 0 or expected.numel() == 0:
        return expected, actual
    size = expected[expected.isfinite()].abs().max() if bool(expected.isfinite().any()) else expected.new_ones(())
    pairs = [(expected, actual)]
    for dim in range(expected.dim()):
        if expected.shape[dim] > 1:
            pairs.append((_sorted(expected, dim, float(size)), _sorted(actual, dim, float(size))))
    return min(pairs, key=lambda pair: _rank(Difference.between([pair[0]], [pair[1]]).relative))


def _sorted(tensor: Tensor, dim: int, size: float) -> Tensor:
    """Return the projections of the rows of a tensor, sorted along a dimension.

    Args:
        tensor: outputs of a network.
        dim: along which rows may be permuted.
        size: stands in place of infinity.
    """
    dtype = tensor.dtype if tensor.is_floating_point() else torch.float64
    rows = tensor.to(torch.float64).nan_to_num(float("nan"), size, -size)
    if dim == tensor.dim() - 1 > 1:
        rows, dim = rows.transpose(-1, -2), dim - 1
    if dim < tensor.dim() - 1:
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(rows.shape[-1], DIRECTIONS, generator=generator, dtype=torch.float64)
        rows = rows @ directions.to(rows.device)
    return rows.sort(dim).values.to(dtype)


def _rank(relative: float) -> float:
    """Return a difference as a number to compare: NaN is the largest."""
    return relative if relative == relative else float("inf")
