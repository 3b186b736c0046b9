"""TODO unit/utils/test_module_state."""

import copy

import numpy as np
import torch
from helpers.networks import conv
from torch import nn

import gdp
from gdp.surgery import freeze_uncuttable_groups

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convs of 8 channels and a head; `body` says what happens in between."""

    def __init__(self, body, channels: int = 8, **layers: nn.Module) -> None:
        super().__init__()
        self.body, self.a, self.b, self.head = body, conv(3, 8), conv(3, 8), nn.Conv2d(channels, 4, 1)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.body(self, x)


def prune(net: nn.Module, x: torch.Tensor = X, share: float = 0.5) -> tuple[gdp.ChannelGraph, gdp.Report]:
    graph = freeze_uncuttable_groups(net, gdp.trace(net, x))
    gates = gdp.insert_gates(net, graph)
    for group in graph.groups:
        gates.close(group.name, range(max(1, int(share * group.size))))
    return graph, gdp.remove(net, graph, gates)


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
