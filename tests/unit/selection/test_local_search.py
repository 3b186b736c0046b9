"""Neighbours of a vector of open counts."""

import torch

from gdp.selection.local_search import _neighbours as neighbours


def test_neighbours_are_a_few_levels_away():
    place, last = torch.tensor([3, 5]), torch.tensor([8, 6])
    near = neighbours(place, last)
    assert ((near >= 0) & (near <= last)).all()
    assert {(2, 6), (3, 6), (1, 6), (4, 4)} <= {tuple(n) for n in near.tolist()}
    assert (near - place).abs().sum(1).max() == 4
