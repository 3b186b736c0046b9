import itertools
import math

import pytest
import torch
import torchvision
from helpers.networks import Chain, Concat, Residual
from torch import nn

import gdp
from gdp.selection import (
    Ranking,
    WidthConstraints,
    allowed_fraction,
    check_reachable,
    check_target,
    lowest_flops,
    select_channels,
)
from gdp.selection.local_search import _neighbours as neighbours

X = torch.randn(1, 3, 12, 12)


def test_selection_is_the_best_that_threshold_and_filling_allow():
    graph = gdp.trace(Residual(), X)
    flops, sizes = graph.flops, graph.flops.sizes
    group_of = torch.arange(len(sizes)).repeat_interleave(sizes)
    worth = torch.rand(len(group_of), generator=torch.Generator().manual_seed(0))
    alive = torch.ones_like(group_of, dtype=torch.bool)
    widths = WidthConstraints.of(graph)
    for fraction in (0.15, 0.3, 0.5, 0.8, 1.0):
        budget = int(fraction * flops.dense)
        chosen = select_channels(Ranking.of(worth, group_of, alive, flops), flops, budget, widths)
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
                assert worth[mine & chosen.keep_mask].min() >= worth[mine & ~chosen.keep_mask].max()
    assert select_channels(
        Ranking.of(worth, group_of, alive, flops), flops, flops.dense, widths, slack=0
    ).keep_mask.all()


def test_a_few_channels_are_exchanged_where_single_ones_are_dear():
    graph = gdp.trace(Residual(), X)
    flops, sizes = graph.flops, graph.flops.sizes
    group_of = torch.arange(len(sizes)).repeat_interleave(sizes)
    alive = torch.ones_like(group_of, dtype=torch.bool)
    reachable = [flops.count(torch.tensor(c)) for c in itertools.product(*(range(1, int(s) + 1) for s in sizes))]
    improved = 0
    for seed, percent in itertools.product(range(5), range(30, 95, 5)):
        worth = torch.rand(len(group_of), generator=torch.Generator().manual_seed(seed))
        allowed, slack = percent * flops.dense // 100, flops.dense // 100
        plain, chosen = (
            flops.count(
                select_channels(
                    Ranking.of(worth, group_of, alive, flops), flops, allowed, WidthConstraints.of(graph), slack=s
                ).open_counts
            )
            for s in (None, slack)
        )
        improved += plain < allowed - slack <= chosen
        assert chosen <= allowed
        assert chosen >= allowed - slack or not any(allowed - slack <= f <= allowed for f in reachable)
    assert improved > 5


def test_closed_channels_are_never_chosen_again():
    graph = gdp.trace(Chain(), X)
    group_of = torch.tensor([0] * 8 + [1] * 12)
    alive = torch.ones(20, dtype=torch.bool)
    alive[[0, 3, 9]] = False
    chosen = select_channels(
        Ranking.of(torch.ones(20), group_of, alive, graph.flops),
        graph.flops,
        graph.flops.dense,
        WidthConstraints.of(graph),
        slack=0,
    )
    assert torch.equal(chosen.keep_mask, alive)


def test_more_multiplier_for_less_budget():
    graph = gdp.trace(Concat(), X)
    sizes = graph.flops.sizes
    group_of = torch.arange(len(sizes)).repeat_interleave(sizes)
    worth, alive = torch.rand(len(group_of)), torch.ones(len(group_of), dtype=torch.bool)
    budgets = [int(f * graph.flops.dense) for f in (0.9, 0.6, 0.3)]
    multipliers = [
        select_channels(
            Ranking.of(worth, group_of, alive, graph.flops), graph.flops, b, WidthConstraints.of(graph)
        ).lagrange_multiplier
        for b in budgets
    ]
    assert 0 < multipliers[0] < multipliers[1] < multipliers[2]


def test_flops_from_counts_equal_fvcore_for_every_combination_of_counts():
    """Integers against fvcore on networks that are built with these widths."""
    graph = gdp.trace(Chain(), X)
    for a, b in itertools.product((1, 3, 8), (1, 5, 12)):
        net = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, a, 3, padding=1), nn.BatchNorm2d(a), nn.ReLU()),
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()),
            nn.Conv2d(b, 5, 1),
        )
        assert graph.flops.count(torch.tensor([a, b])) == gdp.utils.count_flops(net, X)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet", "densenet121", "regnet_x_400mf", "vit_b_16"])
def test_dense_flops_equal_fvcore(name):
    size = 224 if name == "vit_b_16" else 64
    net, x = torchvision.models.get_model(name, weights=None), torch.randn(1, 3, size, size)
    assert gdp.trace(net, x).flops.dense == gdp.utils.count_flops(net, x)


def test_marginal_cost_is_the_derivative():
    flops = gdp.trace(Residual(), X).flops
    opened = flops.sizes - 1
    for g, slope in enumerate(flops.marginal(opened).tolist()):
        step = torch.zeros_like(opened)
        step[g] = 1
        central = (flops.count(opened + step) - flops.count(opened - step)) / 2
        assert slope == pytest.approx(central)


def test_freezing_a_group_makes_it_a_constant():
    graph = gdp.trace(Residual(), X)
    fewer = graph.freeze(["a.0"], "asked for")
    assert [g.name for g in fewer.groups] == ["stem.0", "c.0"] and fewer.frozen[-1] == gdp.graph.Frozen(
        "a.0", 6, "asked for"
    )
    assert fewer.flops.dense == graph.flops.dense
    assert fewer.flops.count(torch.tensor([3, 4])) == graph.flops.count(torch.tensor([3, 6, 4]))


def test_targets_that_can_not_be_are_refused_with_the_lowest_that_can():
    graph = gdp.trace(Chain(), X, ignore=["1.0"])
    with pytest.raises(
        gdp.GDPError, match=r"No channel of this network can be pruned(.|\n)*0\.0 \(8 channels\): ignored by"
    ):
        check_reachable(graph, 0.5)
    graph = gdp.trace(Residual(), X, ignore=["stem.0"])
    least = lowest_flops(graph) / graph.flops.dense
    with pytest.raises(
        gdp.GDPError,
        match=rf"lowest target for this network is {math.ceil(least * 1e4) / 1e4:.4f}(.|\n)*stem\.0 \(8 channels\)",
    ):
        check_reachable(graph, 0.1)
    check_reachable(graph, least + 1e-4)
    for wrong in (0, -1, 1.01, float("nan"), "half"):
        with pytest.raises(gdp.GDPError, match=r"in \(0, 1\]"):
            check_target(wrong)


def test_allowance_falls_from_all_to_the_target():
    values = [allowed_fraction(p / 10, 0.3) for p in range(11)]
    assert values[0] == 1.0 and values[-1] == pytest.approx(0.3)
    assert all(a > b for a, b in itertools.pairwise(values))


def test_neighbours_are_a_few_levels_away():
    place, last = torch.tensor([3, 5]), torch.tensor([8, 6])
    near = neighbours(place, last)
    assert ((near >= 0) & (near <= last)).all()
    assert {(2, 6), (3, 6), (1, 6), (4, 4)} <= {tuple(n) for n in near.tolist()}
    assert (near - place).abs().sum(1).max() == 4
