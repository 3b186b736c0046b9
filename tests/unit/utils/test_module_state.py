"""Passes leave buffers and random generators as they were."""

import copy

import numpy as np
import torch
from helpers.small_net import Net, X, prune
from torch import nn

import gdp
from gdp.surgery import freeze_uncuttable_groups


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
    graph = freeze_uncuttable_groups(net, gdp.trace(net, X))
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
