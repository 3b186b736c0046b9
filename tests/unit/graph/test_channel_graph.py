"""Groups that are frozen after the trace."""

import torch
from helpers.networks import Residual

import gdp

X = torch.randn(1, 3, 12, 12)


def test_freezing_a_group_makes_it_a_constant():
    graph = gdp.trace(Residual(), X, dry_run=False)
    fewer = graph.freeze(["a.0"], "asked for")
    assert [g.name for g in fewer.groups] == ["stem.0", "c.0"] and fewer.frozen[-1] == gdp.graph.Frozen(
        "a.0", 6, "asked for"
    )
    assert fewer.flops.dense == graph.flops.dense
    assert fewer.flops.count(torch.tensor([3, 4])) == graph.flops.count(torch.tensor([3, 6, 4]))


def test_a_group_that_is_held_open_stays_in_the_graph_and_says_why():
    graph = gdp.trace(Residual(), X, blocks=True, dry_run=False)
    inside = graph.blocks[0].groups[0]
    held = graph.hold_open({inside: "asked for", "nothing of the kind": "asked for"})
    assert held.groups == graph.groups and held.flops.dense == graph.flops.dense
    assert held.is_held(held[inside]) and [h.name for h in held.held] == [inside]
    assert held.staying[-1].reason == "asked for" and "asked for" in held.reasons()
    assert all(inside not in block.groups for block in held.blocks) and len(held.blocks) == len(graph.blocks) - 1
    assert held.hold_open({inside: "again"}).held == held.held
    assert held.freeze([inside], "frozen").held == ()
