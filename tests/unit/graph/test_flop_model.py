"""FLOPs from open counts equal fvcore's count, as integers."""

import itertools

import pytest
import torch
import torchvision
from helpers.networks import Chain, Residual
from torch import nn

import gdp

X = torch.randn(1, 3, 12, 12)


def test_flops_from_counts_equal_fvcore_for_every_combination_of_counts():
    """Integers against fvcore on networks that are built with these widths."""
    graph = gdp.trace(Chain(), X, dry_run=False)
    for a, b in itertools.product((1, 3, 8), (1, 5, 12)):
        net = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, a, 3, padding=1), nn.BatchNorm2d(a), nn.ReLU()),
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()),
            nn.Conv2d(b, 5, 1),
        )
        assert graph.flops.count(torch.tensor([a, b])) == gdp.utils.count_flops(net, X)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet"])
def test_dense_flops_equal_fvcore(name):
    net, x = torchvision.models.get_model(name, weights=None), torch.randn(1, 3, 64, 64)
    assert gdp.trace(net, x, dry_run=False).flops.dense == gdp.utils.count_flops(net, x)


def test_marginal_cost_is_the_derivative():
    flops = gdp.trace(Residual(), X, dry_run=False).flops
    opened = flops.sizes - 1
    for g, slope in enumerate(flops.marginal(opened).tolist()):
        step = torch.zeros_like(opened)
        step[g] = 1
        central = (flops.count(opened + step) - flops.count(opened - step)) / 2
        assert slope == pytest.approx(central)
