"""Rows that span a matrix."""

import torch

from gdp.methods.leverage import leverage, residual


def gram(*rows):
    matrix = torch.tensor(rows, dtype=torch.float64)
    return matrix @ matrix.T


def test_leverage_is_the_share_of_a_row_in_the_largest_singular_vectors():
    # singular values 2 (the first row) and sqrt(2) (the other two alike)
    rows = gram([2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0])
    torch.testing.assert_close(leverage(rows, 1), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(leverage(rows, 2), torch.tensor([1.0, 0.5, 0.5]))
    torch.testing.assert_close(leverage(rows, 3), torch.tensor([1.0, 0.5, 0.5]))  # not all of them
    torch.testing.assert_close(leverage(gram([3.0, 4.0]), 1), torch.ones(1))


def test_the_residual_is_the_distance_from_the_span():
    rows = gram([1.0, 0.0, 0.0], [3.0, 4.0, 0.0], [2.0, 0.0, 0.0], [5.0, 1.0, -2.0])
    found = residual(rows, torch.tensor([0]), torch.tensor([1, 2, 3]))
    torch.testing.assert_close(found, torch.tensor([4.0, 0.0, 5**0.5]).double(), rtol=1e-3, atol=1e-2)


def test_rows_that_repeat_each_other_and_rows_of_zeros_have_a_span():
    rows = gram([1.0, 0.0], [1.0, 0.0], [0.0, 2.0])
    found = residual(rows, torch.tensor([0, 1]), torch.tensor([2]))
    torch.testing.assert_close(found, torch.tensor([2.0]).double())
    assert residual(torch.zeros(3, 3).double(), torch.tensor([0, 1]), torch.tensor([2])).tolist() == [0.0]
    assert leverage(torch.zeros(3, 3), 1).isfinite().all()


def test_many_rows_in_few_dimensions_have_no_residual():
    rows = torch.randn(300, 40, generator=torch.Generator().manual_seed(0)).double()
    found = residual(rows @ rows.T, torch.arange(250), torch.arange(250, 300))
    assert found.max() < 1e-2 * rows.norm(dim=1).mean()
