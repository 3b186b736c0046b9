"""Gradually hard: more and more of what does not fit is closed for good, the rest is weakened."""

from dataclasses import replace

import torch
from helpers.scores import chain, channels

from gdp.methods import GHFP
from gdp.surgery import shrink

LADDER = [[float(n), 0.0] for n in (3, 1, 6, 2, 5, 4)]
METHOD = GHFP(rounds=4)  # of 5 steps, from 10 to 30


def context(steps, chosen=(True, False, True, False, False, False)):
    return channels(chain(LADDER, [[1.0] * 6]), keep_mask=torch.tensor(chosen), steps=steps)


def test_the_share_that_is_closed_grows_with_the_window_and_the_weakest_go_first():
    # 4 are not chosen: norms 1, 2, 4, 5
    assert METHOD.step({}, context(10)).tolist() == [1] * 6
    assert METHOD.step({}, context(15)).tolist() == [1, 0, 1, 1, 1, 1]
    assert METHOD.step({}, context(20)).tolist() == [1, 0, 1, 0, 1, 1]
    assert METHOD.step({}, context(25)).tolist() == [1, 0, 1, 0, 1, 0]
    assert METHOD.step({}, context(21)).tolist() == [1] * 6  # between two rounds


def test_what_is_closed_already_counts_also_after_a_cut():
    found = context(20)
    found.gates.set(METHOD.step({}, replace(found, steps=15)))
    assert METHOD.step({}, found).tolist() == [1, 0, 1, 0, 1, 1]
    shrink(found.gates)
    mask = torch.tensor([True, False, True, False, False, False])
    # 3 of those that are there are not chosen, and half of them, rounded, go
    assert METHOD.step({}, replace(found, keep_mask=mask)).tolist() == [1, 0, 1, 0, 1, 0]


def test_the_others_are_weakened_more_and_more():
    assert METHOD.factors({}, context(10))["writes"].tolist() == [1] * 6
    assert METHOD.factors({}, context(25))["writes"].tolist() == [1, 0.25, 1, 0.25, 0.25, 0.25]
    assert METHOD.factors({}, context(26)) is None


def test_behind_a_norm_its_scale_is_weakened_and_tells_how_strong_a_filter_is():
    net = chain(LADDER, [[1.0] * 6], norms=True)
    net[1].weight.data = torch.tensor([1.0, 1.0, 0.1, 1.0, -0.5, 1.0])  # norms times scales: 3, 1, 0.6, 2, 2.5, 4
    found = channels(net, keep_mask=torch.tensor([True, False, False, False, False, False]), steps=20)
    assert METHOD.step({}, found).tolist() == [1, 0, 0, 1, 1, 1]  # 2.5 of 5, rounded to 2
    factors = METHOD.factors({}, found)
    assert factors["scales"].tolist() == [1] + 5 * [0.5] and factors["writes"].tolist() == 6 * [1]
