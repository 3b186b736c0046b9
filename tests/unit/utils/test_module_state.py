"""Passes leave buffers and random generators as they were."""

import copy

import numpy as np
import pytest
import torch
from helpers.small_net import Net, X, prune
from torch import nn

import gdp
from gdp.utils import run_forward


def test_inputs_and_buffers_changed_by_forward_are_put_back():
    def careless(self, x):
        self.count += 1
        y = self.a(x.sub_(0.3).mul_(1.7))
        self.mean.mul_(0.9).add_(y.mean((0, 2, 3)))
        return self.head(y)

    net = Net(careless)
    net.register_buffer("count", torch.zeros((), dtype=torch.long))
    net.register_buffer("mean", torch.zeros(8))
    x, state = X.clone(), copy.deepcopy(net.state_dict())
    prune(net, x, share=0.01)
    assert torch.equal(x, X) and net.count == 0 and torch.equal(net.mean, state["mean"][1:])


def test_a_buffer_that_forward_puts_another_in_place_of_is_put_back():
    def table(self, x):
        y = self.a(x)
        if self.table.shape[-1] != y.shape[-1]:
            self.table = torch.linspace(0.5, 1.5, y.shape[-1])
        return self.head(y * self.table)

    net = Net(table)
    net.register_buffer("table", torch.ones(1))
    buffer = net.table
    graph = gdp.trace(net, X)
    assert net.table is buffer and [g.name for g in graph.groups] == ["a.0"]


def test_the_generator_of_numpy_is_left_alone():
    class Noisy(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * (1 + 0.1 * np.random.rand() if self.training else 1)

    np.random.seed(0)
    gdp.check(nn.Sequential(Noisy(3, 8, 3), nn.Conv2d(8, 4, 1)), X)
    after = np.random.rand()
    np.random.seed(0)
    assert np.random.rand() == after


class CachedBySize(nn.Module):
    """Makes a tensor once for every size; both lie in plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.size, self.grid = None, torch.empty(0)

    def forward(self, x):
        if self.size != x.shape[-1]:
            self.size, self.grid = x.shape[-1], torch.arange(x.shape[-1] - 4.0)
        return self.b(self.a(x).relu()) + self.grid


class CachedByFlag(nn.Module):
    """The cached tensor is not there before the first forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.ready = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), False

    def forward(self, x):
        if not self.ready:
            self.mask, self.ready = torch.full((4, 1, 1), 0.5), True
        return self.b(self.a(x).relu()) * self.mask


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("make", [CachedBySize, CachedByFlag])
def test_a_cache_in_plain_attributes_fits_the_flag_beside_it(make, warm):
    net, x = make(), torch.randn(2, 3, 8, 8)
    if warm:
        run_forward(net, (x,))
    before = dict(vars(net))
    graph = gdp.trace(net, x, dry_run=False)
    assert vars(net) == before
    assert gdp.check(net, x).groups and graph.groups
    expected = net(x)
    gates = gdp.insert_gates(net, graph)
    gates.close("a", [1, 2])
    gdp.remove(net, graph, gates)
    assert net.a.weight.shape[0] == 6 and net(x).shape == expected.shape


def test_a_weight_that_a_hook_computes_has_its_new_size_after_removal():
    net, x = (
        nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        torch.randn(1, 3, 8, 8),
    )
    graph = gdp.trace(net, x)
    gates = gdp.insert_gates(net, graph)
    gates.close("0", [1, 2, 5])
    gdp.remove(net, graph, gates)
    assert net[0].weight.shape == net[0].weight_v.shape == (5, 3, 3, 3)
