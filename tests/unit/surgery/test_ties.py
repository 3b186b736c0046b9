"""Ties of topk, sort and argmax permute rows between the gated and the cut network, and neither is wrong."""

from dataclasses import replace

import pytest
import torch
from helpers.networks.queries import SELECTING, Argsort, Queries, TopK
from helpers.small_net import prune
from torch import nn

import gdp
from gdp.surgery import freeze_uncuttable_groups
from gdp.surgery.verdict import Compared

X = 3 * torch.randn(1, 3, 29, 33, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("make", SELECTING)
def test_networks_that_choose_positions_are_pruned(make, batch):
    net, x = make(), torch.cat([X, X.flip(3)])[:batch]
    assert gdp.trace(net, x, dry_run=False).selects == make.selects
    report = gdp.check(net, x)
    assert {name for name, _, _ in report.groups} == {"body.0", "body.2"}, report.frozen
    assert report.remaining < (0.5 if make is Argsort else 0.25)
    graph, report = prune(net, x, share=0.6)
    assert len(graph.groups) == len(report.groups) >= 2 and report.flops_after == report.flops_predicted


def test_the_smallest_of_these_networks_has_ties():
    """Else the tests above would show nothing."""
    net = Argsort()
    graph = gdp.trace(net, X)
    gates = gdp.insert_gates(net, graph)
    for group in graph.groups:
        gates.close(group.name, range(1, group.size))
    gated = net.double()(X.double())
    gdp.remove(net, graph, gates)
    small = net(X.double())
    compared = Compared(([gated], [small]))
    assert compared.difference.relative > 1e-3 and not compared.is_exact
    assert compared.as_sets().is_exact


class DividesByWidth(Queries):
    """Computes with the number of channels."""

    def features(self, x):
        x = self.body[:2](x)
        return self.body[2:](x / x.shape[1])


class Turns(Queries):
    """Puts the channels in another order, in pairs of a size that is written down."""

    def features(self, x):
        x = self.body[:2](x)
        return self.body[2:](torch.cat(x.split(2, 1)[::-1], 1))


@pytest.mark.parametrize("choose", [TopK, Argsort])
@pytest.mark.parametrize("wrong", [DividesByWidth, Turns])
def test_a_wrong_cut_is_found_in_a_network_that_chooses_positions(wrong, choose):
    net = type("Wrong", (wrong, choose), {})()
    graph = gdp.trace(net, X)
    assert "body.0" not in [g.name for g in graph.groups] and graph.selects, graph.reasons()
    assert "can't follow a cut" in graph.reasons()


def test_a_wrong_cut_is_found_when_it_is_made():
    net = type("Wrong", (DividesByWidth, TopK), {})()
    graph = gdp.trace(net, X, dry_run=False)
    gates = gdp.insert_gates(net, graph)
    gates.close("body.0", range(20))
    with pytest.raises(gdp.GDPError, match="differs from the gated one"):
        gdp.remove(net, graph, gates)
    assert net.body[0].out_channels == 32 and gates.inserted


def test_a_wrong_order_of_channels_behind_the_choice_is_found():
    class Wrong(TopK):
        def __init__(self) -> None:
            super().__init__()
            self.late = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.ReLU())
            self.head = torch.nn.Linear(24, 7)

        def decode(self, queries):
            y = self.late(super().decode(queries))
            return self.head(torch.cat([y[..., :5].flip(-1), y[..., 5:]], -1))

    graph = gdp.trace(Wrong(), X)
    assert "late.0" not in [g.name for g in graph.groups]
    assert {"body.0", "body.2"} <= {g.name for g in graph.groups}


def test_a_wrong_index_of_the_trace_is_found_in_a_network_that_chooses_positions():
    net = TopK()
    graph = gdp.trace(net, X, dry_run=False)
    axis = graph["body.0"].tensors[0]
    wrong = replace(graph["body.0"], tensors=(replace(axis, index=axis.index.flip(0)), *graph["body.0"].tensors[1:]))
    bad = replace(graph, groups=tuple(wrong if g.name == "body.0" else g for g in graph.groups))
    found = freeze_uncuttable_groups(net, bad)
    assert [g.name for g in found.groups] == ["body.2"] and "differs from the gated one" in found.reasons()


def test_branches_go_from_a_network_that_chooses_positions():
    class WithBranches(TopK):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1)) for _ in range(2))

        def features(self, x):
            x = super().features(x)
            x = x + self.a(x)
            return x + self.b(x)

    report = gdp.check(WithBranches(), X, blocks=True)
    assert report.blocks == ("a", "b") and report.flops_after == report.flops_predicted
