"""The order of channels: by importance per FLOP, and among equals by their place."""

import torch
from torch import nn

import gdp
from gdp.selection import Ranking, WidthConstraints, select_channels

CHANNELS = 600  # numpy's unstable sort is stable for short arrays


def ranked(importance: torch.Tensor) -> tuple[gdp.ChannelGraph, Ranking]:
    net = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), nn.ReLU(), nn.Conv2d(CHANNELS, 4, 1))
    graph = gdp.trace(net, torch.zeros(1, 3, 4, 4), dry_run=False)
    group_of, is_open = torch.zeros(CHANNELS, dtype=torch.long), torch.ones(CHANNELS, dtype=torch.bool)
    return graph, Ranking.of(importance, group_of, is_open, graph.flops)


def test_equals_stand_in_the_order_of_their_places():
    importance = (torch.arange(CHANNELS) % 3).float()  # three values, two hundred channels of each
    _, ranking = ranked(importance)
    expected = [c for value in (2, 1, 0) for c in range(CHANNELS) if c % 3 == value]
    assert ranking.channel.tolist() == expected


def test_of_equals_the_first_are_kept():
    graph, ranking = ranked(torch.ones(CHANNELS))
    chosen = select_channels(ranking, graph.flops, graph.flops.dense // 2, WidthConstraints.of(graph))
    kept = int(chosen.open_counts)
    assert 0 < kept < CHANNELS and chosen.keep_mask.tolist() == [c < kept for c in range(CHANNELS)]


def test_equals_between_other_numbers_keep_their_order_in_every_group():
    """Stretches of equals at both ends and in the middle, single numbers between them, in two groups."""
    sizes = torch.tensor([CHANNELS, CHANNELS // 2])
    net = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 1), nn.Conv2d(CHANNELS, CHANNELS // 2, 1), nn.Conv2d(CHANNELS // 2, 4, 1)
    )
    flops = gdp.trace(net, torch.zeros(1, 3, 4, 4), dry_run=False).flops
    assert torch.equal(flops.sizes, sizes)
    group_of = torch.arange(2).repeat_interleave(sizes)
    channel = torch.arange(len(group_of)).double()
    values = torch.where(channel % 6 == 1, channel / 100, channel % 8)  # per FLOP; one of six has its own, or 0 to 7
    cost = flops.marginal(sizes)[group_of]
    ranking = Ranking.of(values * cost, group_of, torch.ones(len(group_of), dtype=torch.bool), flops)
    ratio = (values * cost / cost).tolist()
    expected = sorted(range(len(ratio)), key=lambda c: -ratio[c])  # Python's sort is stable
    assert ranking.channel.tolist() == expected
    assert ranking.ratio.tolist() == [ratio[c] for c in expected]
    in_groups = [[place for place, c in enumerate(expected) if group_of[c] == g] for g in range(2)]
    assert ranking.places.tolist() == in_groups[0] + in_groups[1]
