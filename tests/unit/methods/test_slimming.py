"""Network Slimming: an L1 penalty on the scales of norms."""

import pytest
import torch
from helpers.scores import NormedStream, X, chain, channels, cut, near, penalty_and_gradients, scores
from torch import nn

import gdp
from gdp.methods import Slimming


def scaled(*gamma):
    net = chain([[1.0, 0.0]] * len(gamma), [[1.0] * len(gamma)], norms=True)
    net[1].weight.data = torch.tensor(gamma)
    return channels(net)


def test_the_penalty_is_the_l1_norm_of_the_scales_of_channels_that_can_go():
    penalty, gradients = penalty_and_gradients(Slimming(strength=0.1), scaled(0.2, -0.5, 0.9))
    assert penalty == 0.16  # the norm of the outputs, with a scale of 1, is left alone
    assert list(gradients) == ["1.weight"] and near(gradients["1.weight"], [0.1, -0.1, 0.1])


def test_channels_are_compared_by_their_scales_also_after_a_cut():
    context = scaled(0.2, -0.5, 0.9)
    assert scores(Slimming(), context) == [0.2, 0.5, 0.9]
    cut(context, "0", [0])
    assert scores(Slimming(), context) == [0.0, 0.5, 0.9]
    assert penalty_and_gradients(Slimming(strength=0.1), context)[0] == 0.14


def test_the_mean_over_several_norms_counts():
    net = NormedStream()
    net.norm1.weight.data, net.norm2.weight.data = torch.tensor([1.0, 0.5]), torch.tensor([-2.0, 0.1])
    assert scores(Slimming(), channels(net)) == [1.5, 0.3]


def test_channels_without_a_norm_go_last():
    net = nn.Sequential(*chain([[1.0, 0.0]] * 2, [[1.0, 1.0]], norms=True), nn.ReLU(), nn.Conv2d(1, 1, 1))
    net = nn.Sequential(net[0], net[1], nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1))
    net[1].weight.data = torch.tensor([0.3, 0.4])
    assert scores(Slimming(), channels(net)) == [0.3, 0.4, 0.8, 0.8]


@pytest.mark.parametrize("method", ["slimming", "polarization", "bwcp"])
def test_a_network_without_norms_is_refused_and_stays_as_it_is(method):
    net = chain([[1.0, 0.0]] * 2, [[1.0, 1.0]])
    keys = list(net.state_dict())
    with pytest.raises(gdp.GDPError, match=r"no norm with .* behind channels that can be pruned.*method='polar'"):
        gdp.Pruner(net, gdp.trace(net, X, dry_run=False), 0.5, 10, gdp.methods.get(method)())
    assert list(net.state_dict()) == keys and type(net[2]) is nn.Conv2d


def test_a_negative_strength_is_refused():
    with pytest.raises(gdp.GDPError, match="at least 0, but got -1"):
        Slimming(strength=-1.0)
