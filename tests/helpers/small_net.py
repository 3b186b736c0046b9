"""One small network, and its pruning in one call."""

from __future__ import annotations

import torch
from helpers.networks import conv
from torch import nn

import gdp

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
    graph = gdp.trace(net, x)
    gates = gdp.insert_gates(net, graph)
    for group in graph.groups:
        gates.close(group.name, range(max(1, int(share * group.size))))
    return graph, gdp.remove(net, graph, gates)
