"""Prune and regrow: how many channels by scales, which by leverage, and a share of others in between."""

from dataclasses import replace

import pytest
import torch
from helpers.scores import Stream, chain, channels, cut, scores

import gdp
from gdp.methods import CHEX, Window

# by L1 norm in this order; scales in another one
LADDER = [[float(n), 0.0] for n in range(12, 0, -1)]
SCALES = torch.tensor([3.0, 1.0, 4.0, 2.0, 5.0, 9.0, 6.0, 8.0, 7.0, 10.0, 12.0, 11.0])


LONG = Window(10, 1010, 1020, 10, 1)  # 90 rounds of 11 steps


def ladder():
    """12 channels of equal cost, of which half stay at a target of a quarter of the FLOPs."""
    net = chain(LADDER, [[1.0] * 12], norms=True)
    net[1].weight.data = SCALES
    return replace(channels(net, regrows=True, target=0.25, steps=10), window=LONG)


def order(method, context):
    """Channels from the best on."""
    found = scores(method, context)
    return sorted(range(len(found)), key=lambda channel: -found[channel])


def test_scales_say_how_many_stay_and_leverage_says_which():
    x = torch.randn(2, 4, 6, 6)
    # the first two filters share one direction, so each has a leverage of about a half
    filters = [[3.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.3], [0.0, 1.0, 0.0, 0.0]]
    net = chain(filters, [[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]], [[1.0, 1.0]], norms=True)
    net[1].weight.data, net[4].weight.data = torch.tensor([0.2, -0.5, 0.9]), torch.tensor([0.3, 0.4])
    context = channels(net, x, regrows=True, target=0.5)
    assert scores(CHEX(regrow=0.0), context) == [0.2, 0.5, 0.9, 0.3, 0.4]
    cut(context, "0", [0])
    assert scores(CHEX(regrow=0.0), context)[:3] == [0.0, 0.9, 0.5]  # one of two stays: the larger


def test_filters_with_few_weights_and_those_of_streams_go_by_their_l1_norm():
    assert order(CHEX(regrow=0.0), ladder()) == list(range(12))
    # L1 norms 5 and 8, though the first one is longer; without a batch norm, in units of their mean
    net = Stream()
    net.stem.weight.data[:, :, 0, 0] = torch.tensor([[5.0, 0.0], [2.0, 2.0]])
    net.branch.weight.data[:, :, 0, 0] = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    assert scores(CHEX(regrow=0.0), channels(net, regrows=True)) == [0.7692, 1.2308]


def test_a_share_of_the_places_goes_to_others_at_first_and_none_in_the_end():
    context, found = ladder(), []
    for step in (10, 21, 32, 43):  # 3 of the 6 places
        best = order(CHEX(regrow=0.5), replace(context, steps=step))
        found.append(best[3:6])
        assert best[:3] == [0, 1, 2] and found[-1] == sorted(found[-1]) and best[6:] == sorted(best[6:])
    assert any(drawn != [3, 4, 5] for drawn in found)
    late = order(CHEX(regrow=0.5), replace(context, steps=900))  # 0.5 * 0.03 of 6 places: none
    assert late == order(CHEX(regrow=0.5), replace(context, steps=1010)) == list(range(12))


def test_a_round_has_one_draw_and_gates_have_time_to_open_in_it():
    context = ladder()
    draws = [order(CHEX(regrow=0.5), replace(context, steps=step)) for step in range(10, 54)]
    assert all(draws[i] == draws[i - i % 11] for i in range(44))
    assert len({tuple(draw) for draw in draws[::11]}) > 1
    assert draws[0] == order(CHEX(regrow=0.5), ladder())
    short = replace(context, window=Window(10, 20, 30, 10, 1))
    assert len({tuple(order(CHEX(regrow=0.2), replace(short, steps=step))) for step in range(10, 14)}) == 1


def test_what_is_far_from_those_that_stay_is_drawn_more_often():
    # 2 of 3 stay, one of which is drawn: a copy of the first, or one at a distance of 2; exp(2) / (1 + exp(2)) is 0.88
    window = Window(10, 10_000_010, 10_000_020, 10, 1)
    net = chain([[9.0, 0.0], [8.0, 0.0], [0.0, 2.0]], [[1.0, 1.0, 1.0]])
    context = replace(channels(net, regrows=True, target=0.5), window=window)
    method = CHEX(regrow=0.9, rounds=1_000_000)
    seconds = [order(method, replace(context, steps=10 + 10 * step))[1] for step in range(150)]
    assert 0.78 < seconds.count(2) / 150 < 0.96


def test_a_gate_that_comes_back_opens_within_the_steps_that_it_took_to_close():
    context = channels(chain(LADDER, [[1.0] * 12]), regrows=True)
    context.gates.set(torch.zeros(12))
    context = replace(context, keep_mask=torch.arange(12) < 6)
    for _ in range(context.window.closing + 1):
        context.gates.set(CHEX().step({}, context))
    assert context.gate_param.tolist() == pytest.approx([1.0] * 6 + [0.0] * 6)
    assert CHEX().regrows


@pytest.mark.parametrize("options", [{"regrow": 1.0}, {"rounds": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(
        gdp.GDPError, match=rf"regrow in \[0, 1\) and at least 1 of rounds.*{next(iter(options.values()))}"
    ):
        CHEX(**options)
