"""What is computed and not used: counted as fvcore counts it, and nothing of it freezes what is used."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import conv, randomize
from helpers.small_net import Net, X, prune
from torch import nn

import gdp
from gdp.tracing.unused_nodes import unused_nodes
from gdp.utils import count_flops, run_forward


def branch() -> nn.Sequential:
    """Three layers, with batch norm and ReLU in place."""
    layers = [nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(5, 2, 1))


def after_reading(self, x, y):
    out = self.head(y)
    y.add_(self.extra(x))  # too late for anyone to see
    return out


def split_in_place(self, x, y):
    z = self.extra(y)
    parts = z.chunk(2, 1)
    z.relu_()
    return self.head(y), len(parts)


def read_as_text(self, x, y):
    z = self.extra(y)
    str(z.shape), z.dim(), len(z), list(z.shape)
    return self.head(y)


BODIES = {
    "a conv": lambda self, x, y: (self.extra(y), self.head(y))[1],
    "an activation in place": lambda self, x, y: (self.extra(y).relu_().mul_(2), self.head(y))[1],
    "a sum over channels": lambda self, x, y: (self.extra(y).sum(1), y.softmax(1), self.head(y))[2],
    "softmax times its input": lambda self, x, y: (self.extra(y * y.softmax(1)), self.head(y))[1],
    "an operator unknown to gdp": lambda self, x, y: (torch.einsum("bchw,bchw->bc", y, y), self.head(y))[1],
    "unknown in place": lambda self, x, y: (self.extra(y).cumprod_(2), self.head(y))[1],
    "written to a view": lambda self, x, y: (self.extra(y).flatten(1).zero_(), self.head(y))[1],
    "a weight's own norm": lambda self, x, y: (torch.linalg.svdvals(self.a[0].weight.flatten(1)), self.head(y))[1],
    "a sum of weights": lambda self, x, y: (self.a[0].weight.sum() + self.b[0].weight.norm(), self.head(y))[1],
    "without gradients": lambda self, x, y: (torch.no_grad()(self.extra)(y), self.head(y))[1],
    "written after the last reading": after_reading,
    "parts in place": split_in_place,
    "sizes in a text": read_as_text,
}

EXTRAS = [lambda: conv(8, 8), lambda: nn.Conv2d(8, 8, 1), lambda: nn.Conv2d(8, 8, 3, 1, 1, groups=2)]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("extra", EXTRAS)
def test_flops_are_those_of_fvcore_and_the_trunk_can_go(body, extra):
    net = randomize(Net(lambda self, x: body(self, self.a(x), self.b(self.a(x))), b=conv(8, 8), extra=extra()))
    dense = count_flops(net, X)
    graph, report = prune(net)
    assert dense == graph.flops.dense == report.flops_before > report.flops_after == report.flops_predicted
    assert {"a.0", "b.0"} <= {g.name for g in graph.groups}, graph.reasons()
    assert report.flops_after == count_flops(net, X) and report.max_rel < 1e-5


def test_a_branch_of_several_layers_follows_and_stays_with_its_reason():
    net = Net(lambda self, x: (self.extra(self.a(x)), self.head(self.a(x)))[1], extra=branch())
    graph, report = prune(net)
    assert [g.name for g in graph.groups] == ["a.0"] and net.extra[0].in_channels == net.a[0].out_channels == 4
    assert [(f.name, f.channels) for f in graph.frozen if f.reason == "its result is not used"] == [
        ("extra.0", 6), ("extra.3", 5), ("extra.5", 2),
    ]  # fmt: skip
    assert report.flops_after == report.flops_predicted == count_flops(net, X)


def test_a_layer_used_for_a_write_that_is_read_is_used():
    def written(self, x):
        y = self.a(x)
        y.view(len(y), -1).add_(self.extra(y).flatten(1))
        return self.head(y)

    program = torch.export.export(Net(written, extra=nn.Conv2d(8, 8, 1)).eval(), (X,), strict=False)
    assert unused_nodes(program.graph) == frozenset()
    graph, report = prune(net := Net(written, extra=nn.Conv2d(8, 8, 1)))
    assert report.flops_before == graph.flops.dense and report.flops_after == count_flops(net, X)


def test_an_untrained_layer_whose_result_is_not_used_freezes_nothing():
    net = Net(lambda self, x: (self.extra(self.a(x)), self.head(self.a(x)))[1], extra=branch().requires_grad_(False))
    assert [(name, size) for name, _, size in gdp.check(net, X).groups] == [("a.0", 8)]


def heads(self, x):
    y = self.a(x)
    aux = self.aux(F.relu(self.extra(y)))
    return (self.head(y), aux) if self.training else self.head(y)


def test_a_head_whose_result_is_used_in_training_alone_is_gated_and_costs_nothing():
    net = randomize(Net(heads, extra=nn.Conv2d(8, 6, 1), aux=nn.Conv2d(6, 2, 1)))
    graph = gdp.trace(net, X)
    assert [g.name for g in graph.groups] == ["a.0", "extra"] and "aux (2 channels): reaches" in graph.reasons()
    gates = gdp.insert_gates(net, graph)
    gates.close_all({"a.0": [0, 3], "extra": [1, 4]})
    expected = run_forward(net, (X,), training=True)
    report = gdp.remove(net, graph, gates)
    assert report.flops_after == report.flops_predicted == count_flops(net, X)
    for found, wanted in zip(run_forward(net, (X,), training=True), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [2, 8])  # of two, every cut leaves one
def test_a_layer_that_fvcore_counts_for_its_sizes_makes_no_number_wrong(channels):
    def sized(self, x):
        y = self.a(x)
        return self.head(F.interpolate(y, self.extra(y).shape[2:])) + self.tail(self.b(x))

    net = Net(sized, channels, extra=nn.Conv2d(channels, 8, 3, padding=1), tail=nn.Conv2d(8, 4, 1))
    net.a = conv(3, channels)
    graph, report = prune(net)
    assert [g.name for g in graph.groups] == ["b.0"] and "a.0" in graph.reasons()
    assert report.flops_before == graph.flops.dense and report.flops_after == report.flops_predicted
    assert report.flops_after == count_flops(net, X) and "fvcore counts" in graph.reasons()


def test_a_layer_whose_result_is_not_used_and_that_cannot_follow_a_cut_is_named():
    net = Net(lambda self, x: (self.a(x).view(2, 8, -1), self.head(self.b(x)))[1])
    report = gdp.check(net, X)
    assert [name for name, *_ in report.groups] == ["b.0"]
    net = Net(lambda self, x: (self.b(x) + self.a(x).view(2, 8, 12, 12), self.head(self.a(x)))[1])
    assert any("view(2, 8, 12, 12)" in f.reason for f in gdp.check(net, X).frozen)
