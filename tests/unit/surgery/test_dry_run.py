"""The dry run before training: what it finds where outputs show nothing, and in train mode only."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from helpers.networks import conv, randomize
from helpers.small_net import Net, X, prune
from torch import nn

import gdp
from gdp.surgery import freeze_uncuttable_groups


def test_an_example_of_zeros_hides_nothing():
    def reversed_parts(self, x):
        return self.head(torch.cat(self.a(x).split(4, 1)[::-1], 1))

    net = randomize(Net(reversed_parts))
    graph = gdp.trace(net, torch.zeros(1, 3, 12, 12))
    assert "a.0" not in [g.name for g in graph.groups]


def test_weights_of_zero_hide_nothing():
    class DividesByWidth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
            nn.init.zeros_(self.c.weight)

        def forward(self, x):
            x = self.a(x)
            return self.c(torch.relu(self.b(x / x.shape[1])))

    net = DividesByWidth()
    assert [g.name for g in gdp.trace(net, X).groups] == ["b"]
    assert net.c.weight.abs().max() == 0.0


def test_one_channel_left_is_tried_before_training():
    class Squeezes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv(3, 6), conv(6, 5), nn.Linear(5, 4)

        def forward(self, x):
            return self.c(F.adaptive_avg_pool2d(self.b(self.a(x)), 1).squeeze())

    net = Squeezes()
    graph, report = prune(net, X[:1], share=0.99)
    assert [g.name for g in graph.groups] == ["a.0"] and report.max_rel < 1e-5


def test_layers_that_only_train_mode_uses_are_cut_too():
    def either(self, x):
        return self.head((self.c if self.training else self.d)(self.a(x)))

    net = randomize(Net(either, c=conv(8, 8), d=conv(8, 8)))
    prune(net)
    assert net.train()(X).shape == net.eval()(X).shape == (2, 4, 12, 12)


def test_a_literal_in_train_mode_only_is_found():
    def auxiliary(self, x):
        y = self.a(x)
        return (self.head(y), self.head(y.view(y.shape[0], 8, 12, 12))) if self.training else self.head(y)

    net = Net(auxiliary)
    graph = gdp.trace(net, X)
    assert not graph.groups and "in train mode: shape '[4, 8, 12, 12]' is invalid" in graph.reasons()


def test_casts_are_no_obstacle():
    graph, report = prune(Net(lambda self, x: self.head(self.a(x).double().float().to(x.dtype))))
    assert [g.name for g in graph.groups] == ["a.0"] and report.max_rel < 1e-5


def test_a_failing_dry_run_leaves_no_gates():
    class Stubborn(nn.Conv2d):
        def __init_subclass__(cls) -> None:
            raise RuntimeError("not to be subclassed")

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Stubborn(8, 4, 3))
    assert "not to be subclassed" in gdp.trace(net, X).reasons()
    assert not any("gate" in k for k in net.state_dict()) and type(net[2]) is Stubborn


def test_layers_of_train_mode_that_cant_be_exported_are_tried():
    def choosy(self, x):
        y = self.a(x)
        if self.training and float(y.mean()) > -1e9:
            return self.c(y)
        return self.head(self.b2(y))

    net = randomize(Net(choosy, b2=conv(8, 8), c=nn.Conv2d(8, 4, 1)))
    graph, report = prune(net)
    assert [g.name for g in graph.groups] == ["b2.0"] and report.max_rel < 1e-5
    assert "in train mode" in graph.reasons() and net.train()(X).shape == (2, 4, 12, 12)


def test_a_wrong_count_is_found_before_training():
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 3))
    graph = gdp.trace(net, X)
    wrong = replace(graph, flops=replace(graph.flops, coef=graph.flops.coef * 2))
    assert "FLOPs in a cut network where" in freeze_uncuttable_groups(net, wrong).reasons()


def test_a_cumulative_average_of_batch_statistics_is_no_obstacle():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph, report = prune(net)
    assert [g.name for g in graph.groups] == ["0"] and report.max_rel < 1e-5 and net[1].num_batches_tracked == 0
