"""A network that is cut, for tests of what comes after."""

import torch
from helpers.networks import randomize
from torch import nn

import gdp

X = torch.randn(2, 3, 12, 12)


def pruned(net: nn.Module) -> nn.Module:
    net = randomize(net).eval()
    graph = gdp.trace(net, X)
    gates = gdp.insert_gates(net, graph)
    for group in graph.groups:
        gates.close(group.name, range(1, group.size, 2))
    gdp.remove(net, graph, gates)
    return net
