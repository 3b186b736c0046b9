"""Soft filter pruning: zeroed in every round, trained on in between, closed when the window is over."""

from dataclasses import replace

import pytest
import torch
from helpers.scores import chain, channels, cut, places, scores

import gdp
from gdp.methods import SFP

LADDER = [[float(n), 0.0] for n in range(1, 7)]


def test_the_same_share_of_every_group_goes_by_the_l2_norm():
    context = channels(chain([[3.0, -4.0], [5.0, 12.0], [6.0, 8.0]], [[1.0, 1.0, 1.0]]))
    assert scores(SFP(), context) == places([1, 3, 2])  # 5, 13, 10
    cut(context, "0", [0])
    assert scores(SFP(), context) == places([0, 2, 1])


def test_filters_that_were_not_chosen_are_zeroed_when_a_round_begins():
    mask = torch.tensor([True, False, True])
    context = channels(chain([[1.0, 0.0]] * 3, [[1.0] * 3]), keep_mask=mask, steps=10)
    method = SFP(rounds=5)  # of 4 steps, from 10 to 30
    assert method.factors({}, context)["writes"].tolist() == [1, 0, 1]
    due = [step for step in range(32) if method.factors({}, replace(context, steps=step)) is not None]
    assert due == [10, 14, 18, 22, 26]
    assert method.factors({}, replace(context, keep_mask=None)) is None


def test_behind_a_norm_its_scale_is_zeroed_and_tells_how_strong_a_filter_is():
    net = chain([[3.0, -4.0], [5.0, 12.0], [6.0, 8.0]], [[1.0, 1.0, 1.0]], norms=True)
    net[1].weight.data = torch.tensor([1.0, -0.1, 1.0])
    context = channels(net, keep_mask=torch.tensor([True, False, True]), steps=10)
    assert scores(SFP(), context) == places([2, 1, 3])  # 5, 1.3, 10
    factors = SFP().factors({}, context)
    assert factors["scales"].tolist() == [1, 0, 1] and factors["writes"].tolist() == [1, 1, 1]


def test_zeroed_filters_train_on_and_gates_stay_open_until_the_window_ends():
    torch.manual_seed(0)
    net, x = chain(LADDER, [[1.0] * 6], norms=True), torch.randn(8, 2, 6, 6)
    net[1].bias.data.fill_(0.5)
    pruner = gdp.Pruner(net, gdp.trace(net, x, dry_run=False), 0.5, 40, SFP(rounds=2, start=0.25, end=0.75))
    optimizer, zero = torch.optim.SGD(net.parameters(), 0.01), []
    assert pruner.window[:3] == (10, 25, 30)
    for _ in range(40):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        pruner.watch()
        optimizer.step()
        pruner.step()
        zero.append(int((net[1].weight == 0).sum()))
        assert pruner.done or (bool((pruner.gates.gate_param == 1).all()) and pruner.shrink() is None)
    # a second round of 10 steps begins at 20; what is zeroed is not zero any more after one step
    assert zero[:19] == [0] * 19 and zero[19] >= 2 and zero[20] == 0
    assert pruner.done and pruner.remaining <= 0.5


def test_no_round_is_refused():
    with pytest.raises(gdp.GDPError, match="at least 1 round, but got 0"):
        SFP(rounds=0)
