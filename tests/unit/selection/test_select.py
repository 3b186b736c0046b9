import itertools

import torch
from helpers.networks import Chain, Concat, Residual

import gdp
from gdp.selection import (
    Ranking,
    WidthConstraints,
    select_channels,
)

X = torch.randn(1, 3, 12, 12)


def test_selection_is_the_best_that_threshold_and_filling_allow():
    graph = gdp.trace(Residual(), X, dry_run=False)
    flops, sizes = graph.flops, graph.flops.sizes
    group_of = torch.arange(len(sizes)).repeat_interleave(sizes)
    importance = torch.rand(len(group_of), generator=torch.Generator().manual_seed(0))
    is_open = torch.ones_like(group_of, dtype=torch.bool)
    widths = WidthConstraints.of(graph)
    for fraction in (0.15, 0.3, 0.5, 0.8, 1.0):
        budget = int(fraction * flops.dense)
        chosen = select_channels(Ranking.of(importance, group_of, is_open, flops), flops, budget, widths)
        opened = torch.bincount(group_of[chosen.keep_mask], minlength=len(sizes))
        assert torch.equal(chosen.open_counts, opened) and flops.count(opened) <= budget and opened.min() >= 1
        for g in range(len(sizes)):  # nothing more fits
            if opened[g] < sizes[g]:
                more = opened.clone()
                more[g] += 1
                assert flops.count(more) > budget
        for g in range(len(sizes)):  # within a group the worthiest stay
            mine = group_of == g
            if (mine & ~chosen.keep_mask).any():
                assert importance[mine & chosen.keep_mask].min() >= importance[mine & ~chosen.keep_mask].max()
    assert select_channels(
        Ranking.of(importance, group_of, is_open, flops), flops, flops.dense, widths, slack=0
    ).keep_mask.all()


def test_a_few_channels_are_exchanged_where_single_ones_are_dear():
    graph = gdp.trace(Residual(), X, dry_run=False)
    flops, sizes = graph.flops, graph.flops.sizes
    group_of = torch.arange(len(sizes)).repeat_interleave(sizes)
    is_open = torch.ones_like(group_of, dtype=torch.bool)
    reachable = [flops.count(torch.tensor(c)) for c in itertools.product(*(range(1, int(s) + 1) for s in sizes))]
    improved = 0
    for seed, percent in itertools.product(range(5), range(30, 95, 5)):
        importance = torch.rand(len(group_of), generator=torch.Generator().manual_seed(seed))
        allowed, slack = percent * flops.dense // 100, flops.dense // 100
        plain, chosen = (
            flops.count(
                select_channels(
                    Ranking.of(importance, group_of, is_open, flops),
                    flops,
                    allowed,
                    WidthConstraints.of(graph),
                    slack=s,
                ).open_counts
            )
            for s in (None, slack)
        )
        improved += plain < allowed - slack <= chosen
        assert chosen <= allowed
        assert chosen >= allowed - slack or not any(allowed - slack <= f <= allowed for f in reachable)
    assert improved > 5


def test_closed_channels_are_never_chosen_again():
    graph = gdp.trace(Chain(), X, dry_run=False)
    group_of = torch.tensor([0] * 8 + [1] * 12)
    is_open = torch.ones(20, dtype=torch.bool)
    is_open[[0, 3, 9]] = False
    chosen = select_channels(
        Ranking.of(torch.ones(20), group_of, is_open, graph.flops),
        graph.flops,
        graph.flops.dense,
        WidthConstraints.of(graph),
        slack=0,
    )
    assert torch.equal(chosen.keep_mask, is_open)


def test_more_multiplier_for_less_budget():
    graph = gdp.trace(Concat(), X, dry_run=False)
    sizes = graph.flops.sizes
    group_of = torch.arange(len(sizes)).repeat_interleave(sizes)
    importance, is_open = torch.rand(len(group_of)), torch.ones(len(group_of), dtype=torch.bool)
    budgets = [int(f * graph.flops.dense) for f in (0.9, 0.6, 0.3)]
    multipliers = [
        select_channels(
            Ranking.of(importance, group_of, is_open, graph.flops), graph.flops, b, WidthConstraints.of(graph)
        ).lagrange_multiplier
        for b in budgets
    ]
    assert 0 < multipliers[0] < multipliers[1] < multipliers[2]
