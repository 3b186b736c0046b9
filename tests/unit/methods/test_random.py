"""Channels at random."""

import pytest
import torch
from helpers.scores import chain, channels, cut, scores

import gdp
from gdp.methods import Random

NET = [[1.0, 1.0]] * 6, [[1.0] * 6]


def test_the_lot_is_the_same_whenever_it_is_asked_for_and_leaves_training_alone():
    context = channels(chain(*NET))
    before = torch.random.get_rng_state()
    first = scores(Random(), context)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(7)
    assert scores(Random(), context) == first == scores(Random(), channels(chain(*NET), steps=3))
    assert sorted(first) == [round(place / 6, 4) for place in range(1, 7)]


def test_another_seed_gives_another_lot():
    context = channels(chain(*NET))
    assert len({tuple(scores(Random(seed=seed), context)) for seed in range(4)}) > 1


def test_the_order_of_those_that_are_left_stays():
    context = channels(chain(*NET))
    before = scores(Random(), context)
    gone = before.index(min(before))
    cut(context, "0", [gone])
    after = scores(Random(), context)
    assert after[gone] == 0
    assert sorted(range(6), key=after.__getitem__) == sorted(range(6), key=before.__getitem__)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(gdp.GDPError, match=rf"seed to be a whole number of at least 0, but got {seed}"):
        Random(seed=seed)
