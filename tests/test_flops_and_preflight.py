import copy

import pytest
import torch
from nets import DictOutput, Literal, Residual, randomize
from torch import nn

import gdp
from gdp.flops import count_flops
from gdp.preflight import preflight

X = torch.randn(2, 3, 12, 12)


def test_counting_is_fvcores_eval_count_and_leaves_no_trace():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Dropout(), nn.Flatten(), nn.Linear(800, 4)
    )
    net.train()
    state, rng = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    assert count_flops(net, X) == 2 * (8 * 27 * 100 + 2 * 800 + 800 * 4)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert net.training and net[1].training and torch.equal(torch.get_rng_state(), rng)


def test_outputs_in_a_dict_are_counted():
    assert count_flops(DictOutput(), X) == gdp.trace(DictOutput(), X).flops.dense


def test_a_failing_count_says_so_and_leaves_no_hooks():
    net = Residual()
    with pytest.raises(gdp.GDPError, match="fvcore can't count the FLOPs of Residual: RuntimeError"):
        count_flops(net, torch.randn(1, 4, 12, 12))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_preflight_finds_the_literal_and_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    net = randomize(Literal()).train()
    graph = gdp.trace(net, X)
    assert [g.name for g in graph.groups] == ["a.0", "b.0", "c.0"]
    state, rng, classes = copy.deepcopy(net.state_dict()), torch.get_rng_state(), [type(m) for m in net.modules()]
    checked = preflight(net, graph)
    assert [g.name for g in checked.groups] == ["a.0", "c.0"]
    assert checked.frozen[-1].name == "b.0" and "invalid for input of size" in checked.frozen[-1].reason
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert (
        [type(m) for m in net.modules()] == classes
        and torch.equal(torch.get_rng_state(), rng)
        and net.b[0].out_channels == 6
    )


def test_preflight_sees_a_cut_that_runs_but_is_not_exact():
    class DividesByWidth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.c(torch.relu(self.b(x / x.shape[1])))

    net = DividesByWidth()
    checked = preflight(net, gdp.trace(net, X))
    assert [g.name for g in checked.groups] == ["b"]
    assert "differs from the gated one" in checked.frozen[-1].reason


def test_preflight_keeps_what_works():
    net = randomize(Residual())
    graph = gdp.trace(net, X)
    checked = preflight(net, graph)
    assert checked.groups == graph.groups and checked.flops.dense == graph.flops.dense == count_flops(net, X)
