"""Legal numbers of channels: the least, multiples, and the budget that is met with them."""

import pytest
import torch
from helpers.networks import Chain, Grouped, Residual
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import resnet18

import gdp
from gdp.selection import Ranking, WidthConstraints, lowest_flops, select_channels

X = torch.randn(1, 3, 12, 12)
GRAPHS = [gdp.trace(net(), X, dry_run=False) for net in (Chain, Residual, Grouped)]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(GRAPHS), st.integers(1, 5), st.sampled_from([1, 2, 3, 0.25, 0.5]), st.floats(0, 1), st.integers()
)
def test_every_selection_is_legal_and_fits(graph, round_to, min_channels, share, seed):
    widths, flops = WidthConstraints.of(graph, min_channels, round_to), graph.flops
    least = lowest_flops(graph, widths)
    budget = least + int(share * (flops.dense - least))
    group_of = torch.arange(len(flops.sizes)).repeat_interleave(flops.sizes)
    importance = torch.rand(len(group_of), generator=torch.Generator().manual_seed(seed % 2**32))
    is_open = torch.ones_like(group_of, dtype=torch.bool)
    chosen = select_channels(
        Ranking.of(importance, group_of, is_open, flops), flops, budget, widths, slack=flops.dense // 100
    )
    opened = torch.bincount(group_of[chosen.keep_mask], minlength=len(flops.sizes))
    assert torch.equal(opened, chosen.open_counts) and torch.equal(widths.round_down(opened), opened)
    assert flops.count(opened) <= budget
    for group, kept in zip(graph.groups, opened.tolist(), strict=True):
        wide = min(a.index.shape[1] for a in group.tensors if a not in group.reads)
        assert kept == group.size or kept * wide % round_to == 0
        assert kept >= min(group.size, min_channels * (group.size if isinstance(min_channels, float) else 1))
    later = select_channels(
        Ranking.of(importance, group_of, chosen.keep_mask, flops), flops, max(least, budget // 2), widths
    )
    assert not (later.keep_mask & ~chosen.keep_mask).any() and torch.equal(
        widths.round_down(later.open_counts), later.open_counts
    )


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(2, 5),
    st.integers(1, 3),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_blocks_go_whole_or_not_at_all_and_the_target_is_met(depths, width, least, share, seed):
    class Branch(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    def branch(depth: int) -> nn.Module:
        inner = [nn.Conv2d(width, width, 1) for _ in range(depth - 1)]
        return Branch(nn.Conv2d(4, width, 1), *inner, nn.Conv2d(width, 4, 1))

    net = nn.Sequential(nn.Conv2d(3, 4, 1), *map(branch, depths), nn.Conv2d(4, 2, 1))
    graph = gdp.trace(net, torch.randn(1, 3, 2, 2), blocks=True, dry_run=False)
    assert len(graph.blocks) == len(depths)
    widths, flops = WidthConstraints.of(graph, least), graph.flops
    group_of = torch.arange(len(flops.sizes)).repeat_interleave(flops.sizes)
    importance = torch.rand(len(group_of), generator=torch.Generator().manual_seed(seed))
    low, slack = lowest_flops(graph, widths), flops.dense // 100
    budget = low + int(share * (flops.dense - low))
    is_open = torch.ones_like(group_of, dtype=torch.bool)
    opened = select_channels(
        Ranking.of(importance, group_of, is_open, flops), flops, budget, widths, slack=slack
    ).open_counts
    assert torch.equal(widths.round_down(opened), opened) and flops.count(opened) <= budget
    counts = widths.levels(widths.smallest, flops.sizes)
    every = torch.cartesian_prod(*map(torch.tensor, counts)).view(-1, len(counts))
    reachable = [c for c in flops.counts(every[widths.branches_consistent(every)]).tolist() if c <= budget]
    if len(every) <= 30_000:  # as many as are tried one by one
        assert flops.count(opened) >= min(budget - slack, max(reachable))


def test_channels_of_whole_norm_groups_count_as_many():
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.GroupNorm(8, 32), nn.ReLU(), nn.Conv2d(32, 16, 3), nn.Conv2d(16, 4, 1))
    graph = gdp.trace(net, X, dry_run=False)
    assert WidthConstraints.of(graph, round_to=8).divisor.tolist() == [2, 8]  # a norm group has four channels


def test_a_real_network_meets_its_target_in_multiples_of_eight():
    graph = gdp.trace(resnet18(weights=None), torch.randn(1, 3, 64, 64), dry_run=False)
    widths, flops = WidthConstraints.of(graph, round_to=8), graph.flops
    group_of = torch.arange(len(flops.sizes)).repeat_interleave(flops.sizes)
    importance, is_open = torch.rand(len(group_of)), torch.ones(len(group_of), dtype=torch.bool)
    for target in (0.2, 0.4, 0.7):
        budget = int(target * flops.dense)
        chosen = select_channels(
            Ranking.of(importance, group_of, is_open, flops), flops, budget, widths, slack=flops.dense // 100
        )
        assert 0.99 * target < flops.count(chosen.open_counts) / flops.dense <= target
        assert (chosen.open_counts % 8 == 0).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"min_channels": 0}, "Expected `min_channels` to be a number of channels .* but got 0"),
        ({"min_channels": 1.5}, "Expected `min_channels` to be a number of channels .* but got 1.5"),
        ({"min_channels": True}, "Expected `min_channels` to be a number of channels .* but got True"),
        ({"round_to": 0}, "Expected `round_to` to be an int of 1 or more, but got 0"),
        ({"round_to": 8.0}, "Expected `round_to` to be an int of 1 or more, but got 8.0"),
    ],
)
def test_what_is_no_number_of_channels_is_refused(arguments, message):
    with pytest.raises(gdp.GDPError, match=message):
        gdp.GDPCallback(target_flops=0.5, **arguments)
