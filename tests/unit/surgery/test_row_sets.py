"""Outputs as sets of rows: equal up to the order of rows along one dimension, and in nothing else."""

import pytest
import torch

from gdp.surgery.row_sets import as_row_sets
from gdp.utils import Difference

RANDOM = torch.Generator().manual_seed(0)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    pair = as_row_sets(a, b)
    return Difference.between([pair[0]], [pair[1]]).is_exact([pair[0]])


def rounded(t: torch.Tensor) -> torch.Tensor:
    return t * (1 + 1e-15 * torch.randn(t.shape, dtype=t.dtype, generator=RANDOM))


def shuffled(t: torch.Tensor, dim: int) -> torch.Tensor:
    return t.index_select(dim, torch.randperm(t.shape[dim], generator=RANDOM))


SHAPES = [
    ((30, 4), 0),
    ((1, 30, 4), 1),
    ((2, 30), 1),
    ((3, 1, 30, 4), 2),
    ((1, 9, 5, 6), 1),
    ((40,), 0),
    ((2, 4, 30), 2),
]


@pytest.mark.parametrize("shape, dim", SHAPES)
def test_rows_may_come_in_another_order(shape, dim):
    t = torch.randn(shape, dtype=torch.float64, generator=RANDOM)
    assert same(t, rounded(shuffled(t, dim))) and same(t, t)
    assert same(t.float(), shuffled(t, dim).float())
    integers = torch.arange(t.numel()).view(shape)
    assert same(integers, shuffled(integers, dim)) and not same(integers, integers + 1)


def test_every_sample_of_a_batch_has_its_own_order():
    t = torch.randn(2, 30, 4, dtype=torch.float64, generator=RANDOM)
    assert same(t, torch.stack([shuffled(sample, 0) for sample in t]))


@pytest.mark.parametrize("shape, dim", SHAPES)
def test_other_rows_are_seen(shape, dim):
    t = torch.randn(shape, dtype=torch.float64, generator=RANDOM)
    other = shuffled(t, dim)
    other.view(-1)[3] += 1e-6
    assert not same(t, other)
    assert not same(t, other[..., :-1]) and not same(t, torch.full_like(t, float("nan")))


def test_entries_may_not_move_from_row_to_row():
    t = torch.randn(1, 30, 4, dtype=torch.float64, generator=RANDOM)
    assert not same(t, torch.stack([shuffled(row, 1) for row in t.unbind(1)], 1))
    columns = torch.stack([shuffled(column, 1) for column in t.unbind(2)], 2)
    assert columns.sort(1).values.equal(t.sort(1).values) and not same(t, columns)


def test_infinities_are_entries_like_others():
    t = torch.randn(1, 30, 4, dtype=torch.float64, generator=RANDOM)
    t[:, ::3, 1] = float("-inf")
    assert same(t, shuffled(t, 1)) and not same(t, t.where(t.isfinite(), float("inf")))
