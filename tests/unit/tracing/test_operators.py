"""Operators in unusual places: what joins, carries or freezes channels, and what is counted."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import conv, randomize
from helpers.small_net import Net, X, prune
from torch import nn

from gdp.tracing import trace_channels


@pytest.mark.parametrize("dim", [0, 2, "stack"])
def test_what_is_joined_along_another_dimension_goes_together(dim):
    def join(self, x):
        parts = [self.a(x), self.b(x)]
        return self.head(torch.stack(parts, 1).sum(1) if dim == "stack" else torch.cat(parts, dim))

    net = randomize(Net(join))
    graph, report = prune(net, share=0.4)
    assert [(g.name, g.size) for g in graph.groups] == [("a.0", 8)]
    assert {a.tensor for a in graph["a.0"].tensors} >= {"a.0.weight", "b.0.weight"} and report.max_rel < 1e-5


def test_a_weight_read_along_two_dimensions_stays():
    def there_and_back(self, x):
        return self.head(self.up(F.relu(self.down(self.a(x)))))

    net = Net(there_and_back, down=nn.Conv2d(8, 12, 3), up=nn.ConvTranspose2d(12, 8, 3))
    net.up.weight = net.down.weight
    assert "down.weight is read along several dimensions" in trace_channels(net, X).reasons()


def test_blocks_of_other_precision_freeze_what_they_touch():
    def mixed(self, x):
        with torch.autocast("cpu", enabled=False):
            y = self.a(x).float() * 2
        return self.head(self.c(y))

    graph, report = prune(Net(mixed, c=conv(8, 8)))
    assert [g.name for g in graph.groups] == ["c.0"]
    # fvcore counts inside the block, where gdp does not look: a constant
    assert trace_channels(Net(mixed, c=conv(8, 8)), X).flops.dense < graph.flops.dense == report.flops_before
    assert report.flops_predicted == report.flops_after


ODD = [
    lambda: nn.BatchNorm2d(8, track_running_stats=False),
    lambda: nn.BatchNorm2d(8, affine=False),
    lambda: nn.InstanceNorm2d(8, affine=True),
    lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3)),
    lambda: nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(8, 8, 3, 2)),
]


@pytest.mark.parametrize("make", ODD)
def test_flops_of_odd_layers_equal_fvcore(make):
    net = Net(lambda self, x: self.head(self.b2(self.odd(self.a(x)))), odd=make(), b2=conv(8, 8))
    graph, report = prune(net)
    assert graph.flops.dense == report.flops_before and report.flops_after == report.flops_predicted


def test_convs_that_fvcore_does_not_count_cost_nothing():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 9, groups=8, padding="same"), nn.Conv2d(8, 4, 1))
    graph, report = prune(net)
    assert graph.flops.dense == report.flops_before and report.flops_after == report.flops_predicted


def test_a_layer_norm_over_positions_leaves_channels_apart_and_is_counted():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.LayerNorm([12, 12]), nn.ReLU(), nn.Conv2d(16, 4, 1))
    graph, report = prune(net)
    assert [g.name for g in graph.groups] == ["0"] and graph.flops.dense == report.flops_before
    assert report.flops_after == report.flops_predicted


def test_a_class_token_goes_along_with_its_channels():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.token, self.place = (
                nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 10, 8)),
            )  # fmt: skip
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            y = self.patch(x).flatten(2).transpose(1, 2)
            return self.head(torch.relu(torch.cat([self.token.expand(len(y), -1, -1), y], 1) + self.place))

    graph, report = prune(net := Tokens())
    assert [g.name for g in graph.groups] == ["patch"] and report.max_rel < 1e-5
    assert net.token.shape == (1, 1, 4) and net.place.shape == (1, 10, 4)
