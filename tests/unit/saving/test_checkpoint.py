"""The plan that a checkpoint holds names every copy of the network that the training module has."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import gdp
from gdp.lightning.averaging import find_averages
from gdp.saving import gated_state


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))

    def forward(self, x):
        return self.body(self.stem(x).relu())


@pytest.mark.parametrize("is_compiled", [False, True])
def test_the_average_of_a_part_is_in_the_plan(is_compiled):
    holder = nn.Module()
    holder.net = Net()
    if is_compiled:
        holder.net.body = torch.compile(holder.net.body)
    holder.average = AveragedModel(holder.net.body)
    graph = gdp.trace(holder.net, torch.randn(1, 3, 12, 12))
    gates = gdp.insert_gates(holder.net, graph)
    for part, copy in find_averages(holder, "net", holder.net, []):
        gates.track_copy(copy, part)
    gates.close("body.0", [0, 1])
    closed = gated_state(holder, "net", gates, {}, {}).closed
    assert closed is not None
    assert {"net.body.0.weight", "average.module.0.weight"} <= set(closed["keep"])
