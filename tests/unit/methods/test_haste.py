"""Maps whose hashes collide with those of stronger channels."""

import pytest
import torch
from helpers.scores import chain, channels, cut, places, scores
from helpers.shown import seen
from torch import nn

import gdp
from gdp.methods import HASTE
from gdp.methods.haste import collisions

RANDOM = torch.Generator().manual_seed(0)
MAP = torch.randn(2, 8, 8, generator=RANDOM)
OTHER = torch.randn(2, 8, 8, generator=RANDOM)


def chained():
    return channels(chain([[1.0, 1.0], [3.0, 3.0], [2.0, 2.0]], [[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]], [[1.0, 1.0]]))


def test_a_collision_is_the_hash_of_a_stronger_channel():
    # the strongest has none; the second collides in both patches; the weakest in the first one
    hashes = torch.tensor([[[5, 7], [5, 1], [5, 1]]])
    assert collisions(hashes, torch.tensor([1.0, 3.0, 2.0])).tolist() == [0.5, 0.0, 1.0]
    twice = torch.cat([hashes, torch.tensor([[[0, 1], [2, 3], [4, 5]]])])
    assert collisions(twice, torch.tensor([1.0, 3.0, 2.0])).tolist() == [0.25, 0.0, 0.5]


def test_a_weaker_copy_is_not_novel_but_its_negative_is():
    maps = torch.stack([0.5 * MAP, MAP, -0.9 * MAP, OTHER], 1)
    found = HASTE(hyperplanes=16).novelty(maps)
    assert found.tolist()[:3] == [0.0, 1.0, 1.0] and found[3] > 0.9
    half = MAP.clone()
    half[:, :4] *= -1  # two of the four patches of 4x4
    assert HASTE(hyperplanes=16).novelty(torch.stack([MAP, 0.5 * half], 1)).tolist() == [1.0, 0.5]


def test_small_maps_are_one_patch_and_few_hyperplanes_tell_little_apart():
    one = HASTE(hyperplanes=1).novelty(torch.rand(1, 3, 2, 2))
    assert one.tolist().count(1.0) <= 2 and set(one.tolist()) <= {0.0, 1.0}


def test_a_tenth_of_every_batch_goes_into_the_running_mean():
    method, context = HASTE(images=1), chained()
    maps = torch.stack([MAP, 0.5 * MAP, 2 * OTHER], 1)
    state = method.observe(method.init_state(5), seen((maps, [0, 1, 2]), (torch.rand(2, 2), [3, 4])), context)
    torch.testing.assert_close(state["novelty"], torch.tensor([0.1, 0.0, 0.1, 0.0, 0.0]))
    state = method.observe(state, seen((maps[:, [1, 0, 2]], [0, 1, 2])), context)
    torch.testing.assert_close(state["novelty"], torch.tensor([0.09, 0.1, 0.19, 0.0, 0.0]))
    assert scores(method, context, state) == places([1, 2, 3], [2, 1])
    assert scores(method, context) == places([1, 3, 2], [2, 1])  # equal ones by the norm of filters


def test_what_is_closed_or_cut_is_no_longer_stronger():
    method, context = HASTE(images=1), chained()
    maps = torch.stack([MAP, 0.5 * MAP, 0.4 * MAP], 1)
    context.gates.close("0", [0])
    state = method.observe(method.init_state(5), seen((maps, [0, 1, 2])), context)
    torch.testing.assert_close(state["novelty"][:3], torch.tensor([0.0, 0.1, 0.0]))
    cut(context, "0", [1])
    state = method.observe(state, seen((maps[:, 2:], [2])), context)
    torch.testing.assert_close(state["novelty"][:3], torch.tensor([0.0, 0.1, 0.1]))


def test_a_network_without_feature_maps_is_refused():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(gdp.GDPError, match=r"HASTE .* feature maps"):
        gdp.Pruner(net, gdp.trace(net, torch.rand(1, 4), dry_run=False), 0.5, 100, HASTE())


@pytest.mark.parametrize("option, value", [("hyperplanes", 63), ("patch", 0), ("images", 0), ("memory", 1.0)])
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(gdp.GDPError, match=rf"hyperplanes in \[1, 62\].*but got .*{value}"):
        HASTE(**{option: value})
