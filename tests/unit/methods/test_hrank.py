"""Ranks of feature maps."""

from dataclasses import replace

import pytest
import torch
from helpers.scores import chain, channels, cut, places, scores
from helpers.shown import seen
from torch import nn

import gdp
from gdp.methods import HRank, PruningMethod

# two images of three channels; ranks 3 and 3, 1 and 1, 2 and 0
MAPS = torch.zeros(2, 3, 3, 3)
MAPS[:, 0], MAPS[:, 1] = torch.eye(3), torch.outer(torch.tensor([1.0, 2.0, -1.0]), torch.tensor([1.0, 0.5, 3.0]))
MAPS[0, 2] = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
FIRST, SECOND = [[1.0, 1.0], [3.0, 3.0], [2.0, 2.0]], [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]


def chained():
    return channels(chain(FIRST, SECOND, [[1.0, 1.0]]))


def observe(method: PruningMethod, context, shown, state=None):
    return method.observe(state or method.init_state(5), shown, context)


def test_the_score_is_the_mean_rank_over_images_where_the_channel_is_read_first():
    later = torch.eye(3).expand(2, 3, 3, 3)
    state = observe(HRank(), chained(), seen((MAPS, [0, 1, 2]), (later, [0, 1, 2])))
    assert state["rank"].tolist() == [3.0, 1.0, 1.0, 0.0, 0.0]


def test_equal_ranks_and_groups_without_maps_go_by_the_norm_of_filters():
    context = chained()
    state = observe(HRank(), context, seen((torch.rand(2, 2), [3, 4]), (MAPS, [0, 1, 2])))
    assert scores(HRank(), context, state) == places([3, 2, 1], [2, 1])
    assert scores(HRank(), context) == places([1, 3, 2], [2, 1])  # before anything was seen


def test_only_so_many_images_count():
    assert observe(HRank(images=1), chained(), seen((MAPS, [0, 1, 2])))["rank"].tolist()[:3] == [3.0, 1.0, 2.0]


def test_ranks_are_measured_anew_in_every_round():
    method, context = HRank(rounds=4), chained()  # the window is 10 to 30
    state = observe(method, replace(context, steps=9), seen((MAPS, [0, 1, 2])))
    for step, ranks in ((12, [3, 1, 1]), (14, [3, 1, 1]), (15, [1, 1, 3]), (16, [1, 1, 3])):
        shown = seen((MAPS.flip(1) if step < 16 else MAPS, [0, 1, 2]))
        state = observe(method, replace(context, steps=step), shown, state)
        assert state["rank"].tolist()[:3] == ranks, step


def test_after_a_cut_ranks_belong_to_what_is_left():
    context = chained()
    state = observe(HRank(), context, seen((MAPS, [0, 1, 2])))
    cut(context, "0", [1])
    now = {"rank": state["rank"], "measured": torch.zeros(())}
    state = observe(HRank(), context, seen((MAPS[:, 1:], [0, 2])), now)
    assert state["rank"].tolist()[:3] == [1.0, 1.0, 1.0]
    assert scores(HRank(), context, state)[:3] == places([1, 0, 2])


def test_a_network_without_feature_maps_is_refused_as_it_is():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = gdp.trace(net, torch.rand(1, 4), dry_run=False)
    with pytest.raises(gdp.GDPError, match=r"HRank .* feature maps .*, but the network is given no images"):
        gdp.Pruner(net, graph, 0.5, 100, HRank())
    assert type(net[2]) is nn.Linear and not list(net.buffers())


@pytest.mark.parametrize("options", [{"images": 0}, {"rounds": 0}, {"images": 1.5}])
def test_options_out_of_range_are_refused(options):
    found = next(iter(options.values()))
    with pytest.raises(gdp.GDPError, match=rf"images and rounds of at least 1, but got .*{found}"):
        HRank(**options)
