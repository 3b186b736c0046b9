"""Groups that are frozen after the trace."""

import torch
from helpers.networks import Residual

import gdp

X = torch.randn(1, 3, 12, 12)


def test_freezing_a_group_makes_it_a_constant():
    graph = gdp.trace(Residual(), X)
    fewer = graph.freeze(["a.0"], "asked for")
    assert [g.name for g in fewer.groups] == ["stem.0", "c.0"] and fewer.frozen[-1] == gdp.graph.Frozen(
        "a.0", 6, "asked for"
    )
    assert fewer.flops.dense == graph.flops.dense
    assert fewer.flops.count(torch.tensor([3, 4])) == graph.flops.count(torch.tensor([3, 6, 4]))
