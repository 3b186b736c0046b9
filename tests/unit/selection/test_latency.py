"""A budget in measured time instead of FLOPs."""

import copy

import pytest
import torch
from helpers.networks import Residual, inputs
from helpers.slow_layer import WithSlow

import gdp
from gdp.selection import UNITS, latency_model


def test_the_layers_add_up_to_the_whole_and_nothing_is_left_behind():
    net = Residual().train()
    graph, before = gdp.trace(net, inputs(net), dry_run=False), copy.deepcopy(net.state_dict())
    model = latency_model(net, graph)
    assert model.dense == pytest.approx(UNITS, rel=0.3) and model.count(model.sizes // 2) < 0.8 * model.dense
    assert net.training and not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def opened(cost: str) -> dict[str, int]:
    torch.manual_seed(0)
    net = WithSlow()
    graph = gdp.trace(net, torch.randn(1, 3, 12, 12), dry_run=False)
    pruner = gdp.Pruner(net, graph, 0.5, cost=latency_model(net, graph) if cost == "latency" else None)
    pruner.method_state["importance"] = torch.ones_like(pruner.method_state["importance"]) + 0.01 * torch.rand(
        len(pruner.method_state["importance"])
    )
    pruner.finish()
    assert 0.45 <= pruner.remaining <= 0.5  # a channel beside the slow layer takes 3 to 5 % of the time
    return {g.name: n for g, n in zip(graph.groups, pruner.gates.open_counts.tolist(), strict=True)}


def test_what_takes_time_is_cut_first():
    by_flops, by_time = opened("flops"), opened("latency")
    # what the slow layer reads and makes; which of the two goes makes no difference in time
    assert by_time["1.0"] * by_time["2"] < 0.6 * 16 * 16 and by_flops["2"] == 16
    assert all(by_time[name] >= 15 > by_flops["0.0"] for name in by_time if name not in ("1.0", "2")), by_time


def test_other_costs_are_refused():
    with pytest.raises(gdp.GDPError, match="Expected cost to be 'flops' or 'latency', but got 'energy'"):
        gdp.Polar(cost="energy")
