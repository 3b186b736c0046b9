"""Differences of outputs."""

import torch

from gdp.utils import Difference


def test_equal_infinities_are_no_difference():
    inf = torch.tensor([float("inf"), 1.0])
    assert Difference.between([inf], [inf.clone()]) == Difference(0.0, 0.0)
    assert Difference.between([inf], [torch.tensor([1.0, 1.0])]).relative == float("inf")
    assert Difference.between([inf], [torch.tensor([float("inf"), 1.5])]).relative == 0.5
