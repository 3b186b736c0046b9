"""Polarization of the scales of norms: to 0, or to one value above it."""

import pytest
import torch
from helpers.scores import NormedStream, chain, channels, cut, near, penalty_and_gradients, scores

import gdp
from gdp.methods import Polarization


def scaled(*gamma):
    net = chain([[1.0, 0.0]] * len(gamma), [[1.0] * len(gamma)], norms=True)
    net[1].weight.data = torch.tensor(gamma)
    return channels(net)


def test_the_penalty_and_its_gradient_are_those_by_hand():
    method, context = Polarization(strength=0.1, t=1.5), scaled(0.2, 0.5, 0.9)
    penalty, gradients = penalty_and_gradients(method, context)
    # mean 1.6 / 3, distances 0.333333, 0.033333 and 0.366667: 0.1 * (1.5 * 1.6 - 0.733333)
    assert penalty == 0.166667
    # 0.1 * (1.5 - sign + mean of signs), the signs being -1, -1, 1
    assert list(gradients) == ["1.weight"] and near(gradients["1.weight"], [0.216667, 0.216667, 0.016667])
    cut(context, "0", [0])
    assert penalty_and_gradients(method, context)[0] == 0.17  # 0.1 * (1.5 * 1.4 - 0.4)


def test_scales_are_brought_back_between_0_and_the_largest():
    context = scaled(2.5, -0.5, 0.5)
    assert near(Polarization().factors({}, context)["scales"], [0.8, 0.0, 1.0])
    assert near(Polarization(largest=1.0).factors({}, context)["scales"], [0.4, 0.0, 1.0])
    cut(context, "0", [0])
    assert near(Polarization().factors({}, context)["scales"][1:], [0.0, 1.0])


def test_one_factor_acts_on_all_norms_of_a_channel():
    net = NormedStream()
    net.norm1.weight.data, net.norm2.weight.data = torch.tensor([2.0, -1.0]), torch.tensor([-0.5, -2.0])
    context = channels(net)
    assert near(Polarization(largest=1.0).factors({}, context)["scales"], [0.5, 0.0])
    assert scores(Polarization(), context) == [1.25, 1.5]


def test_scales_stay_in_bounds_in_a_run_before_the_window_too():
    torch.manual_seed(0)
    net = chain([[1.0, 0.0]] * 4, [[1.0] * 4], norms=True)
    net[1].weight.data *= 3
    x = torch.randn(4, 2, 6, 6)
    pruner = gdp.Pruner(net, gdp.trace(net, x, dry_run=False), 0.5, 20, Polarization(start=0.5, end=0.9, largest=1.0))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(9):
        optimizer.zero_grad()
        net(x).mean().backward()
        pruner.watch()
        optimizer.step()
        pruner.step()
        assert pruner.steps < pruner.window.start and net[1].weight.min() >= 0 and net[1].weight.max() <= 1
    assert net[4].weight.max() <= 1.5  # no channel that can go: left alone


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"t": -1.0}, {"strength": float("nan")}, {"largest": 0.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(gdp.GDPError, match=r"strength and t of at least 0|largest to be above 0, but got 0\.0"):
        Polarization(**options)
