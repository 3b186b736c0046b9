"""Targets that can be reached, and what is allowed on the way to them."""

import itertools
import math

import pytest
import torch
from helpers.networks import Chain, Residual

import gdp
from gdp.selection import (
    allowed_fraction,
    check_reachable,
    check_target,
    lowest_flops,
)

X = torch.randn(1, 3, 12, 12)


def test_targets_that_can_not_be_are_refused_with_the_lowest_that_can():
    graph = gdp.trace(Chain(), X, ignore=["1.0"], dry_run=False)
    with pytest.raises(
        gdp.GDPError, match=r"No channel of this network can be pruned(.|\n)*0\.0 \(8 channels\): ignored by"
    ):
        check_reachable(graph, 0.5)
    graph = gdp.trace(Residual(), X, ignore=["stem.0"], dry_run=False)
    least = lowest_flops(graph) / graph.flops.dense
    with pytest.raises(
        gdp.GDPError,
        match=rf"lowest target for this network is {math.ceil(least * 1e4) / 1e4:.4f}(.|\n)*stem\.0 \(8 channels\)",
    ):
        check_reachable(graph, 0.1)
    check_reachable(graph, least + 1e-4)
    for wrong in (0, -1, 1.01, float("nan"), "half"):
        with pytest.raises(gdp.GDPError, match=r"in \(0, 1\]"):
            check_target(wrong)


def test_allowance_falls_from_all_to_the_target():
    values = [allowed_fraction(p / 10, 0.3) for p in range(11)]
    assert values[0] == 1.0 and values[-1] == pytest.approx(0.3)
    assert all(a > b for a, b in itertools.pairwise(values))
