"""The order of channels: by importance per FLOP, and among equals by their place."""

import torch
from torch import nn

import gdp
from gdp.selection import Ranking, WidthConstraints, select_channels

CHANNELS = 600  # numpy's unstable sort is stable for short arrays


def ranked(importance: torch.Tensor) -> tuple[gdp.ChannelGraph, Ranking]:
    net = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), nn.ReLU(), nn.Conv2d(CHANNELS, 4, 1))
    graph = gdp.trace(net, torch.zeros(1, 3, 4, 4))
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
